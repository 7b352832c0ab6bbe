"""Every transfer is sealed by a hash over its fields and the hash before it, and the seal can be found again in SQL."""

from __future__ import annotations

from datetime import timedelta
from hashlib import sha256

import numpy as np
import pytest

from pasys.db import Database
from pasys.domain import ledger_chain
from pasys.domain.ledger import Kind, Purpose, Result
from pasys.service import account, ledger
from pasys.service.ledger_poster import Poster
from tests.ledger_batches import Batches
from tests.ledger_kit import T0, direct, people, unsealed


@pytest.mark.parametrize("seed", range(3))
async def test_the_chain_is_the_same_in_sql(db: Database, seed: int) -> None:
    """What the client sealed, the database derives again from the rows alone: every kind of row, refusals too."""
    async with db.unit(now=T0) as unit:
        source = await account.system(unit, "external:deposits", "USD")
        numbers = [source, *await people(unit, *[f"user_{i}" for i in range(5)])]
    batches = Batches(seed, numbers)
    for second in range(6):
        now = T0 + timedelta(seconds=second)
        async with db.unit(now=now) as unit:
            await ledger.post(unit, batches.batch(40, now), refuse=False)
    async with db.unit() as unit:
        assert await unit.value("select last_seq from asset where code = 'USD'") > 100
        assert await unsealed(unit, "USD") == []


async def test_a_later_row_is_never_recorded_earlier(db: Database) -> None:
    """A unit whose clock is behind records at the time of the row before it; so seq and time agree."""
    for second in (5, 1, 9):
        async with db.unit(now=T0 + timedelta(seconds=second)) as unit:
            await people(unit, f"user_{second}", funds=100)
    async with db.unit() as unit:
        rows = await ledger.transfers(unit, asset="USD")
        assert [(row.recorded_at - T0).seconds for row in rows] == [5, 5, 9]


async def test_a_transfer_is_judged_by_the_time_that_it_is_recorded_at(db: Database) -> None:
    """A clock that is behind brings no expired hold back: who reads the journal comes to the same answer."""
    async with db.unit(now=T0) as unit:
        alice, bob = await people(unit, "alice", "bob", funds=100)
        held = direct(alice, bob, 10, kind=Kind.PENDING, purpose=Purpose.HOLD, expires_at=T0 + timedelta(seconds=10))
        await ledger.post(unit, [held])
    async with db.unit(now=T0 + timedelta(seconds=20)) as unit:
        await ledger.post(unit, [direct(alice, bob, 1)])
    end = direct(alice, bob, 10, kind=Kind.POST, purpose=Purpose.PAYMENT, pending_id=held.id)
    async with db.unit(now=T0) as unit:
        (answer,) = await ledger.post(unit, [end], refuse=False)
        assert answer.result is Result.HOLD_EXPIRED
    async with Poster(db, now=lambda: T0) as poster:
        assert (await poster.post(direct(alice, bob, 1))).accepted
        again = direct(alice, bob, 10, kind=Kind.POST, purpose=Purpose.PAYMENT, pending_id=held.id)
        assert (await poster.post(again)).result is Result.HOLD_EXPIRED
    async with db.unit() as unit:
        rows = await ledger.transfers(unit, asset="USD")
        assert [(row.recorded_at - T0).seconds for row in rows] == [0, 0, 0, 20, 20, 20, 20]


def test_the_format_is_fixed() -> None:
    """Others check proofs against this format: the layout of a row and the first hash of an asset never change."""
    assert ledger_chain.ROW.itemsize == 146
    assert ledger_chain.genesis("USD").hex() == "9872e4f9bf112acab1a4bf3f36723ae61f1ac49a83b4364829c79be5ff0fd6e5"
    made = np.zeros(1, ledger_chain.ROW)
    made["seq"], made["debit"], made["credit"], made["amount"] = 1, 2, 3, 4
    seals, last = ledger_chain.chain(ledger_chain.genesis("USD"), made, ["tx_1"])
    by_hand = sha256(ledger_chain.genesis("USD") + made.tobytes() + b"tx_1").digest()
    assert made["reference_size"].tolist() == [4]
    assert last == by_hand and seals.tolist() == [int.from_bytes(by_hand[:8], "big", signed=True)]


def test_each_hash_covers_the_one_before_it() -> None:
    """In a batch without a reference, and in one with some: the hash of a row is over the row before it, too."""
    same, odd = ["tx_1", "tx_2", "tx_3"], ["tx_1", "", "tx_34"]
    for references in (None, [None, "tx_1", None], same, odd, ["", "", ""], ["ü", "a", "bc"], ["ü", "é", "ab"]):
        made = np.zeros(3, ledger_chain.ROW)
        made["seq"] = [1, 2, 3]
        _, last = ledger_chain.chain(ledger_chain.genesis("USD"), made, references)
        by_hand = ledger_chain.genesis("USD")
        for row, text in zip(made, references or [None] * 3, strict=True):
            by_hand = sha256(by_hand + row.tobytes() + (text or "").encode()).digest()
        assert last == by_hand


def test_texts_of_another_length_than_the_rows_say_are_another_hash() -> None:
    """A file may say anything: rows of equal sizes whose texts are too short have a hash, which does not fit."""
    made = np.zeros(3, ledger_chain.ROW)
    made["reference_size"] = 2
    right = ledger_chain.follow(bytes(32), made, b"aabbcc")
    for texts in (b"aabbc", b"aabb", b"a"):
        assert len(found := ledger_chain.follow(bytes(32), made, texts)) == 3 * 32
        assert found[-32:] != right[-32:]


def test_purposes_keep_their_numbers() -> None:
    """What is in the journal for ever is never renumbered, and what finishes is exactly the legs of begun things."""
    assert {p.name.lower(): int(p) for p in Purpose if p.finishing} == {
        "payment": 2, "fee": 3, "income": 4, "late_capture": 5, "refund_reserve": 10, "refund_complete": 11,
        "refund_release": 12, "refund_return": 13, "payout": 30, "correction": 31}  # fmt: skip
    assert {p.name.lower(): int(p) for p in Purpose if not p.finishing} == {
        "hold": 1, "deposit": 20, "withdrawal": 21, "book": 22, "reversal": 23}  # fmt: skip
