"""What the bus has lost comes back by itself: nothing that was announced waits for a person to announce it again."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from pasys.bus import Bus
from pasys.config import Settings
from pasys.daemon import Daemon, Handler
from pasys.db import Database, Unit
from pasys.errors import DatabaseUnavailable, RightsMissing
from pasys.events import AccountChanged, AccountOpened
from pasys.service import fraud, ledger, refund
from pasys.worker import refill as module
from pasys.worker.refill import Refill
from tests.faults_kit import final_refund, parked, refunds_of
from tests.faults_nats import OwnNats, own_nats
from tests.support import balance_of, daemons, eventually, open_accounts, owning, pay, until_status
from tests.worker_kit import Effects, announce, dead, on_the_bus, opened, running, waiting

OVERDUE_S = 0.5


@pytest.fixture
async def bus(settings: Settings) -> AsyncIterator[Bus]:
    connected = await Bus(settings).connect()
    yield connected
    await connected.close()


@pytest.fixture
async def effects(db: Database) -> Effects:
    async with owning(db) as unit:
        await unit.rows("create table effect (what text, who text, began timestamptz default clock_timestamp())")
        await unit.rows("grant all on effect to public")
    return Effects(db)


class Lane:
    """What a refill knows of a lane."""

    def __init__(self, handler: Callable[..., Any]) -> None:
        self.handler = Handler.of(handler)
        self.name, self.durable = f"t.{self.handler.name}", f"t_{self.handler.name}"


async def note(event: AccountOpened, unit: Unit) -> None:
    """Nobody runs it."""


def refill_of(db: Database, bus: Bus, *handlers: Callable[..., Any], after_s: float = OVERDUE_S) -> Refill:
    made = Database.__new__(Database)
    made.__dict__ |= db.__dict__ | {"settings": msgspec.structs.replace(db.settings, event_overdue_s=after_s)}
    return Refill(Daemon("t"), [Lane(handler) for handler in handlers or (note,)], made, bus)  # type: ignore[arg-type]


async def overdue(db: Database) -> list[Any]:
    async with db.unit() as unit:
        return await unit.rows(
            "select handler, event_id, times, parked, due_at from overdue order by event_id, handler"
        )


async def relayed(db: Database, settings: Settings) -> None:
    """Whatever waits is acknowledged by the bus, and nobody consumes it."""
    async with running(settings, Daemon("relay")):

        async def gone() -> bool:
            return await waiting(db) == 0

        await eventually(gone)


@asynccontextmanager
async def a_bus_to_lose(settings: Settings) -> AsyncIterator[tuple[OwnNats, Settings]]:
    async with own_nats() as nats:
        await nats.start()
        yield nats, msgspec.structs.replace(settings, nats_url=nats.url, event_overdue_s=OVERDUE_S)


async def test_who_cannot_see_since_when_others_write_looks_no_further(
    db: Database, settings: Settings, bus: Bus
) -> None:
    """A login is told of its own sessions alone. What somebody else writes meanwhile would be passed by; where it may
    read all of it, it goes up to there."""
    name = f"apart_{settings.bus_prefix}"
    async with owning(db) as unit:
        await unit.rows(f"create role {name} login password 'apart' in role pasys_app")
    url = re.sub("//[^@]*@", f"//{name}:apart@", settings.require("database_url"))
    apart = Database(msgspec.structs.replace(settings, database_url=url))
    refill = refill_of(apart, bus)
    async with db.unit() as writing:
        await writing.rows("select pg_current_xact_id()")
        with pytest.raises(RightsMissing):
            async with apart.unit() as unit:
                await refill._until(unit)
        async with owning(db) as unit:
            await unit.rows(f"grant pg_read_all_stats to {name}")
        async with apart.unit() as unit:
            assert await refill._until(unit) < module._id_at(writing.now - module.SKEW / 2)
    await apart.close()
    async with owning(db) as unit:
        await unit.rows(f"drop role {name}")


# A bus that forgot ---------------------------------------------------------------------------------------------------


async def test_payments_survive_a_bus_that_lost_its_store(db: Database, settings: Settings) -> None:
    """Created or cleared, acknowledged by NATS, whose store is deleted before anybody consumed it: each settles."""
    async with db.unit() as unit:
        await open_accounts(unit)
    async with a_bus_to_lose(settings) as (nats, here):
        cleared = await pay(db, "10.00")
        async with daemons(here, "fraud"):
            await eventually(lambda: _announced(db, "fraud.cleared"))
        created = await pay(db, "10.00")
        await relayed(db, here)
        bus = await Bus(here).connect()
        assert await on_the_bus(bus) >= 3
        await bus.close()
        await nats.lose_everything()
        async with daemons(here):
            for transaction_id in (cleared, created):
                await until_status(db, transaction_id, "succeeded")
    async with db.unit() as unit:
        assert (await ledger.verify(unit)).ok
        assert await unit.value("select count(*) from fraud_decision") == 2


async def test_refunds_and_flags_survive_a_bus_that_lost_its_store(db: Database, settings: Settings) -> None:
    """A requested refund, a reserved one, and a settled payment that a person has flagged: each goes on to its end."""
    async with db.unit() as unit:
        await open_accounts(unit)
    async with a_bus_to_lose(settings) as (nats, here):
        paid = [await pay(db, "10.00") for _ in range(3)]
        async with daemons(here):
            for transaction_id in paid:
                await until_status(db, transaction_id, "succeeded")
        async with db.unit() as unit:
            asked = [(await refund.request(unit, transaction_id)).refund_id for transaction_id in paid[:2]]
            await fraud.flag(unit, paid[2], "the owner called")
        async with db.unit() as unit:
            reserved = await refund.reserve(unit, asked[1])
            assert reserved is not None
            unit.emit(reserved)
        await relayed(db, here)
        await nats.lose_everything()
        async with daemons(here):
            for refund_id in asked:
                assert (await final_refund(db, refund_id)).status == "completed"
            await until_status(db, paid[2], "refunded")
        assert [len(await refunds_of(db, transaction_id)) for transaction_id in paid] == [1, 1, 1]
    async with db.unit() as unit:
        assert (await ledger.verify(unit)).ok


async def test_a_bus_may_lose_its_store_under_running_daemons(db: Database, settings: Settings) -> None:
    """NATS dies while payments are under way, and comes back empty: streams and consumers are made again."""
    async with db.unit() as unit:
        await open_accounts(unit)
    async with a_bus_to_lose(settings) as (nats, here), daemons(here):
        paid = [await pay(db, "1.00", key=f"before-{index}") for index in range(10)]
        await nats.lose_everything()
        paid += [await pay(db, "1.00", key=f"after-{index}") for index in range(10)]
        for transaction_id in paid:
            await until_status(db, transaction_id, "succeeded", within_s=60)
    assert (await balance_of(db, "shop")).minor == 100 * len(paid)
    async with db.unit() as unit:
        assert (await ledger.verify(unit)).ok


async def test_a_bus_that_lost_single_messages_gets_them_again_after_its_window(
    db: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While NATS remembers the ids of messages that it has lost, it drops their repetition; the next try passes."""
    monkeypatch.setattr("pasys.bus.DUPLICATE_WINDOW_S", 3)
    bus = await Bus(settings).connect()
    await announce(db, opened("a"))
    await relayed(db, settings)
    await bus.js.purge_stream(bus.events)
    refill = refill_of(db, bus)
    await asyncio.sleep(OVERDUE_S + 0.1)
    assert await refill.tick() == 1
    await relayed(db, settings)
    assert await on_the_bus(bus) == 0, "NATS knows this id from before the purge"
    await asyncio.sleep(3.2)
    assert await refill.tick() == 1
    await relayed(db, settings)
    assert await on_the_bus(bus) == 1
    await bus.close()


