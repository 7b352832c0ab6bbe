"""A poster forgets what a unit has not kept, and judges again who came behind it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from psycopg.errors import RaiseException

from pasys.db import Database, Unit
from pasys.domain.ledger import Posted, Result
from pasys.domain.ledger_columns import Columns
from pasys.service import account, ledger, ledger_poster
from pasys.service.ledger_ask import Join
from pasys.service.ledger_poster import Poster
from tests.ledger_join import ACCEPTED, in_unit, pair, post_in, warm, without
from tests.ledger_kit import (
    WITHIN_S,
    direct,
    held_up,
    hold_together,
    let_rows_lag,
    people,
    posted,
    until_judged,
    until_waiting,
)
from tests.ledger_world import Stop
from tests.support import owning

UNLUCKY = """
create function unlucky() returns trigger language plpgsql as $$ begin raise exception 'unlucky'; end $$;
create trigger unlucky before insert on transfer for each row when (new.amount = 13) execute function unlucky();
"""


@pytest.mark.parametrize("trusted", [True, False])
async def test_what_was_rolled_back_is_forgotten(db: Database, trusted: bool) -> None:
    """Though as many rows came from somebody else: limits are judged by what is there."""
    alice, bob = await pair(db)
    async with Poster(db) as poster:
        if trusted:
            await warm(db, poster, alice, bob)
        with pytest.raises(Stop):
            async with db.unit() as unit:
                await post_in(unit, poster, direct(bob, alice, 50))
                raise Stop
        async with db.unit() as unit:
            await ledger.post(unit, [direct(alice, bob, 3)])
            left = await posted(unit, alice)
        refused, accepted = await in_unit(db, poster, direct(alice, bob, left + 1), direct(alice, bob, left))
        assert (refused[0], accepted[0]) == (Result.EXCEEDS_CREDITS, ACCEPTED)
    await hold_together(db)


@pytest.mark.parametrize("back", [True, False])
@pytest.mark.parametrize("trusted", [True, False])
async def test_who_comes_behind_waits_for_the_end(db: Database, trusted: bool, back: bool) -> None:
    """Another unit and a caller, both judged by what the unit before them has really left."""
    alice, bob = await pair(db)

    async with asyncio.timeout(WITHIN_S), Poster(db) as poster:
        if trusted:
            await warm(db, poster, alice, bob)
        behind: list[asyncio.Task[object]] = []
        try:
            async with db.unit() as unit:
                await post_in(unit, poster, direct(alice, bob, 60))
                for work in (in_unit(db, poster, direct(bob, alice, 150)), poster.post(direct(alice, bob, 60))):
                    behind.append(asyncio.create_task(work))
                    await asyncio.sleep(0.1)
                assert not any(task.done() for task in behind)
                if back:
                    raise Stop
        except Stop:
            pass
        ((first, _, seq),), second = await asyncio.gather(*behind)  # type: ignore[misc]
    before = 2 + 2 * trusted
    if back:  # bob has not got the 60, so he cannot pay 150; alice still can
        assert (first, seq, second) == (Result.EXCEEDS_CREDITS, before + 1, Posted(ACCEPTED, False, before + 2))
    else:
        assert (first, seq, second) == (ACCEPTED, before + 2, Posted(ACCEPTED, False, before + 3))
    await hold_together(db)


async def test_who_comes_behind_a_unit_that_is_rolled_back_is_judged_again(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though somebody else has meanwhile written as many rows as the unit would have."""
    alice, bob = await pair(db)
    written = ledger_poster._written

    async def late(*what: Any, **how: Any) -> bool:  # PostgreSQL may serve who comes behind first
        await tasks[0]
        return await written(*what, **how)

    async with asyncio.timeout(WITHIN_S), Poster(db) as poster:
        await warm(db, poster, alice, bob)
        tasks: list[asyncio.Task[object]] = []
        with pytest.raises(Stop):
            async with db.unit() as unit:
                await post_in(unit, poster, direct(alice, bob, 60))
                tasks.append(asyncio.create_task(without(db, direct(alice, bob, 1))))
                await until_waiting(unit)
                monkeypatch.setattr(ledger_poster, "_written", late)
                tasks.append(asyncio.create_task(in_unit(db, poster, direct(bob, alice, 150))))
                await until_judged(poster, 6)
                raise Stop
        _, behind = await asyncio.gather(*tasks)
        assert behind == [(Result.EXCEEDS_CREDITS, False, 6)]
    await hold_together(db)


