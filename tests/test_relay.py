"""What was announced reaches the bus, late, twice or after an outage; a timer ticks in one copy; a pulse is seen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from urllib.parse import urlsplit

import msgspec
import psycopg
import pytest
import redis.asyncio as redis

from pasys.bus import Bus
from pasys.daemon import Daemon
from pasys.db import COPY_FROM, Database, Unit
from pasys.errors import BusUnavailable
from pasys.events import AccountOpened, decode
from pasys.service import event as event_service
from pasys.worker import relay
from pasys.worker.lane import backoff_s
from tests.support import eventually, owning
from tests.worker_kit import Effects, Wire, announce, announcement, on_the_bus, opened, running, waiting


@pytest.fixture
async def bus(settings) -> AsyncIterator[Bus]:
    connected = await Bus(settings).connect()
    yield connected
    await connected.close()


@pytest.fixture
async def effects(db: Database) -> Effects:
    async with owning(db) as unit:
        await unit.rows("create table effect (what text, who text, began timestamptz default clock_timestamp())")
        await unit.rows("grant all on effect to public")
    return Effects(db)


@pytest.fixture
async def wire(settings) -> AsyncIterator[Wire]:
    """A wire to NATS."""
    target = urlsplit(settings.nats_url)
    carried = Wire(target.hostname or "", target.port or 0)
    await carried.mend()
    yield carried
    await carried.cut()


def through(settings, wire: Wire):
    """The same settings, with NATS behind the wire."""
    url = urlsplit(settings.nats_url)
    there = f"{url.username}:{url.password}@127.0.0.1:{wire.port}" if url.username else f"127.0.0.1:{wire.port}"
    return msgspec.structs.replace(settings, nats_url=url._replace(netloc=there).geturl())


def noting(effects: Effects) -> Daemon:
    daemon = Daemon("t")

    @daemon.on
    async def note(event: AccountOpened, unit: Unit) -> None:
        await effects.write(unit, event.name)

    return daemon


async def empty(db: Database, *, within_s: float = 10.0) -> None:
    """Waits until nothing is left in the outbox."""

    async def gone() -> bool:
        return await waiting(db) == 0

    await eventually(gone, within_s=within_s)


# The outbox ----------------------------------------------------------------------------------------------------------


async def test_what_a_command_announces_is_out_within_a_second(settings, db, bus, effects):
    """A row that a command wrote is handled at once: the commit wakes a relay, nobody waits for a poll."""
    async with running(settings, noting(effects)):
        await announce(db, opened("first"))
        await effects.until(1)
        for number in range(3):
            await announce(db, opened(f"n{number}"))
            await effects.until(2 + number, within_s=0.9)
        await empty(db)
    assert await on_the_bus(bus) == 4


async def test_rows_wait_while_the_bus_is_away(settings, db, bus, effects, wire):
    """Without NATS nothing is lost and nothing is refused: what is announced stays, and goes out when NATS is back."""
    async with running(through(settings, wire), noting(effects)):
        await announce(db, opened("before"))
        assert await effects.until(1) == ["before"]
        await empty(db)
        await wire.cut()
        for number in range(20):
            await announce(db, opened(f"n{number:02}"))
        await asyncio.sleep(1.2)  # longer than a sweep's pause: it had its chance
        assert await waiting(db) == 20 and await on_the_bus(bus) == 1
        await wire.mend()
        assert len(await effects.until(21, within_s=20)) == 21
        await empty(db, within_s=20)
    assert await on_the_bus(bus) == 21


async def test_a_daemon_s_own_words_survive_an_outage(settings, db, bus, effects, wire):
    """What was handled in one process and announced while the bus was away is published by whoever comes next."""
    async with db.unit(relayed=True) as unit:
        unit.emit(opened("left behind"))  # committed by a worker that died before it published
    assert await waiting(db) == 1
    async with running(settings, noting(effects)):
        assert await effects.until(1) == ["left behind"]
        await empty(db)


async def test_a_row_that_commits_late_is_not_skipped(settings, db, bus, effects):
    """Rows go out in whatever order they commit: an older id that becomes visible later is published all the same."""
    early = announcement(opened("older id"))
    async with running(settings, noting(effects)):
        async with db.unit() as late:
            await late.rows(
                """with announced as (
                       insert into event (id, subject, asset, entity_id, correlation_id, body, at)
                       values (%(id)s, 'account.opened', 'USD', 'acc_x', 'acc_x', %(body)s, now()) returning id)
                   insert into outbox (event_id) select id from announced""",
                id=early.event_id,
                body=early.body,
            )
            await announce(db, opened("newer id"))
            assert await effects.until(1) == ["newer id"]
        assert await effects.until(2) == ["newer id", "older id"]
        await empty(db)


async def test_what_is_wanted_at_once_does_not_stand_behind_a_backlog(settings, db, bus, effects):
    """A file's rows wait for the one relay that works off a backlog; what a command announces meanwhile goes out."""
    rows = [opened(f"row {number}") for number in range(COPY_FROM)]
    async with running(settings, noting(effects)):
        async with db.unit() as unit:
            await unit.rows("select pg_advisory_xact_lock(%(key)s)", key=relay.BACKLOG_LOCK)  # that relay is slow
            await announce(db, *rows)
            await announce(db, opened("wanted"))
            assert await effects.until(1) == ["wanted"]

            async def only_they_wait() -> bool:
                return await waiting(db) == len(rows)

            await eventually(only_they_wait)
        assert len(await effects.until(1 + len(rows))) == 1 + len(rows)
        await empty(db)


