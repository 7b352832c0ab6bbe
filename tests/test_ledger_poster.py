"""A Poster answers as one transfer after the other would, whoever else posts, and whatever it remembers."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import psycopg
import pytest
from msgspec.structs import replace

from pasys.db import Database
from pasys.domain.ledger import Kind, Posted, Purpose, Result, Transfer
from pasys.domain.ledger_columns import Columns
from pasys.errors import DatabaseUnavailable, InvalidInput
from pasys.service import account, ledger, ledger_books, ledger_memory, ledger_poster
from pasys.service.ledger_poster import Poster
from tests.ledger_batches import Batches, one_by_one
from tests.ledger_kit import (
    WITHIN_S,
    agree,
    direct,
    held_up,
    let_rows_lag,
    people,
    until_judged,
    until_waiting,
    world,
)
from tests.support import owning


def plain(transfer: Transfer) -> Transfer:
    none = dict.fromkeys(("pending_id", "corrects", "expires_at", "reference"))
    return replace(transfer, kind=Kind.DIRECT, linked=False, **none)  # type: ignore[arg-type]


@pytest.mark.parametrize(("lag_from", "lag_max", "copy_from"), [(1, 99_999, 1), (1, 64, 1_000), (1_000, 64, 1)])
@pytest.mark.parametrize("seed", range(3))
async def test_a_poster_equals_the_model(
    db: Database, seed: int, lag_from: int, lag_max: int, copy_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches by memory answer like the oracle's, rows lagging or not, copied or not; others read exact balances."""
    monkeypatch.setattr(ledger_memory, "LAG_FROM", lag_from)
    monkeypatch.setattr(ledger_memory, "LAG_MAX", lag_max)
    monkeypatch.setattr(ledger_books, "COPY_FROM", copy_from)
    monkeypatch.setattr(ledger_poster, "IDLE_S", 60.0)  # so that rows that lag are seen to
    oracle, numbers = await world(db)
    batches = Batches(seed, numbers)
    async with Poster(db) as poster:
        for _ in range(12):
            now = datetime.now(UTC)
            batch = batches.batch(batches.random.randint(1, 60), now)
            if batches.random.random() < 0.4:  # what COPY takes: direct transfers without more
                batch = [plain(transfer) for transfer in batch]
            answers = await poster.post_many(Columns.of(batch))
            got = one_by_one(answers)
            assert got == [(int(r), again, seq) for r, again, seq in oracle.post(batch, now)]
            await agree(db, oracle)
    await agree(db, oracle)
    async with db.unit() as unit:
        assert await unit.value("select last_seq = projected_seq from asset where code = 'USD'")


