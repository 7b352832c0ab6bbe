"""A unit that posts through a poster stands or falls as a whole, and the poster's memory with it."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from psycopg.errors import RaiseException

from pasys.db import Database, Unit
from pasys.domain.ledger import Posted, Purpose, Result, Transfer
from pasys.domain.ledger_columns import Columns
from pasys.errors import DatabaseUnavailable, InvalidInput
from pasys.service import account, ledger, ledger_books, ledger_memory, ledger_poster
from pasys.service.ledger_poster import Poster
from tests import ledger_world
from tests.ledger_batches import Batches
from tests.ledger_kit import (
    WITHIN_S,
    direct,
    end_posters,
    held_up,
    hold_together,
    let_rows_lag,
    people,
    posted,
    until_judged,
    until_waiting,
)
from tests.ledger_world import Answer, Stop
from tests.test_ledger_poster import agree, world

ACCEPTED = Result.ACCEPTED
UNLUCKY = """
create function unlucky() returns trigger language plpgsql as $$ begin raise exception 'unlucky'; end $$;
create trigger unlucky before insert on transfer for each row when (new.amount = 13) execute function unlucky();
"""


async def post_in(unit: Unit, poster: Poster, *transfers: Transfer) -> list[Answer]:
    return await ledger_world.post_in(unit, poster, transfers)


async def in_unit(db: Database, poster: Poster, *transfers: Transfer) -> list[Answer]:
    """A unit of its own that posts through the poster, and is committed."""
    async with db.unit() as unit:
        return await post_in(unit, poster, *transfers)


async def without(db: Database, *transfers: Transfer) -> None:
    """A unit of its own that posts without a poster."""
    async with db.unit() as unit:
        await ledger.post(unit, list(transfers))


@pytest.fixture
async def pair(db: Database) -> tuple[int, int]:
    """Two accounts with funds; the journal has two rows."""
    async with db.unit() as unit:
        alice, bob = await people(unit, "alice", "bob", funds=100)
    return alice, bob


async def warm(db: Database, poster: Poster, *accounts: int) -> None:
    """The poster remembers the accounts, and has posted so often that it trusts its memory."""
    for one, other in pairwise(accounts):
        for _ in range(2):
            await poster.post(direct(one, other, 1))


@pytest.mark.parametrize(("lag_from", "copy_from", "wary"), [(1, 1, 0), (1, 1_000, 1), (1_000, 1, 8)])
@pytest.mark.parametrize("seed", range(3))
async def test_units_and_a_poster_equal_the_model(
    db: Database, seed: int, lag_from: int, copy_from: int, wary: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches in units, by the poster, and by units without it, in any order; every third unit is rolled back."""
    monkeypatch.setattr(ledger_memory, "LAG_FROM", lag_from)
    monkeypatch.setattr(ledger_memory, "WARY", wary)
    monkeypatch.setattr(ledger_books, "COPY_FROM", copy_from)
    oracle, numbers = await world(db)
    batches, draw = Batches(seed, numbers), random.Random(seed)
    async with Poster(db) as poster:
        for i in range(24):
            now = datetime.now(UTC)
            batch = batches.batch(draw.randint(1, 30), now)
            way = draw.choice(["unit", "poster", "both", "both", "back"])
            if way == "back":
                with pytest.raises(Stop):
                    async with db.unit(now=now) as unit:
                        await post_in(unit, poster, *batch)
                        raise Stop
                continue
            if way == "poster":
                got = ledger_poster.posted(await poster.post_many(Columns.of(batch)))
            else:
                async with db.unit(now=now) as unit:
                    if way == "unit":
                        done = await ledger.post(unit, batch, refuse=False)
                        got = [(one.result, one.replayed, one.seq) for one in done]
                    else:
                        got = await post_in(unit, poster, *batch)
            assert list(got) == [(int(r), again, seq) for r, again, seq in oracle.post(batch, now)], (i, way)
            await agree(db, oracle)
    await agree(db, oracle)