async def test_one_relay_at_a_time_works_off_a_backlog(settings, db, bus):
    """While one is at it, another leaves it alone; and it takes what the first has let go of."""
    await announce(db, *(opened(f"row {number}") for number in range(COPY_FROM)))
    worker = relay.Relay(db, bus)
    async with db.unit() as unit:
        await unit.rows("select pg_advisory_xact_lock(%(key)s)", key=relay.BACKLOG_LOCK)
        assert await worker.work_off() == 0
    assert await worker.work_off() == COPY_FROM


async def test_a_backlog_makes_way_for_who_writes_in_bulk(settings, db, bus):
    """Whoever writes many rows says so until its commit, and between batches of a backlog the relay then pauses."""
    worker = relay.Relay(db, bus)
    for _ in range(3):
        await announce(db, *(opened(f"n{number}") for number in range(relay.SWEEP_MAX)))
    paused: list[float] = []
    others: list[int] = []

    async def pause(seconds: float) -> None:
        paused.append(seconds)
        others.append(await relay.Relay(db, bus).work_off())

    worker.pause = pause
    async with db.unit() as writing:
        writing.emit(*(opened(f"row {number}") for number in range(COPY_FROM)))
        await writing.write_outbox(relayed=False)
        assert await worker.work_off() == 3 * relay.SWEEP_MAX
        assert paused and all(0 < seconds <= relay.POLL_S for seconds in paused)
        assert not any(others), "one relay's pause is nobody else's turn"
    paused.clear()
    assert await worker.work_off() == COPY_FROM
    assert not paused


async def test_published_twice_it_stands_on_the_bus_once(settings, db, bus, effects):
    """A relay that died between the publish and its note publishes again, and the bus drops it."""
    said = announcement(opened("one"))
    assert await bus.publish([said, said]) == [said.event_id] * 2
    assert await bus.publish([said]) == [said.event_id]
    assert await on_the_bus(bus) == 1


async def test_the_log_refills_a_bus(settings, db, bus, effects):
    """What was announced can be put back into the outbox; a bus that has it drops it, one that lost it gets it."""
    await announce(db, *(opened(f"n{number}") for number in range(5)))
    async with running(settings, noting(effects)):
        await effects.until(5)
        await empty(db)
        await bus.js.purge_stream(bus.events)
        async with db.unit() as unit:
            assert await event_service.announce_again(unit, datetime.now(UTC) - timedelta(minutes=1)) == 5
        await empty(db)
    assert len(await effects.whats()) == 5, "and no effect is repeated"


async def test_every_announcement_keeps_its_message(settings, db, bus):
    """The log, the message and the outbox speak of the same event: id, subject, body."""
    async with db.unit(relayed=True) as unit:
        unit.emit(opened("one"))
    (said,) = unit.announcements
    envelope, event = decode(said.body)
    assert (said.event_id, said.subject) == (envelope.id, "account.opened.USD")
    async with db.unit() as unit:
        row = await unit.row("select * from event")
    assert row is not None
    assert (row.id, bytes(row.body), row.entity_id) == (envelope.id, said.body, event.entity_id)


async def test_a_rollback_announces_nothing(settings, db):
    """An event is there exactly when its rows are."""
    with pytest.raises(ZeroDivisionError):
        async with db.unit() as unit:
            unit.emit(opened("never"))
            await unit.write_outbox(relayed=False)
            raise ZeroDivisionError
    assert await waiting(db) == 0