async def test_rows_are_swept_in_portions(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sweep over the account rows after the other, a row with each batch: balances are exact after every batch."""
    let_rows_lag(monkeypatch)
    oracle, numbers = await world(db)
    draw, now = random.Random(5), datetime.now(UTC)
    async with Poster(db) as poster:
        for _ in range(30):
            batch = [direct(*draw.sample(numbers, 2), draw.randint(1, 9)) for _ in range(8)]
            answers = one_by_one(await poster.post_many(Columns.of(batch)))
            assert answers == [(int(r), again, seq) for r, again, seq in oracle.post(batch, now)]
            await agree(db, oracle)


async def test_two_posters_and_units_at_once(db: Database) -> None:
    """Two posters and units post to the same accounts at once; the oracle, in commit order, gives the same answers."""
    oracle, numbers = await world(db, users=20)

    def some(batches: Batches, most: int) -> list[Transfer]:
        batch = batches.batch(batches.random.randint(1, most), datetime.now(UTC))
        return [replace(transfer, linked=False, expires_at=None) for transfer in batch]

    async def by_poster(poster: Poster, seed: int) -> None:
        batches = Batches(seed, numbers[1:])
        for _ in range(15):
            await poster.post_many(Columns.of(some(batches, 40)))

    async def by_unit(seed: int) -> None:
        batches = Batches(seed, numbers[1:])
        for _ in range(15):
            async with db.unit() as unit:
                await ledger.post(unit, some(batches, 5), refuse=False)

    async with db.unit() as unit:
        await ledger.post(unit, [direct(numbers[0], n, 100, purpose=Purpose.DEPOSIT) for n in numbers[1:]])
    async with Poster(db) as one, Poster(db) as other:
        await asyncio.gather(by_poster(one, 1), by_poster(other, 2), by_poster(one, 3), by_unit(4), by_unit(5))
    async with db.unit() as unit:
        rows = await ledger.transfers(unit, asset="USD", limit=10_000)
    for row in rows:
        asked = Transfer(
            id=row.id,
            debit=row.debit,
            credit=row.credit,
            amount_minor=row.amount.minor,
            asset="USD",
            purpose=row.purpose,
            kind=row.kind,
            pending_id=row.pending_id,
            reference=row.reference,
        )
        assert oracle.post([asked], row.recorded_at) == [(row.result, False, row.seq)]
    assert len({row.result for row in rows}) > 5
    await agree(db, oracle)


async def test_a_replay_is_answered_with_the_first_result(db: Database) -> None:
    """Ids that the journal has are replays or conflicts, in the same group, later, and after a restart."""
    async with db.unit() as unit:
        alice, bob = await people(unit, "alice", "bob", funds=100)
    transfer = direct(alice, bob, 60, reference="tx_1")
    async with Poster(db) as poster:
        answers = await asyncio.gather(*[poster.post(transfer) for _ in range(5)])
        assert {a.seq for a in answers} == {3}
        assert sorted(a.replayed for a in answers) == [False, True, True, True, True]
        again = await asyncio.gather(poster.post(transfer), poster.post(direct(bob, alice, 1)))
        assert again[0] == Posted(Result.ACCEPTED, True, 3) and again[1].seq == 4
    async with Poster(db) as poster:
        await poster.post(direct(bob, alice, 1))
        assert await poster.post(transfer) == Posted(Result.ACCEPTED, True, 3)
        other = await poster.post(replace(transfer, amount_minor=61))
        assert other.result is Result.ID_CONFLICT and other.seq == 0
        assert (await poster.post(direct(bob, alice, 1))).seq == 6


async def test_an_id_that_another_asset_takes_is_one_callers_conflict(db: Database) -> None:
    """While a unit is about to record an id in another asset, callers of a poster wait; then one of them has a conflict
    and the others their money."""
    async with db.unit() as unit:
        alice, bob = await people(unit, "alice", "bob", funds=100)
        kenji, yuki = await people(unit, "kenji", "yuki", asset="JPY", funds=100)
    first = direct(kenji, yuki, 1, asset="JPY")
    asked = [direct(alice, bob, 1), direct(alice, bob, 1, id=first.id), direct(alice, bob, 1)]
    async with Poster(db) as poster:
        async with db.unit() as unit:
            await ledger.post(unit, [first])
            waiting = asyncio.gather(*[poster.post(transfer) for transfer in asked])
            await until_waiting(unit)
        answers = await waiting
    assert [answer.result for answer in answers] == [Result.ACCEPTED, Result.ID_CONFLICT, Result.ACCEPTED]
    assert [answer.seq for answer in answers] == [3, 0, 4]


async def test_an_account_of_another_asset_stays_one(db: Database) -> None:
    """However often a poster has met it: it takes nothing in this asset, and its own poster has it at once."""
    async with db.unit() as unit:
        alice, bob = await people(unit, "alice", "bob", funds=100)
        (eve,) = await people(unit, "eve", funds=100, asset="EUR")
    async with Poster(db) as poster:
        for _ in range(3):
            assert (await poster.post(direct(alice, eve, 1))).result is Result.WRONG_ASSET
            assert (await poster.post(direct(eve, bob, 1))).result is Result.WRONG_ASSET
            assert (await poster.post(direct(alice, bob, 1))).accepted
    async with db.unit() as unit:
        assert (await account.balance(unit, "eve"))[0].posted.minor == 100
        assert (await ledger.verify(unit)).ok


async def test_a_frozen_account_is_noticed(db: Database) -> None:
    """What a poster remembers does not outlive a change of the account's status or limits."""
    async with db.unit() as unit:
        alice, bob = await people(unit, "alice", "bob", funds=100)
    async with Poster(db) as poster:
        assert (await poster.post(direct(alice, bob, 1))).accepted
        assert (await poster.post(direct(alice, bob, 1))).accepted
        async with db.unit() as unit:
            await account.freeze(unit, "alice")
        assert (await poster.post(direct(alice, bob, 1))).result is Result.ACCOUNT_FROZEN
        async with db.unit() as unit:
            await account.unfreeze(unit, "alice")
        assert (await poster.post(direct(alice, bob, 1))).accepted


async def test_lagging_rows_are_caught_up_by_whoever_needs_them(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """While account rows lag, balances are exact, a Unit that posts sees them, and limits hold."""
    monkeypatch.setattr(ledger_memory, "LAG_FROM", 1)
    monkeypatch.setattr(ledger_poster, "IDLE_S", 60.0)
    async with db.unit() as unit:
        alice, bob = await people(unit, "alice", "bob", funds=100)
    async with Poster(db) as poster:
        for done in (1, 2, 3):
            await poster.post_many(Columns.of([direct(alice, bob, 30)]))
            async with db.unit() as unit:  # now the row of the one lags, now that of the other
                alone = [(await ledger.balances(unit, [one]))[one].posted.minor for one in (alice, bob)]
                assert alone == [100 - 30 * done, 100 + 30 * done]
        async with db.unit() as unit:
            assert await unit.value("select last_seq - projected_seq from asset where code = 'USD'") == 2
            (answer,) = await ledger.post(unit, [direct(alice, bob, 11)], refuse=False)
            assert answer.result is Result.EXCEEDS_CREDITS
            assert (
                await unit.value("select credits_posted - debits_posted from account where id = %(id)s", id=alice) == 10
            )
        assert (await poster.post(direct(alice, bob, 11))).result is Result.EXCEEDS_CREDITS
        assert (await poster.post(direct(alice, bob, 10))).accepted


async def test_holds_by_memory(db: Database) -> None:
    """A hold that a poster began, or met, is posted once, in part, voided once, and expires."""
    async with db.unit() as unit:
        alice, bob = await people(unit, "alice", "bob", funds=100)

    def hold(**more: object) -> Transfer:
        return direct(alice, bob, 50, kind=Kind.PENDING, purpose=Purpose.HOLD, **more)

    def end(of: Transfer, kind: Kind, amount: int = 50) -> Transfer:
        return direct(alice, bob, amount, kind=kind, purpose=Purpose.PAYMENT, pending_id=of.id)

    async with Poster(db) as poster:
        first, second = hold(), hold(expires_at=datetime.now(UTC) - timedelta(seconds=1))
        assert [(await poster.post(t)).accepted for t in (first, second)] == [True, True]
        assert (await poster.post(hold())).result is Result.EXCEEDS_CREDITS
        assert (await poster.post(end(first, Kind.POST, 20))).accepted
        assert (await poster.post(end(first, Kind.POST, 20))).result is Result.HOLD_RESOLVED
        assert (await poster.post(end(second, Kind.POST))).result is Result.HOLD_EXPIRED
        assert (await poster.post(end(second, Kind.VOID))).accepted
        third = hold()
        assert (await poster.post(third)).accepted
    async with Poster(db) as poster:
        await poster.post(direct(bob, alice, 1))
        assert (await poster.post(end(third, Kind.VOID))).accepted
        assert (await poster.post(end(third, Kind.POST))).result is Result.HOLD_RESOLVED
    async with db.unit() as unit:
        assert (await ledger.verify(unit)).ok
        assert (await ledger.balances(unit, [alice]))[alice].available.minor == 81


async def test_a_hold_is_known_on_its_way(db: Database) -> None:
    """What is judged while the commit before it is on its way knows the hold that begins there, and the one that ends
    there, as if it were done."""
    async with db.unit() as unit:
        alice, bob = await people(unit, "alice", "bob", funds=100)
    hold = direct(alice, bob, 50, kind=Kind.PENDING, purpose=Purpose.HOLD)
    part, *too_much = (
        direct(alice, bob, amount, kind=Kind.POST, purpose=Purpose.PAYMENT, pending_id=hold.id)
        for amount in (20, 60, 60)
    )
    answers = []
    async with asyncio.timeout(WITHIN_S), Poster(db) as poster:
        for _ in range(2):
            await poster.post(direct(alice, bob, 1))
        for first, behind in zip((hold, part), too_much, strict=True):
            async with held_up(db) as unit:
                begun = asyncio.create_task(poster.post(first))
                await until_waiting(unit)
                following = asyncio.create_task(poster.post(behind))
                await until_judged(poster, 6 + len(answers))
            answers += [await begun, await following]
    assert [(answer.result, answer.seq) for answer in answers] == [
        (Result.ACCEPTED, 5),
        (Result.EXCEEDS_HOLD, 6),
        (Result.ACCEPTED, 7),
        (Result.HOLD_RESOLVED, 8),
    ]


async def test_a_batch_that_is_not_even_sent_keeps_nobody_waiting(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the server cannot be reached the caller is told, and whoever comes when it can be reached is served."""

    async def refused(*_: Any) -> Any:
        raise psycopg.OperationalError("connection refused")

    async with db.unit() as unit:
        alice, bob = await people(unit, "alice", "bob", funds=100)
    async with asyncio.timeout(WITHIN_S), Poster(db) as poster:
        assert (await poster.post(direct(alice, bob, 1))).accepted
        writer = poster._lanes["USD"]._writer
        assert writer is not None
        await writer.close()
        with monkeypatch.context() as patch, pytest.raises(DatabaseUnavailable):
            patch.setattr(ledger_poster, "_connect", refused)
            await poster.post(direct(alice, bob, 1))
        assert (await poster.post(direct(alice, bob, 1))).accepted


async def test_partitions_follow_the_journal(db: Database) -> None:
    """A batch may span partitions, however small they are, and the next ones are made as they are needed."""
    async with db.unit() as unit:
        await unit.rows("select set_config('pasys.partition_rows', '50', false)")
        alice, bob = await people(unit, "kenji", "yuki", asset="JPY", funds=1_000)
        batch = [direct(alice, bob, 1, asset="JPY") for _ in range(230)]
        assert (await ledger.post(unit, batch))[-1].seq == 232
    async with db.unit() as unit:
        leaves = "select count(*) from pg_inherits where inhparent = 'transfer'::regclass"
        assert await unit.value(leaves) == 5
        quiet = "reloptions @> '{autovacuum_vacuum_insert_threshold=-1,autovacuum_analyze_scale_factor=1}'"
        leaf = "oid in (select inhrelid from pg_inherits where inhparent = 'transfer'::regclass)"
        of_ids = "oid = 'transfer_key'::regclass"
        assert await unit.value(f"select count(*) from pg_class where {quiet} and ({leaf} or {of_ids})") == 6, (
            "the server does not go through them again while they are written"
        )
        assert len(await ledger.transfers(unit, asset="JPY", limit=500)) == 232
        assert (await ledger.verify(unit)).ok


async def test_bad_input_is_refused(db: Database) -> None:
    """A batch that is too large, and an asset without accounts, are said so; nothing at all is nothing."""
    async with db.unit() as unit:
        alice, bob = await people(unit, "alice", "bob", funds=100)
    async with Poster(db) as poster:
        nothing = Columns.of([direct(alice, bob, 1)]).where(np.array([False]))
        assert len((await poster.post_many(nothing)).result) == 0
        with pytest.raises(InvalidInput, match="at most"):
            await poster.post_many(Columns.of([direct(alice, bob, 1)] * (ledger.BATCH_MAX + 1)))
        with pytest.raises(InvalidInput, match="XAU has no accounts"):
            await poster.post(direct(alice, bob, 1, asset="XAU"))
        assert (await poster.post(direct(alice, bob, 1))).accepted


async def test_a_broken_batch_is_its_callers_own(db: Database) -> None:
    """Columns that do not belong together are an error for who handed them over, and for nobody after him."""
    async with db.unit() as unit:
        alice, bob = await people(unit, "alice", "bob", funds=100)
    async with Poster(db) as poster:
        good = Columns.of([direct(alice, bob, 1), direct(alice, bob, 2)])
        with pytest.raises(IndexError):
            await poster.post_many(dataclasses.replace(good, purpose=good.purpose[:1], amount=good.amount[:1]))
        assert (await poster.post(direct(alice, bob, 1))).accepted


async def test_a_lost_connection_is_an_error_and_not_an_answer(db: Database) -> None:
    """Whoever waits when the server goes away is told so; the same id asked again gets the truth."""
    async with db.unit() as unit:
        alice, bob = await people(unit, "alice", "bob", funds=100)
    async with Poster(db) as poster:
        assert (await poster.post(direct(alice, bob, 1))).accepted
        async with owning(db) as unit:
            await unit.rows(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'pasys poster'"
                " and datname = current_database()"
            )
        transfer = direct(alice, bob, 2)
        with pytest.raises(DatabaseUnavailable):
            await poster.post(transfer)
        answer = await poster.post(transfer)
        assert answer.accepted and not answer.replayed and answer.seq == 4
