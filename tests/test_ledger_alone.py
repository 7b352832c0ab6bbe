"""A caller who comes alone with a direct transfer is answered in plain integers, and nobody can tell."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from pasys.db import Database
from pasys.domain.ledger import Kind, Posted, Purpose, Result
from pasys.domain.ledger_columns import Columns
from pasys.errors import DatabaseUnavailable
from pasys.service import account, ledger, ledger_books, ledger_memory
from pasys.service.ledger_books import Writing
from pasys.service.ledger_poster import Poster
from tests.ledger_batches import Batches
from tests.ledger_kit import T0, agree, direct, hold_together, let_rows_lag, people, world
from tests.support import owning


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Writing]]:
    """What has been written in plain integers."""
    found: list[Writing] = []
    prepare = ledger_books.prepare_one

    def noted(*asked: Any) -> Writing:
        found.append(prepare(*asked))
        return found[-1]

    monkeypatch.setattr(ledger_books, "prepare_one", noted)
    return found


@pytest.mark.parametrize("lags", [False, True])
@pytest.mark.parametrize("seed", range(3))
async def test_callers_who_come_alone_are_answered_as_the_model_says(
    db: Database, alone: list[Writing], seed: int, lags: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transfers of every kind, right and wrong, one after the other; between batches that leave rows behind or not."""
    if lags:
        let_rows_lag(monkeypatch)
    oracle, numbers = await world(db)
    batches = Batches(seed, numbers)
    async with Poster(db) as poster:
        for _ in range(6):
            now = datetime.now(UTC)
            some = [direct(numbers[0], number, batches.random.randint(50, 90)) for number in numbers[1:]]
            await poster.post_many(Columns.of(some))
            oracle.post(some, now)
            for _ in range(15):
                now = datetime.now(UTC)
                batches.known.clear()  # an id that comes again is looked at under the lock, and nothing lags then
                (transfer,) = batches.batch(1, now)
                answer = await poster.post(transfer)
                assert [(answer.result, answer.replayed, answer.seq)] == oracle.post([transfer], now)
            await agree(db, oracle)
        async with db.unit() as unit:
            lag = await unit.value("select last_seq - projected_seq from asset where code = 'USD'")
    assert (lag > 0) == lags
    assert len(alone) > 20, "most direct transfers that are accepted come this way"
    await hold_together(db)


async def test_callers_who_come_alone_see_to_rows_that_lag(
    db: Database, alone: list[Writing], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch has left its rows behind, and from then on nobody comes but single callers, without a pause."""
    let_rows_lag(monkeypatch)
    _, numbers = await world(db)
    some = [direct(numbers[0], number, 100) for number in numbers[1:]]
    async with Poster(db) as poster:
        for _ in range(2):  # the first is written under the lock, and leaves nothing behind
            some = [replace(transfer, id=direct(1, 2, 3).id) for transfer in some]
            await poster.post_many(Columns.of(some))
        for due in (False, True):
            monkeypatch.setattr(ledger_memory, "STEP_NS", 0 if due else 10**18)
            for _ in range(len(numbers) + 1):
                await poster.post(direct(numbers[1], numbers[2], 1))
            async with db.unit() as unit:
                reached = await unit.value("select projected_seq from asset where code = 'USD'")
            assert (reached >= 2 * len(some)) == due
        assert len(alone) == len(numbers) + 1
    await hold_together(db)


async def test_a_caller_who_comes_alone_is_recorded_no_earlier(db: Database, alone: list[Writing]) -> None:
    """A clock that is behind records at the time of the row before."""
    async with db.unit(now=T0 + timedelta(seconds=20)) as unit:
        alice, bob = await people(unit, "alice", "bob", funds=100)
    async with Poster(db, now=lambda: T0) as poster:
        for _ in range(3):
            await poster.post(direct(alice, bob, 1))
    async with db.unit() as unit:
        rows = await ledger.transfers(unit, asset="USD")
        assert [(row.recorded_at - T0).seconds for row in rows] == [20] * 5
    assert len(alone) == 2


async def test_a_caller_who_comes_alone_meets_others(db: Database, alone: list[Writing]) -> None:
    """Others post meanwhile, and ids come again: the answer is what the books say, not what was remembered."""
    async with db.unit() as unit:
        alice, bob = await people(unit, "alice", "bob", funds=100)
    async with Poster(db) as poster:
        first = direct(alice, bob, 10)
        for transfer in (first, direct(alice, bob, 10)):
            await poster.post(transfer)
        assert await poster.post(first) == Posted(Result.ACCEPTED, True, 3)
        assert (await poster.post(replace(first, amount_minor=11))).result is Result.ID_CONFLICT
    async with Poster(db) as poster:
        await poster.post(direct(alice, bob, 10))
        async with db.unit() as unit:
            await ledger.post(unit, [direct(alice, bob, 60)])
        assert (await poster.post(direct(alice, bob, 11))).result is Result.EXCEEDS_CREDITS
        assert (await poster.post(direct(alice, bob, 10))).accepted
    assert len(alone) >= 3, "some were judged by what was remembered, and not written"
    await hold_together(db)


async def test_an_account_that_is_changed_is_changed_for_who_comes_alone(db: Database) -> None:
    """What was remembered of an account does not outlive a change of its status."""
    async with db.unit() as unit:
        alice, bob = await people(unit, "alice", "bob", funds=100)
    async with Poster(db) as poster:
        for _ in range(2):
            await poster.post(direct(alice, bob, 1))
        async with db.unit() as unit:
            await account.freeze(unit, "bob")
        assert (await poster.post(direct(alice, bob, 1))).result is Result.ACCOUNT_FROZEN


@pytest.mark.parametrize("side", [0, 1])
async def test_an_account_that_is_gone_is_not_written(db: Database, alone: list[Writing], side: int) -> None:
    """Whoever took it away: what names it is refused as a whole."""
    async with db.unit() as unit:
        sides = await people(unit, "alice", "bob", funds=100)
    async with Poster(db) as poster:
        for _ in range(2):
            await poster.post(direct(*sides, 1))
    (written,) = alone
    async with owning(db) as unit:  # as if it had not been written yet
        await unit.rows("set local session_replication_role = replica")
        for table in ("transfer_key", "transfer"):
            await unit.rows(f"delete from {table} where seq = 4")
        await unit.rows(
            "update asset set last_seq = %(seq)s, projected_seq = %(projected)s where code = 'USD'",
            seq=written.values[1],
            projected=written.values[3],
        )
    with pytest.raises(DatabaseUnavailable, match="is gone"):
        async with db.unit() as unit:
            await unit.rows("delete from account where id = %(id)s", id=sides[side])
            await ledger_books.write(unit.driver, written)
    async with db.unit() as unit:  # it was not for another reason
        await ledger_books.write(unit.driver, written)


async def test_a_hold_that_comes_alone_is_one(db: Database, alone: list[Writing]) -> None:
    """Only direct transfers take the short way."""
    async with db.unit() as unit:
        alice, bob = await people(unit, "alice", "bob", funds=100)
    hold = direct(alice, bob, 70, kind=Kind.PENDING, purpose=Purpose.HOLD)
    async with Poster(db) as poster:
        for transfer in (direct(alice, bob, 1), hold, direct(alice, bob, 30)):
            answer = await poster.post(transfer)
        assert answer.result is Result.EXCEEDS_CREDITS
    assert not alone