# What is not lost ----------------------------------------------------------------------------------------------------


async def test_a_message_that_waits_is_late_and_not_lost(db: Database, settings: Settings, effects: Effects) -> None:
    """While the bus still holds a message for its handler, however long, nothing is announced again."""
    ready = asyncio.Event()
    daemon = Daemon("t")

    @daemon.on
    async def slow(event: AccountOpened, unit: Unit) -> None:
        if not ready.is_set():
            raise DatabaseUnavailable(reason="not yet")
        await effects.write(unit, event.name)

    here = msgspec.structs.replace(settings, event_overdue_s=0.3)
    async with running(here, daemon):
        await announce(db, opened("a"))
        await eventually(lambda: overdue(db))
        await asyncio.sleep(2.0)
        assert [row.times for row in await overdue(db)] == [0]
        ready.set()
        assert await effects.until(1, within_s=40) == ["a"]

        async def forgotten() -> bool:
            return not await overdue(db)

        await eventually(forgotten)


async def test_what_is_parked_stays_with_a_person(db: Database, settings: Settings, bus: Bus) -> None:
    """A poison message stands in DEAD once: it is handled by nobody, and yet it is not lost."""
    daemon = Daemon("t")

    @daemon.on
    async def break_(event: AccountOpened, unit: Unit) -> None:
        raise ValueError("a bug")

    here = msgspec.structs.replace(settings, event_overdue_s=0.2)
    async with running(here, daemon):
        await announce(db, opened("a"))
        await dead(bus)
        await asyncio.sleep(2.0)
    assert len(await parked(settings)) == 1
    assert [(row.handler, row.times, row.parked) for row in await overdue(db)] == [("t.break_", 0, True)]


