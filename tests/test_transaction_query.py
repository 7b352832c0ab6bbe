"""Transactions are found by what they are; a filter that means nothing is refused, and pages leave nothing out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pasys.errors import InvalidInput, TransactionNotFound, UnknownAsset
from pasys.money import parse
from pasys.service import account, transaction, transaction_query
from pasys.service.transaction import Draft
from tests.psp_answers import capture, decline
from tests.support import open_accounts, pay


@pytest.fixture
async def known(db) -> dict[str, str]:
    """One transaction of every kind, by a name for it."""
    async with db.unit() as unit:
        await open_accounts(unit, assets=["USD", "JPY"])
        first = Draft(amount=parse("100.00", "USD"), credit="alice", batch_id="imp_1")
        yen = Draft(amount=parse("100", "JPY"), credit="alice")
        made = await transaction.create_many(unit, [first, yen], partial=False)
    found = {"deposit": made[0].transaction_id or "", "yen": made[1].transaction_id or ""}
    async with db.unit() as unit:
        moved = Draft(amount=parse("1.00", "USD"), debit="alice", credit="bob")
        found["transfer"] = (await transaction.create(unit, moved)).transaction_id or ""
    found["pending"] = await pay(db, "10.00")
    found["succeeded"] = await pay(db, "20.00")
    found["failed"] = await pay(db, "30.00")
    await capture(db, found["succeeded"])
    await decline(db, found["failed"])
    return found


FILTERS: list[tuple[dict[str, Any], set[str]]] = [
    ({}, {"deposit", "yen", "transfer", "pending", "succeeded", "failed"}),
    ({"status": "pending"}, {"pending"}),
    ({"status": "failed"}, {"failed"}),
    ({"status": "fraud"}, set()),
    ({"kind": "deposit"}, {"deposit", "yen"}),
    ({"kind": "payment", "status": "succeeded"}, {"succeeded"}),
    ({"rail": "instant"}, {"pending", "succeeded", "failed"}),
    ({"rail": "book", "asset": "JPY"}, {"yen"}),
    ({"account": "bob"}, {"transfer"}),
    ({"account": "nobody"}, set()),
    ({"account": "shop"}, {"pending", "succeeded", "failed"}),
    ({"account": "alice"}, {"deposit", "yen", "transfer", "pending", "succeeded", "failed"}),
    ({"account": "alice", "status": "succeeded", "asset": "USD"}, {"deposit", "transfer", "succeeded"}),
    ({"account": "alice", "asset": "JPY"}, {"yen"}),
    ({"batch": "imp_1"}, {"deposit"}),
    ({"outcome": "unknown"}, set()),
    ({"review": True}, set()),
    ({"review": False, "kind": "transfer"}, {"transfer"}),
]


async def test_every_filter_narrows(db, known):
    """Each filter, and several together, answer with exactly the transactions that they describe, newest first."""
    for asked, names in FILTERS:
        async with db.unit() as unit:
            rows = await transaction_query.listing(unit, **asked)
        assert [row.id for row in rows] == sorted((known[name] for name in names), reverse=True), asked


async def test_an_account_is_found_by_its_id(db, known):
    """acc_ ids filter like names, in their own asset only."""
    async with db.unit() as unit:
        alice = await account.find(unit, "alice", "JPY")
        rows = await transaction_query.listing(unit, account=alice.id)
    assert [row.id for row in rows] == [known["yen"]]


async def test_time_bounds_hold(db, known):
    """`since` includes its moment, `until` does not."""
    now = datetime.now(UTC)
    async with db.unit() as unit:
        at = (await transaction_query.get(unit, known["pending"])).created_at
        assert len(await transaction_query.listing(unit, since=now - timedelta(hours=1))) == 6
        assert await transaction_query.listing(unit, since=now + timedelta(hours=1)) == []
        assert await transaction_query.listing(unit, until=now - timedelta(hours=1)) == []
        since = {row.id for row in await transaction_query.listing(unit, since=at)}
        until = {row.id for row in await transaction_query.listing(unit, until=at)}
    assert known["pending"] in since and not since & until and len(since | until) == 6


async def test_what_means_nothing_is_refused(db):
    """An unknown word is refused by the field's name, never dropped and never read as something else."""
    words = {"status": ["BANANA", "", "PENDING"], "kind": ["refund"], "outcome": ["fine"], "limit": [0, -1, 10_001]}
    for field, values in words.items():
        for value in values:
            async with db.unit() as unit:
                with pytest.raises(InvalidInput) as refused:
                    await transaction_query.listing(unit, **{field: value})
            assert refused.value.facts["field"] == field


async def test_an_unknown_asset_is_refused(db):
    """As a filter, too."""
    async with db.unit() as unit:
        with pytest.raises(UnknownAsset):
            await transaction_query.listing(unit, asset="usd")


@pytest.mark.parametrize("account", [None, "alice"])
async def test_pages_are_whole(db, known, account):
    """Page by page everything comes once, also while new transactions are made; of one account on either side, too."""
    seen: list[str] = []
    while True:
        async with db.unit() as unit:
            page = await transaction_query.listing(unit, limit=2, account=account, after=seen[-1] if seen else None)
        if not page:
            break
        seen += [row.id for row in page]
        await pay(db, "1.00")
    assert seen == sorted(known.values(), reverse=True)


async def test_a_row_says_all(db, known):
    """What was captured, what it cost, its references, and every step at the PSP."""
    async with db.unit() as unit:
        row = await transaction_query.get(unit, known["succeeded"])
        steps = await transaction_query.attempts(unit, known["succeeded"])
    assert (row.captured_minor, row.fee_minor, row.refunded_minor) == (2_000, 320, 0)
    assert (row.psp_reference, row.charge_reference) == ("pi_1", "ch_1")
    assert [(step.step, step.outcome, step.latency_ms) for step in steps] == [
        ("authorise", "succeeded", 12),
        ("capture", "succeeded", 34),
    ]
    async with db.unit() as unit:
        declined = await transaction_query.attempts(unit, known["failed"])
    assert [(step.step, step.outcome) for step in declined] == [("authorise", "declined"), ("capture", "skipped")]


async def test_what_is_not_there_is_not_found(db):
    """One transaction that does not exist is an error; its history and attempts are empty."""
    async with db.unit() as unit:
        with pytest.raises(TransactionNotFound):
            await transaction_query.get(unit, "tx_nothing")
        assert await transaction_query.history(unit, "tx_nothing") == []