@pytest.mark.parametrize("trusted", [True, False])
async def test_a_caller_that_is_cancelled_leaves_nothing(db: Database, trusted: bool) -> None:
    """While it waits for its turn, and while it writes: nobody waits for it, and nobody remembers it."""
    alice, bob = await pair(db)

    async with asyncio.timeout(WITHIN_S), Poster(db) as poster:
        if trusted:
            await warm(db, poster, alice, bob)
        async with held_up(db) as unit:
            writing = asyncio.create_task(in_unit(db, poster, direct(alice, bob, 95)))
            await until_waiting(unit)
            waiting = asyncio.create_task(in_unit(db, poster, direct(alice, bob, 97)))
            await asyncio.sleep(0.05)
            for task in (waiting, writing):
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            await ledger.post(unit, [direct(bob, alice, 1), direct(bob, alice, 2)])
            left = await posted(unit, alice)
        assert (await poster.post(direct(alice, bob, left))).accepted
        assert not (await poster.post(direct(alice, bob, 1))).accepted
    await hold_together(db)


async def test_who_is_cancelled_as_its_turn_comes_does_not_queue_behind_itself(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its turn lasts until its unit ends, whatever became of the call: it posts again by the door."""
    alice, bob = await pair(db)

    class Unlucky(Join):
        def __init__(self, unit: Unit, columns: Columns) -> None:
            super().__init__(unit, columns)
            caller = asyncio.current_task()
            assert caller is not None
            self.answer.add_done_callback(lambda _: caller.cancel())

    async with asyncio.timeout(WITHIN_S), Poster(db) as poster:
        await warm(db, poster, alice, bob)
        monkeypatch.setattr(ledger_poster, "Join", Unlucky)

        async def again() -> None:
            async with db.unit() as unit:
                with pytest.raises(asyncio.CancelledError):
                    await post_in(unit, poster, direct(alice, bob, 1))
                assert await post_in(unit, poster, direct(alice, bob, 2)) == [(ACCEPTED, False, 5)]

        await asyncio.create_task(again())
        monkeypatch.undo()
        assert await in_unit(db, poster, direct(alice, bob, 3)) == [(ACCEPTED, False, 6)]
    await hold_together(db)


async def test_who_comes_behind_a_unit_that_repeats_an_id_is_judged_again(db: Database) -> None:
    """By memory the repeated one looks new, and who comes behind is judged as if it were; though somebody else has
    written as many rows."""
    alice, bob = await pair(db)
    first = direct(alice, bob, 40)

    async with asyncio.timeout(WITHIN_S), Poster(db) as poster:
        await warm(db, poster, alice, bob)
        await poster.post(first)
        async with held_up(db) as unit:
            again = asyncio.create_task(in_unit(db, poster, first))
            await until_waiting(unit)
            other = asyncio.create_task(without(db, direct(alice, bob, 1)))
            behind = asyncio.create_task(in_unit(db, poster, direct(bob, alice, 170)))
            await until_judged(poster, 7)
            await asyncio.sleep(0.1)  # the other waits behind who repeats
        assert await again == [(ACCEPTED, True, 5)]
        await other
        assert await behind == [(Result.EXCEEDS_CREDITS, False, 7)]
    await hold_together(db)


async def test_what_was_rolled_back_is_forgotten_while_nobody_comes(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The poster rests when the unit ends, and another one, which has looked at the books without writing, writes."""
    alice, bob = await pair(db)
    first = direct(alice, bob, 1)
    async with asyncio.timeout(WITHIN_S), Poster(db) as poster, Poster(db) as another:
        await poster.post(first)
        assert (await another.post(first)).replayed
        let_rows_lag(monkeypatch)
        monkeypatch.setattr(ledger_poster, "IDLE_S", 1.0)
        with pytest.raises(Stop):
            async with db.unit() as unit:
                await post_in(unit, poster, direct(bob, alice, 50))
                await asyncio.sleep(1.3)
                raise Stop
        answers = await another.post_many(Columns.of([direct(alice, bob, 1)]))  # not alone: its rows lag, too
        assert answers.seq.tolist() == [4]
        assert (await poster.post(direct(alice, bob, 120))).result is Result.EXCEEDS_CREDITS
    await hold_together(db)


async def test_who_goes_before_his_turn_is_forgotten(db: Database) -> None:
    """Though somebody else has written as many rows as he would have."""
    alice, bob = await pair(db)

    async with asyncio.timeout(WITHIN_S), Poster(db) as poster:
        await warm(db, poster, alice, bob)
        async with db.unit() as unit:
            await post_in(unit, poster, direct(alice, bob, 1))
            waiting = asyncio.create_task(in_unit(db, poster, direct(bob, alice, 100)))
            await until_judged(poster, 6)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        await without(db, direct(alice, bob, 1))
        assert await in_unit(db, poster, direct(alice, bob, 100)) == [(Result.EXCEEDS_CREDITS, False, 7)]
    await hold_together(db)


async def test_a_write_that_fails_is_forgotten(db: Database) -> None:
    """The unit goes on and commits without the batch, which is undone; the poster knows, though as many rows came from
    somebody else."""
    alice, bob = await pair(db)
    async with owning(db) as unit:
        await unit.driver.execute(UNLUCKY.encode())
    async with asyncio.timeout(WITHIN_S), Poster(db) as poster:
        await warm(db, poster, alice, bob)
        async with db.unit() as unit:
            with pytest.raises(RaiseException, match="unlucky"):
                await post_in(unit, poster, direct(bob, alice, 13))
            await account.open(unit, name="carol", asset="USD")
        async with db.unit() as unit:
            assert await unit.value("select count(*) from account where name = 'carol'") == 1
            await ledger.post(unit, [direct(alice, bob, 1)])
            left = await posted(unit, alice)
        refused, accepted = await in_unit(db, poster, direct(alice, bob, left + 1), direct(alice, bob, left))
        assert (refused[0], accepted[0]) == (Result.EXCEEDS_CREDITS, ACCEPTED)
    await hold_together(db)


async def test_rows_are_not_read_as_they_were_before_a_unit_brought_them_up_to_date(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows lag behind what another poster has written; a unit adds them up under the lock, and is not committed yet."""
    let_rows_lag(monkeypatch)
    alice, bob = await pair(db)
    async with db.unit() as unit:
        users = await people(unit, *[f"user_{i}" for i in range(8)], funds=100)
    async with asyncio.timeout(WITHIN_S), Poster(db) as another, Poster(db) as poster:
        for _ in range(4):
            paid = [direct(user, alice, 10) for user in users]
            await another.post_many(Columns.of(paid))
        async with db.unit() as unit:
            lagging = "select a.id from account a join account_now n using (id) where a.credits_posted = 100"
            late = await unit.rows(f"{lagging} and a.version < n.version and a.debits_posted < n.debits_posted")
            assert await posted(unit, late[0].id) == 60
        async with db.unit() as unit:
            await post_in(unit, poster, direct(alice, bob, 1))
            behind = asyncio.create_task(in_unit(db, poster, direct(late[0].id, bob, 61)))
            await asyncio.sleep(0.2)
            assert not behind.done()
        assert [result for result, _, _ in await behind] == [Result.EXCEEDS_CREDITS]
    await hold_together(db)


async def test_a_poster_that_is_cancelled_leaves_units_alone(db: Database) -> None:
    """A unit whose batch is written commits, though the poster that has judged it is gone."""
    alice, bob = await pair(db)
    async with asyncio.timeout(WITHIN_S):
        poster = Poster(db)
        async with db.unit() as unit:
            await post_in(unit, poster, direct(alice, bob, 7))
            closing = asyncio.create_task(poster.__aexit__())
            await asyncio.sleep(0.05)
            closing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await closing
        async with db.unit() as unit:
            assert await posted(unit, alice) == 93


async def test_a_unit_that_ends_in_between_is_not_waited_for(db: Database) -> None:
    """A batch that waits in the queue, for a unit that has ended without it: nothing is posted, and nobody hangs."""
    alice, bob = await pair(db)
    async with asyncio.timeout(WITHIN_S), Poster(db) as poster:
        await warm(db, poster, alice, bob)
        async with db.unit() as first:
            await post_in(first, poster, direct(alice, bob, 1))
            async with db.unit() as second:
                waiting = asyncio.create_task(post_in(second, poster, direct(alice, bob, 50)))
                await until_judged(poster, 6)
            done, _ = await asyncio.wait([waiting], timeout=5)
            assert waiting in done and waiting.cancelled()
        assert await in_unit(db, poster, direct(alice, bob, 97)) == [(ACCEPTED, False, 6)]
    await hold_together(db)