async def test_it_has_its_effect_once(db: Database, settings: Settings, bus: Bus, effects: Effects) -> None:
    """Two handlers, one of which had the event before the bus lost it: the other one gets it, the first does not."""
    first, second = Daemon("a"), Daemon("b")

    @first.on
    async def had(event: AccountOpened, unit: Unit) -> None:
        await effects.write(unit, event.name, "a")

    @second.on
    async def lacks(event: AccountOpened, unit: Unit) -> None:
        await effects.write(unit, event.name, "b")

    async with running(settings, first):
        await announce(db, opened("x"))
        await effects.until(1)
    await bus.js.delete_stream(bus.events)
    async with running(msgspec.structs.replace(settings, event_overdue_s=0.5), first, second):
        await effects.until(2)
        await asyncio.sleep(1.5)
    assert [(row.what, row.who) for row in await effects.all()] in ([("x", "a"), ("x", "b")], [("x", "b"), ("x", "a")])


# How it looks --------------------------------------------------------------------------------------------------------


async def test_it_never_storms(db: Database, settings: Settings, bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest first, a few at a tick, and each after a while that doubles."""
    monkeypatch.setattr(module, "LOOK_MAX", 7)
    monkeypatch.setattr(module, "BRING_MAX", 4)
    for index in range(10):
        await announce(db, opened(f"n{index}"))
    await relayed(db, settings)
    await bus.js.delete_stream(bus.events)
    refill = refill_of(db, bus, after_s=2.0)
    assert (await refill.tick(), await overdue(db)) == (0, []), "it is young"
    await asyncio.sleep(2.1)
    ticks = []
    for _ in range(4):
        ticks.append(await refill.tick())
        async with db.unit() as unit:
            await unit.rows("delete from outbox")  # the bus has it, and loses it again
    assert ticks == [4, 4, 2, 0]
    assert [row.times for row in await overdue(db)] == [1] * 10
    await asyncio.sleep(2.1)
    again = await refill.tick()
    assert again == 4
    rows = await overdue(db)
    assert [row.times for row in rows] == [2] * 4 + [1] * 6
    assert (rows[0].due_at - rows[9].due_at).total_seconds() > 3.5, "the second pause is twice the first"


async def test_what_commits_late_is_seen(db: Database, bus: Bus) -> None:
    """An event is made in a transaction that commits long afterwards: nobody looks past it before it is there."""
    refill = refill_of(db, bus, after_s=0.3)
    async with db.unit() as late:
        late.emit(opened("late"))
        await late.write_outbox(relayed=False)
        late._emitted.clear()
        await announce(db, opened("early"))
        await asyncio.sleep(0.5)
        await refill.tick()
        assert await overdue(db) == []
    async with db.unit() as unit:
        await unit.rows("delete from outbox")
    assert await refill.tick() == 2


async def test_it_can_be_switched_off(settings: Settings, db: Database, effects: Effects) -> None:
    """With `event_overdue_s` 0 nobody looks."""
    daemon = Daemon("t")
    daemon.on(note)
    async with running(msgspec.structs.replace(settings, event_overdue_s=0), daemon):
        await asyncio.sleep(0.5)
    async with db.unit() as unit:
        assert await unit.value("select count(*) from inbox_mark") == 0


async def test_a_daemon_that_is_not_its_consumer_leaves_it_alone(db: Database, bus: Bus) -> None:
    """Each daemon looks for what its own handlers consume."""

    async def other(event: AccountChanged, unit: Unit) -> None: ...

    await announce(db, opened("a"))
    async with db.unit() as unit:
        await unit.rows("delete from outbox")
    await asyncio.sleep(0.4)
    assert await refill_of(db, bus, other, after_s=0.3).tick() == 0
    assert await overdue(db) == []


async def _announced(db: Database, subject: str) -> bool:
    async with db.unit() as unit:
        return await unit.value("select count(*) from event where subject = %(subject)s", subject=subject) > 0
