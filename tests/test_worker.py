"""A message has its effect once, whatever happens on the way: batches, refusals, silence, bugs, stops, lost acks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from nats.aio.msg import Msg

from pasys.adapters import Counters, Psp
from pasys.bus import Bus
from pasys.daemon import Daemon, Handler
from pasys.db import Database, Unit
from pasys.errors import AccountFrozen, DatabaseUnavailable, DeadLetterNotFound, Rejected
from pasys.events import AccountChanged, AccountOpened, Announcement, decode
from pasys.service import event as event_service
from tests.support import eventually, owning
from tests.worker_kit import Effects, announced, dead, deliver, on_the_bus, opened, running, until_idle


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


def changed(event: AccountOpened, status: str = "seen") -> AccountChanged:
    return AccountChanged(account_id=event.account_id, name=event.name, status=status, asset=event.asset)


# Wiring --------------------------------------------------------------------------------------------------------------


async def both(event: AccountOpened, unit: Unit, psp: Psp) -> None: ...
async def both_the_other_way(event: AccountOpened, psp: Psp, unit: Unit) -> None: ...
async def a_batch_for_the_world(events: list[AccountOpened], psp: Psp) -> None: ...
async def something_else(event: AccountOpened, database: Database) -> None: ...
async def no_event(name: str, unit: Unit) -> None: ...
async def nothing_to_use(event: AccountOpened) -> None: ...
async def too_much(event: AccountOpened, unit: Unit, one: Psp, two: Psp) -> None: ...


MIXED = [both, both_the_other_way, a_batch_for_the_world, something_else, no_event, nothing_to_use, too_much]


@pytest.mark.parametrize("call", MIXED, ids=lambda call: call.__name__)
def test_a_handler_touches_the_books_or_the_world(call: Any):
    """A signature that mixes them, or wires nothing, does not import."""
    with pytest.raises(AssertionError):
        Daemon("t").on(call)


def test_a_timer_touches_the_books_only():
    """A timer that would wait for the world does not import."""

    async def ask(psp: Psp) -> None: ...

    with pytest.raises(AssertionError):
        Daemon("t").every(1)(ask)


def test_a_signature_is_the_wiring():
    """What is consumed, emitted and used is read from the signature alone."""

    async def note(events: list[AccountOpened | AccountChanged], unit: Unit) -> list[AccountChanged]:
        return []

    wired = Handler.of(note)
    assert wired.consumes == (AccountOpened, AccountChanged) and wired.emits == {AccountChanged}
    assert wired.batch and wired.touches_books and wired.reads is None


# Books ---------------------------------------------------------------------------------------------------------------


async def test_delivered_three_times_it_happens_once(settings, bus, effects, db):
    """At-least-once delivery becomes exactly-once bookkeeping, and one announcement with its cause."""
    daemon = Daemon("t")

    @daemon.on
    async def note(event: AccountOpened, unit: Unit) -> AccountChanged:
        await effects.write(unit, event.name)
        return changed(event)

    await deliver(bus, opened("one"), times=3)
    async with running(settings, daemon):
        await until_idle(bus, "t_note")
    assert await effects.whats() == ["one"]
    (said,) = await announced(db, "account.changed")
    envelope, _ = decode(bytes(said.body))
    assert envelope.causation_id and envelope.actor == "daemon:t"
    assert await on_the_bus(bus) == 4


@pytest.mark.parametrize(
    ("bug", "reason"),
    [
        ("select 1 / 0", "DivisionByZero: division by zero"),
        (
            "delete from transfer",
            "RightsMissing: PostgreSQL does not let this be done: permission denied for table tran",
        ),
    ],
)
async def test_a_bad_message_holds_back_no_good_one(settings, bus, effects, bug, reason):
    """Of a batch with a bug in one message, the others commit; the bad one is put aside with reason and traceback."""
    daemon, sizes = Daemon("t"), []

    @daemon.on
    async def note(events: list[AccountOpened], unit: Unit) -> None:
        sizes.append(len(events))
        for event in events:
            await effects.write(unit, event.name)
            if event.name == "bad":
                await unit.rows(bug)

    names = ["a", "b", "c", "bad", "d", "e", "f", "g"]
    await deliver(bus, *map(opened, names))
    async with running(settings, daemon):
        info = await until_idle(bus, "t_note")
        (letter,) = await dead(bus)
    assert sizes[0] == 8, "it was one batch"
    assert await effects.whats() == sorted(set(names) - {"bad"})
    assert (letter.handler, letter.subject) == ("t.note", "account.opened.USD")
    assert letter.reason.startswith(reason)
    assert "in note" in letter.traceback and letter.event_id.startswith("evt_")
    assert info.num_redelivered == 0


async def test_what_cannot_be_read_is_put_aside(settings, bus, effects):
    """Bytes that are no event stand in DEAD as they came, and those behind them are handled."""
    daemon = Daemon("t")

    @daemon.on
    async def note(event: AccountOpened, unit: Unit) -> None:
        await effects.write(unit, event.name)

    await bus.publish([Announcement("m1", "account.opened.USD", b"\x00not an event")])
    await deliver(bus, opened("good"))
    async with running(settings, daemon):
        (letter,) = await dead(bus)
        assert await effects.until(1) == ["good"]
    assert letter.body == b"\x00not an event" and letter.reason.startswith("UnreadableEvent")


async def test_a_refusal_is_announced_once_and_leaves_nothing(settings, bus, effects, db):
    """Rejected rolls the handler's work back, and what `refused` makes of it is said once, however often delivered."""

    def refused(event: AccountOpened, no: Rejected) -> AccountChanged:
        return changed(event, no.code)

    daemon = Daemon("t", refused=refused)

    @daemon.on
    async def note(events: list[AccountOpened], unit: Unit) -> None:
        for event in events:
            await effects.write(unit, event.name)
            if event.name == "no":
                raise AccountFrozen(account=event.name)

    await deliver(bus, opened("yes"), opened("also"))
    await deliver(bus, opened("no"), times=3)
    async with running(settings, daemon):
        await until_idle(bus, "t_note")
    assert await effects.whats() == ["also", "yes"]
    (said,) = await announced(db, "account.changed")
    assert decode(bytes(said.body))[1].status == "account_frozen"
    assert await event_service.dead_letters(bus) == []