# Boot ----------------------------------------------------------------------------------------------------------------


async def test_a_worker_waits_for_its_servers(settings, db, effects, wire):
    """Without NATS a worker neither starts nor ends; once it is there the worker goes to work."""
    await wire.cut()
    await announce(db, opened("one"))
    with pytest.raises(BusUnavailable):
        await Bus(through(settings, wire)).connect()
    async with running(through(settings, wire), noting(effects), ready=False):
        await asyncio.sleep(0.5)
        assert await effects.whats() == []
        await wire.mend()
        assert await effects.until(1) == ["one"]


async def test_a_worker_waits_for_its_database(settings, db, bus, template, servers):
    """Without its database a worker waits, and a stop ends the wait."""
    name = f"{settings.bus_prefix}_later"
    url = settings.database_url.replace(f"/{settings.bus_prefix}", f"/{name}")
    daemon, ran = Daemon("t"), asyncio.Event()

    @daemon.every(0.05)
    async def tick(unit: Unit) -> None:
        ran.set()

    there = msgspec.structs.replace(settings, database_url=url)
    async with running(there, daemon, ready=False):
        await asyncio.sleep(0.5)
    assert not ran.is_set(), "it was stopped while it waited"
    async with running(there, daemon, ready=False):
        await asyncio.sleep(0.3)
        admin = await psycopg.AsyncConnection.connect(servers.require("database_url"), autocommit=True)
        async with admin:
            await admin.execute(f"create database {name} template {template} strategy file_copy".encode())
        async with asyncio.timeout(10):
            await ran.wait()


# Timers and pulse ----------------------------------------------------------------------------------------------------


async def test_a_timer_ticks_in_one_copy_at_a_time(settings, db, effects):
    """Three copies, one tick at a time; a tick that fails is followed by the next."""
    begun: list[bool] = []

    def copy() -> Daemon:
        daemon = Daemon("t")

        @daemon.every("resolve_every_s")
        async def tick(unit: Unit) -> None:
            begun.append(True)
            if len(begun) == 1:
                raise RuntimeError("the first tick fails")
            await effects.write(unit, f"{len(begun):03}")
            await asyncio.sleep(0.15)
            await unit.rows("update effect set who = clock_timestamp()::text where who = ''")

        return daemon

    async with running(msgspec.structs.replace(settings, resolve_every_s=0.05), copy(), copy(), copy()):
        await effects.until(4)
    ticks = sorted((row.began, datetime.fromisoformat(row.who)) for row in await effects.all())
    assert all(ended <= next_began for (_, ended), (next_began, _) in pairwise(ticks))


async def test_a_pulse_can_be_seen_while_the_daemon_lives(settings, db, effects):
    """A daemon's pulse stands in Redis with what it did and what it has left, and goes when the daemon goes."""
    client = redis.from_url(settings.redis_url)
    pattern = f"{settings.redis_prefix}:pulse:*"

    async def keys() -> list[bytes]:
        return await client.keys(pattern)

    try:
        async with running(settings, noting(effects)):
            await announce(db, opened("one"))
            await effects.until(1)

            async def handled() -> dict:
                (key,) = await eventually(keys)
                beat = msgspec.json.decode(await client.get(key) or b"{}")
                return beat if beat.get("handled") else {}

            beat = await eventually(handled)
            assert (beat["daemon"], beat["handled"], beat["parked"], beat["lag"]) == ("t", 1, 0, {"note": 0})
            (key,) = await keys()
            assert 0 < await client.ttl(key) <= 10, "a daemon that is killed disappears, too"
        assert await keys() == []
    finally:
        await client.aclose()


async def test_without_redis_a_daemon_works_unseen(settings, db, effects):
    """Redis holds nothing that work needs."""
    async with running(msgspec.structs.replace(settings, redis_url="redis://127.0.0.1:1/0"), noting(effects)):
        await announce(db, opened("one"))
        assert await effects.until(1) == ["one"]


def test_pauses_grow_up_to_a_limit():
    """Between tries the pause doubles, with jitter, and never exceeds the limit by more than the jitter."""
    pauses = [min(backoff_s(attempts) for _ in range(50)) for attempts in range(1, 30)]
    assert 0.2 < pauses[0] < 0.6 and max(backoff_s(1_000) for _ in range(50)) <= 39.0
    assert pauses[5] > pauses[2] > pauses[0]