async def test_it_is_recorded_at_the_time_of_its_unit(db: Database, pair: tuple[int, int]) -> None:
    """By memory and under the lock, as with everything else in the unit."""
    alice, bob = pair
    async with Poster(db) as poster:
        for ahead in (1, 2, 3):
            now = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=ahead)
            async with db.unit(now=now) as unit:
                await post_in(unit, poster, direct(alice, bob, 1))
            async with db.unit() as unit:
                assert await unit.value("select max(recorded_at) from transfer") == now


@pytest.mark.parametrize("trusted", [True, False])
async def test_what_was_rolled_back_is_forgotten(db: Database, pair: tuple[int, int], trusted: bool) -> None:
    """Though as many rows came from somebody else: limits are judged by what is there."""
    alice, bob = pair
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
async def test_who_comes_behind_waits_for_the_end(
    db: Database, pair: tuple[int, int], trusted: bool, back: bool
) -> None:
    """Another unit and a caller, both judged by what the unit before them has really left."""
    alice, bob = pair

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


async def test_who_comes_behind_a_unit_that_is_rolled_back_is_judged_again(db: Database, pair: tuple[int, int]) -> None:
    """Though somebody else has meanwhile written as many rows as the unit would have."""
    alice, bob = pair

    async with asyncio.timeout(WITHIN_S), Poster(db) as poster:
        await warm(db, poster, alice, bob)
        tasks: list[asyncio.Task[object]] = []
        with pytest.raises(Stop):
            async with db.unit() as unit:
                await post_in(unit, poster, direct(alice, bob, 60))
                tasks.append(asyncio.create_task(without(db, direct(alice, bob, 1))))
                await until_waiting(unit)  # so that it is served before who comes behind
                tasks.append(asyncio.create_task(in_unit(db, poster, direct(bob, alice, 150))))
                await until_judged(poster, 6)
                raise Stop
        _, behind = await asyncio.gather(*tasks)
        assert behind == [(Result.EXCEEDS_CREDITS, False, 6)]
    await hold_together(db)


async def test_somebody_else_has_posted(db: Database, pair: tuple[int, int]) -> None:
    """What the unit has done before stays, and the batch is judged again by the books that there are."""
    alice, bob = pair
    async with Poster(db) as poster:
        await warm(db, poster, alice, bob)
        await without(db, direct(alice, bob, 90))
        async with db.unit() as unit:
            carol = await account.open(unit, name="carol", asset="USD")
            answers = await post_in(unit, poster, direct(alice, bob, 50), direct(bob, alice, 150))
        assert [(result, seq) for result, _, seq in answers] == [(Result.EXCEEDS_CREDITS, 6), (ACCEPTED, 7)]
    async with db.unit() as unit:
        assert await posted(unit, carol.number) == 0 and await posted(unit, alice) == 158
    await hold_together(db)


@pytest.mark.parametrize("posts", [True, False])
async def test_what_the_unit_has_done_itself_is_known(db: Database, pair: tuple[int, int], posts: bool) -> None:
    """Nobody else can see an account that it has just opened, and no transfer that it has posted without the poster."""
    alice, bob = pair
    async with Poster(db) as poster:
        await warm(db, poster, alice, bob)
        async with db.unit() as unit:
            carol = await account.open(unit, name="carol", asset="USD")
            if posts:
                await ledger.post(unit, [direct(alice, bob, 1)])
            answers = await post_in(unit, poster, direct(bob, carol.number, 40), direct(carol.number, alice, 40))
        assert [(result, seq) for result, _, seq in answers] == [(ACCEPTED, 5 + posts), (ACCEPTED, 6 + posts)]
    await hold_together(db)


async def test_a_repeated_id_is_answered_with_the_first_result(db: Database, pair: tuple[int, int]) -> None:
    """By memory it looks new, until it is written."""
    alice, bob = pair
    first = direct(alice, bob, 40)
    async with Poster(db) as poster:
        for i in range(3):
            (answer,) = await in_unit(db, poster, first)
            assert answer == (ACCEPTED, i > 0, 3)
            await poster.post(direct(alice, bob, 1))