async def test_a_bug_in_a_refusal_holds_nobody_up(settings, bus, effects):
    """Where what is made of a refusal is itself a bug, the message is put aside and the next one is handled."""

    def refused(event: AccountOpened, no: Rejected) -> AccountChanged:
        raise KeyError("the bug")

    daemon = Daemon("t", refused=refused)

    @daemon.on
    async def note(event: AccountOpened, unit: Unit) -> None:
        if event.name == "no":
            raise AccountFrozen(account=event.name)
        await effects.write(unit, event.name)

    await deliver(bus, opened("no"), opened("yes"))
    async with running(settings, daemon):
        (letter,) = await dead(bus)
        assert await effects.until(1) == ["yes"]
    assert letter.reason == "KeyError: 'the bug'"


async def test_silence_is_tried_again_and_never_put_aside(settings, bus, effects):
    """Unavailable is retried after a growing pause, beyond the limit that parks others; the message waits its turn."""
    daemon, tries = Daemon("t"), []

    @daemon.on
    async def note(event: AccountOpened, unit: Unit) -> None:
        tries.append(time.monotonic())
        if len(tries) < 4:
            raise DatabaseUnavailable(reason="it is away")
        await effects.write(unit, event.name)

    await deliver(bus, opened("patient"))
    async with running(msgspec.structs.replace(settings, deliveries_max=1), daemon):
        assert await effects.until(1) == ["patient"]
        await until_idle(bus, "t_note")
    first, second, third = (later - earlier for earlier, later in pairwise(tries))
    assert first > 0.25 and second > 0.5 and third > 1.0
    assert await event_service.dead_letters(bus) == []


async def test_what_a_signature_does_not_name_is_not_announced(settings, bus, effects, db):
    """An undeclared event is a bug: nothing of the handler's work stays, and the message is put aside."""
    daemon = Daemon("t")

    @daemon.on
    async def note(event: AccountOpened, unit: Unit) -> None:
        await effects.write(unit, event.name)
        return changed(event)  # type: ignore[return-value]

    await deliver(bus, opened("one"))
    async with running(settings, daemon):
        (letter,) = await dead(bus)
    assert letter.reason.startswith("UndeclaredEvent") and "AccountChanged" in letter.reason
    assert await effects.whats() == [] and await announced(db, "account.changed") == []


async def test_the_ack_comes_after_the_commit(settings, bus, effects, monkeypatch):
    """When a message is acknowledged its effect is there for everybody; an ack that is lost brings no second effect."""
    daemon, seen, calls, ack = Daemon("t"), [], [], Msg.ack

    @daemon.on
    async def note(event: AccountOpened, unit: Unit) -> None:
        calls.append(event.name)
        await effects.write(unit, event.name)

    async def lost_once(message: Msg) -> None:
        seen.append(await effects.whats())
        if len(seen) > 1:
            await ack(message)

    monkeypatch.setattr(Msg, "ack", lost_once)
    await deliver(bus, opened("one"))
    async with running(msgspec.structs.replace(settings, ack_wait_s=0.5), daemon):
        info = await until_idle(bus, "t_note")
    assert seen == [["one"], ["one"]], "acknowledged twice, after the commit"
    assert calls == ["one"] and info.delivered.consumer_seq == 2


