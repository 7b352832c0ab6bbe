"""What a batch of drafts asks for before anything is written: keys, and accounts."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import product
from typing import Any

import pytest

from pasys.db import Database, Unit
from pasys.domain.transaction import Kind
from pasys.errors import InvalidInput, Rejected
from pasys.money import Money
from pasys.service import account, idempotency, transaction, transaction_draft
from pasys.service.transaction import Draft, Drafts, Party, Turn
from pasys.service.transaction_draft import all_sides, sides


def test_what_a_key_stands_for_is_written_in_stone() -> None:
    """The hash of a body is kept for ever: with another one, a request that is sent again would be a conflict."""
    plain = Draft(Money(125, "USD"), credit="ada", key="k")
    then = datetime(2026, 3, 1, tzinfo=UTC)
    full = Draft(Money(7, "JPY"), "stripe", Kind.PAYMENT, "ada", "shop", "pm", then, {"b": "ü", "a": "1"}, "l", "imp_1")
    assert [hash.hex() for hash in transaction_draft.Drafts.of([plain, full]).fingerprints([1, 0])] == [
        "a869fd6867f295a675ff99b864a8c983ec846a1ae51f2360a68cbbca05df698b",
        "6c32159d15c32ffb9f0bdd414b05503ef8bcdde0b727a4ca829b6f787ba32a3b",
    ]


async def test_an_account_is_asked_for_once(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches that one caller creates remember the accounts that they have met, as long as those are not too many; who
    was not there is looked for again."""
    asked: list[list[str]] = []
    rows = Unit.rows

    async def counted(unit: Unit, sql: str, **values: Any) -> list[Any]:
        if sql == transaction_draft.SQL["accounts"]:
            asked.append(sorted(values["names"]))
        return await rows(unit, sql, **values)

    async def create(*drafts: Draft, turn: Turn) -> list[str | None]:
        async with db.unit() as unit:
            made = await transaction.create_many(unit, drafts, partial=True, turn=turn)
        turn.committed.set()
        return [one.refusal and one.refusal.code for one in made]

    monkeypatch.setattr(transaction, "BOOK_FROM", 1)
    monkeypatch.setattr(Unit, "rows", counted)
    async with db.unit() as unit:
        await account.open(unit, name="ada", type="customer", asset="USD")
    met: dict[Any, Any] = {}
    first, one = Turn(met=met), Money(1, "USD")
    batch = [Draft(one, credit="ada"), Draft(one, credit="ben")]
    assert await create(*batch, turn=first) == [None, "account_not_found"]
    async with db.unit() as unit:
        await account.open(unit, name="ben", type="customer", asset="USD")
    assert await create(*batch, turn=(second := Turn(first, met))) == [None, None]
    assert await create(*batch, turn=(third := Turn(second, met))) == [None, None]
    assert asked == [["ada", "ben"], ["ben"]]
    monkeypatch.setattr(transaction_draft, "MET_MAX", 1)
    assert await create(*batch, turn=Turn(third, met)) == [None, None]
    assert asked == [["ada", "ben"], ["ben"], ["ada", "ben"]]


@pytest.mark.parametrize("rail", ["book", "stripe"])
def test_a_batch_is_laid_out_as_each_draft_is(rail: str) -> None:
    """Whatever one draft alone is refused for, a batch is not laid out by columns; else columns say the same."""
    found = {
        (name, "USD"): Party(number, name, "USD", kind)
        for number, (name, kind) in enumerate([("ada", "customer"), ("ben", "customer"), ("shop", "merchant")], 1)
    }
    found |= {("acc_ada", "USD"): found["ada", "USD"], ("acc_other", "USD"): Party(9, "ada", "JPY", "customer")}
    names = ["ada", "ben", "shop", "acc_ada", "acc_other", "nobody", None]
    seen: set[bool] = set()
    for debit, credit, kind, minor in product(names, names, [None, *Kind], [1, 0]):
        draft = Draft(Money(minor, "USD"), rail, kind, debit, credit)
        columns = all_sides(Drafts.of([draft]), found)
        try:
            found_kind, payer, payee = sides(draft, found)
        except Rejected:
            assert columns is None, draft
        else:
            assert columns == ([found_kind], [payer.id if payer else 0], [payee.id if payee else 0]), draft
        seen.add(columns is None)
    assert seen == {True, False}


@pytest.mark.parametrize("key", ["", " ", "\t\n", "k\0", "k" * 1_001, "ü" * 501, "k", " k ", "ü" * 250, "€" * 250])
def test_no_key_is_sound_that_is_none(key: str) -> None:
    """What all of a batch are asked at once is no more than what each is asked."""
    try:
        idempotency.check(key)
    except InvalidInput:
        assert not idempotency.are_sound(["fine", key])
    else:
        assert idempotency.are_sound(["fine", key])