@pytest.mark.parametrize("trusted", [True, False])
async def test_an_id_that_another_asset_takes_is_a_conflict(db: Database, pair: tuple[int, int], trusted: bool) -> None:
    """When it is judged it is not there yet; when it is written it is."""
    alice, bob = pair
    async with db.unit() as unit:
        here, there = await people(unit, "alice", "bob", asset="EUR", funds=50)
    taken = direct(here, there, 5, asset="EUR")
    async with asyncio.timeout(WITHIN_S), Poster(db) as poster:
        if trusted:
            await warm(db, poster, alice, bob)
        async with db.unit() as unit:
            await ledger.post(unit, [taken])
            mine = direct(alice, bob, 5, id=taken.id)

            waiting = asyncio.create_task(in_unit(db, poster, mine))
            await until_waiting(unit)
        ((result, _, _),) = await waiting
        assert result is Result.ID_CONFLICT
    await hold_together(db)


@pytest.mark.parametrize("trusted", [True, False])
async def test_a_caller_that_is_cancelled_leaves_nothing(db: Database, pair: tuple[int, int], trusted: bool) -> None:
    """While it waits for its turn, and while it writes: nobody waits for it, and nobody remembers it."""
    alice, bob = pair

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


async def test_who_comes_behind_a_unit_that_repeats_an_id_is_judged_again(db: Database, pair: tuple[int, int]) -> None:
    """By memory the repeated one looks new, and who comes behind is judged as if it were; though somebody else has
    written as many rows."""
    alice, bob = pair
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
    db: Database, pair: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The poster rests when the unit ends, and another one, which has looked at the books without writing, writes."""
    alice, bob = pair
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
        assert (await another.post(direct(alice, bob, 1))).seq == 4
        assert (await poster.post(direct(alice, bob, 120))).result is Result.EXCEEDS_CREDITS
    await hold_together(db)


async def test_who_goes_before_his_turn_is_forgotten(db: Database, pair: tuple[int, int]) -> None:
    """Though somebody else has written as many rows as he would have."""
    alice, bob = pair

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


async def test_a_write_that_fails_is_forgotten(db: Database, pair: tuple[int, int]) -> None:
    """The unit goes on and commits without the batch, which is undone; the poster knows, though as many rows came from
    somebody else."""
    alice, bob = pair
    async with db.unit() as unit:
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


async def test_a_reader_that_is_lost_is_an_error_and_nothing_more(db: Database, pair: tuple[int, int]) -> None:
    """The poster's own connection breaks: one unit gets an error and is rolled back; the next ones are served."""
    alice, bob = pair
    async with db.unit() as unit:
        others = await people(unit, *[f"user_{i}" for i in range(12)])
    failed = 0
    async with asyncio.timeout(WITHIN_S), Poster(db) as poster:
        await warm(db, poster, alice, bob, others[0])
        async with db.unit() as unit:
            await end_posters(unit)
        for number in others[1:]:  # each has to be read
            try:
                ((result, _, _),) = await in_unit(db, poster, direct(alice, number, 1))
                assert result is ACCEPTED
            except DatabaseUnavailable:
                failed += 1
    assert failed == 1
    await hold_together(db)


async def test_it_is_used_as_it_must_be(db: Database, pair: tuple[int, int]) -> None:
    """Not within a savepoint, once in an asset, and in the order of their codes: else two would wait for ever."""
    alice, bob = pair
    async with db.unit() as unit:
        here, there = await people(unit, "alice", "bob", asset="EUR", funds=50)
    euro, dollar = direct(here, there, 1, asset="EUR"), direct(alice, bob, 1, purpose=Purpose.BOOK)
    async with asyncio.timeout(WITHIN_S), Poster(db) as poster:
        async with db.unit() as unit:
            with pytest.raises(AssertionError, match="stands or falls"):
                async with unit.savepoint():
                    await post_in(unit, poster, dollar)
            assert (await post_in(unit, poster, euro))[0][0] is ACCEPTED
            assert (await post_in(unit, poster, dollar))[0][0] is ACCEPTED
            for again in (euro, dollar):
                with pytest.raises(AssertionError, match="wait for each other"):
                    await post_in(unit, poster, again)
        for wrong, why in (([direct(alice, bob, 1, linked=True)], "linked"), ([dollar] * 10_001, "at most")):
            with pytest.raises(InvalidInput, match=why):
                await in_unit(db, poster, *wrong)
    await hold_together(db)