async def test_a_dead_letter_is_replayed(settings, bus, effects):
    """Once the bug is gone, a parked message is sent again, handled, and forgotten."""
    daemon, bug = Daemon("t"), [True]

    @daemon.on
    async def note(event: AccountOpened, unit: Unit) -> None:
        if bug:
            raise RuntimeError("still there")
        await effects.write(unit, event.name)

    await deliver(bus, opened("one"))
    async with running(settings, daemon):
        (letter,) = await dead(bus)
        bug.clear()
        await event_service.replay_dead(bus, letter.sequence)
        assert await effects.until(1) == ["one"]
    assert await event_service.dead_letters(bus) == []
    with pytest.raises(DeadLetterNotFound):
        await event_service.replay_dead(bus, letter.sequence)


# The world -----------------------------------------------------------------------------------------------------------


class World:
    """Somebody else's service, as slow as it likes to be."""

    def __init__(self, takes_s: float) -> None:
        self.takes_s = takes_s
        self.asked: list[str] = []
        self.answered: list[str] = []

    async def count_decline(self, transaction_id: str) -> None:
        self.asked.append(transaction_id)
        await asyncio.sleep(self.takes_s)
        self.answered.append(transaction_id)


def asking(world: World) -> Daemon:
    async def door(settings: Any, db: Any) -> World:
        return world

    daemon = Daemon("t", doors={Counters: door})

    @daemon.on
    async def ask(event: AccountOpened, counters: Counters) -> AccountChanged:
        await counters.count_decline(event.name)
        return changed(event)

    return daemon


async def test_slow_work_is_not_delivered_again(settings, bus, db):
    """A call that takes longer than the bus waits for an ack is made once: heartbeats say that it goes on."""
    world = World(takes_s=1.8)
    await deliver(bus, opened("slow"), opened("too"))
    async with running(msgspec.structs.replace(settings, ack_wait_s=0.6), asking(world)):
        info = await until_idle(bus, "t_ask")
    assert sorted(world.asked) == ["slow", "too"] and info.delivered.consumer_seq == 2
    assert len(await announced(db, "account.changed")) == 2


async def test_an_answer_is_recorded_once(settings, bus, db):
    """The world may be asked again, under the same key; what it said is announced once."""
    await deliver(bus, opened("one"), times=3)
    async with running(settings, asking(World(takes_s=0.05))):
        await until_idle(bus, "t_ask")
    assert len(await announced(db, "account.changed")) == 1


async def test_a_bad_answer_holds_back_no_good_one(settings, bus, db):
    """Answers are recorded together; one that is not declared is put aside, and the others stand."""
    world = World(takes_s=0.1)
    daemon = asking(world)

    @daemon.on
    async def wrong(event: AccountOpened, counters: Counters) -> AccountChanged:
        await counters.count_decline(event.name)
        return event if event.name == "bad" else changed(event, "right")  # type: ignore[return-value]

    await deliver(bus, *map(opened, ["a", "bad", "b", "c"]))
    async with running(settings, daemon):
        (letter,) = await dead(bus)
        await until_idle(bus, "t_wrong")
    said = [decode(bytes(row.body))[1] for row in await announced(db, "account.changed")]
    assert sorted(event.name for event in said if event.status == "right") == ["a", "b", "c"]
    assert letter.handler == "t.wrong" and letter.reason.startswith("UndeclaredEvent")


async def test_a_stop_finishes_what_is_in_hand_and_gives_back_the_rest(settings, bus, db):
    """A worker that is told to stop answers for what it began; what it had only fetched goes to another at once."""
    first, second = World(takes_s=0.6), World(takes_s=0.0)
    patient = msgspec.structs.replace(settings, ack_wait_s=60.0, world_concurrency=2)
    await deliver(bus, *(opened(f"n{i}") for i in range(9)))

    async def begun() -> bool:
        return len(first.asked) == 2

    async with running(patient, asking(first)) as stop:
        await eventually(begun)
        stop.set()
    assert first.asked == first.answered and len(first.asked) <= 4
    began = time.monotonic()
    async with running(patient, asking(second)):
        await until_idle(bus, "t_ask")
    assert time.monotonic() - began < 5
    assert sorted(first.asked + second.asked) == [f"n{i}" for i in range(9)]
    assert len(await announced(db, "account.changed")) == 9


async def test_copies_share_the_work(settings, bus, effects):
    """Two copies of a daemon each do a part, and nothing is done by both."""

    def copy(who: str) -> Daemon:
        daemon = Daemon("t")

        @daemon.on
        async def note(events: list[AccountOpened], unit: Unit) -> None:
            for event in events:
                await effects.write(unit, event.name, who)

        return daemon

    names = [f"n{i:03}" for i in range(120)]
    async with running(msgspec.structs.replace(settings, batch_size=5), copy("one"), copy("two")):
        await asyncio.gather(*(deliver(bus, opened(name)) for name in names))
        assert await effects.until(len(names)) == names
        await until_idle(bus, "t_note")
    assert await effects.whats() == names
    assert {row.who for row in await effects.all()} == {"one", "two"}
