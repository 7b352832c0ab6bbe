"""A unit that posts through a poster gets the answers that it would get without, and stands or falls as a whole."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta

import pytest

from pasys.db import Database
from pasys.domain.ledger import Result
from pasys.domain.ledger_columns import Columns
from pasys.errors import InvalidInput
from pasys.service import account, ledger, ledger_books, ledger_memory, ledger_poster
from pasys.service.ledger_poster import Poster
from tests.ledger_batches import Batches, one_by_one
from tests.ledger_join import ACCEPTED, in_unit, pair, post_in, warm, without
from tests.ledger_kit import (
    WITHIN_S,
    direct,
    end_posters,
    hold_together,
    people,
    posted,
    until_waiting,
)
from tests.ledger_world import Stop
from tests.test_ledger_poster import agree, world


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
                got = one_by_one(await poster.post_many(Columns.of(batch)))
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


async def test_it_is_recorded_at_the_time_of_its_unit(db: Database) -> None:
    """By memory and under the lock, as with everything else in the unit."""
    alice, bob = await pair(db)
    async with Poster(db) as poster:
        for ahead in (1, 2, 3):
            now = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=ahead)
            async with db.unit(now=now) as unit:
                await post_in(unit, poster, direct(alice, bob, 1))
            async with db.unit() as unit:
                assert await unit.value("select max(recorded_at) from transfer") == now


async def test_somebody_else_has_posted(db: Database) -> None:
    """What the unit has done before stays, and the batch is judged again by the books that there are."""
    alice, bob = await pair(db)
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
async def test_what_the_unit_has_done_itself_is_known(db: Database, posts: bool) -> None:
    """Nobody else can see an account that it has just opened, and no transfer that it has posted without the poster."""
    alice, bob = await pair(db)
    async with Poster(db) as poster:
        await warm(db, poster, alice, bob)
        async with db.unit() as unit:
            carol = await account.open(unit, name="carol", asset="USD")
            if posts:
                await ledger.post(unit, [direct(alice, bob, 1)])
            answers = await post_in(unit, poster, direct(bob, carol.number, 40), direct(carol.number, alice, 40))
        assert [(result, seq) for result, _, seq in answers] == [(ACCEPTED, 5 + posts), (ACCEPTED, 6 + posts)]
    await hold_together(db)


async def test_a_repeated_id_is_answered_with_the_first_result(db: Database) -> None:
    """By memory it looks new, until it is written."""
    alice, bob = await pair(db)
    first = direct(alice, bob, 40)
    async with Poster(db) as poster:
        for i in range(3):
            (answer,) = await in_unit(db, poster, first)
            assert answer == (ACCEPTED, i > 0, 3)
            await poster.post(direct(alice, bob, 1))


@pytest.mark.parametrize("trusted", [True, False])
async def test_an_id_that_another_asset_takes_is_a_conflict(db: Database, trusted: bool) -> None:
    """When it is judged it is not there yet; when it is written it is."""
    alice, bob = await pair(db)
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


async def test_a_reader_that_is_lost_is_nobodys_error(db: Database) -> None:
    """The poster's own connection breaks: units are served under the lock, and then by memory again."""
    alice, bob = await pair(db)
    async with db.unit() as unit:
        others = await people(unit, *[f"user_{i}" for i in range(12)])
    async with asyncio.timeout(WITHIN_S), Poster(db) as poster:
        await warm(db, poster, alice, bob, others[0])
        async with db.unit() as unit:
            await end_posters(unit)
        for number in others[1:]:  # each has to be read
            ((result, _, _),) = await in_unit(db, poster, direct(alice, number, 1))
            assert result is ACCEPTED
    await hold_together(db)


async def test_bad_input_is_refused(db: Database) -> None:
    """As it is by the door, and a linked transfer stands for nobody else's batch."""
    alice, bob = await pair(db)
    one = direct(alice, bob, 1)
    async with Poster(db) as poster:
        for wrong, why in (([direct(alice, bob, 1, linked=True)], "linked"), ([one] * 10_001, "at most")):
            with pytest.raises(InvalidInput, match=why):
                await in_unit(db, poster, *wrong)
    await hold_together(db)


async def test_where_memory_is_of_no_use_the_door_is(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a savepoint, for the second time in an asset, in a second asset, and in more assets than it remembers."""
    monkeypatch.setattr(ledger_poster, "LANES_MAX", 1)
    alice, bob = await pair(db)
    async with db.unit() as unit:
        here, there = await people(unit, "alice", "bob", asset="EUR", funds=50)
    async with asyncio.timeout(WITHIN_S), Poster(db) as poster:
        async with db.unit() as unit:
            with pytest.raises(Stop):
                async with unit.savepoint():
                    await post_in(unit, poster, direct(bob, alice, 99))
                    raise Stop
            assert await post_in(unit, poster, direct(alice, bob, 100)) == [(ACCEPTED, False, 3)]
        async with db.unit() as unit:
            assert await post_in(unit, poster, direct(bob, alice, 150)) == [(ACCEPTED, False, 4)]
            assert await post_in(unit, poster, direct(alice, bob, 60)) == [(ACCEPTED, False, 5)]
            assert await post_in(unit, poster, direct(here, there, 1, asset="EUR")) == [(ACCEPTED, False, 3)]
        assert await in_unit(db, poster, direct(here, there, 1, asset="EUR")) == [(ACCEPTED, False, 4)]
        assert list(poster._lanes) == ["USD"]
        assert await in_unit(db, poster, direct(alice, bob, 91)) == [(Result.EXCEEDS_CREDITS, False, 6)]
    await hold_together(db)


async def test_who_holds_the_books_does_not_queue(db: Database) -> None:
    """A caller and a unit wait for a unit that has posted without the poster; it posts again, and waits for nobody."""
    alice, bob = await pair(db)
    async with asyncio.timeout(WITHIN_S), Poster(db) as poster:
        await warm(db, poster, alice, bob)
        async with db.unit() as unit:
            await ledger.post(unit, [direct(alice, bob, 1)])
            tasks = [asyncio.create_task(poster.post_many(Columns.of([direct(bob, alice, 1)])))]
            await until_waiting(unit)
            behind = asyncio.create_task(in_unit(db, poster, direct(bob, alice, 2)))
            await asyncio.sleep(0.05)
            assert await post_in(unit, poster, direct(alice, bob, 5)) == [(ACCEPTED, False, 6)]
        await asyncio.gather(*tasks, behind)
    await hold_together(db)
