"""A lane carries one handler's messages from the bus through its effect to the ack.

The point of no return is the commit of the unit that holds both the inbox row and the effect. Whatever dies before it
leaves nothing behind; whatever dies after it finds the row and does nothing again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from nats.aio.msg import Msg

from pasys.bus import BUS_ERRORS, Bus, Pull
from pasys.daemon import Daemon, Handler
from pasys.db import Database, Unit
from pasys.errors import BusUnavailable, Rejected, Unavailable, UndeclaredEvent, UnreadableEvent
from pasys.events import Envelope, Event, decode
from pasys.worker.doors import Doors
from pasys.worker.log import log
from pasys.worker.pulse import Pulse
from pasys.worker.refill import remember_parked
from pasys.worker.relay import Relay

BACKOFF_FIRST_S = 0.2
BACKOFF_MAX_S = 30.0
# A lane that has just been busy waits so long for company before it opens the next transaction: what a transaction
# costs by itself is then shared by many. A lane that was idle does not wait.
LINGER_S = 0.025
BUSY_S = 0.05
FRESH_S = 60.0  # an event that is older has perhaps been here before
_HAD = "select event_id from inbox where handler = %(handler)s and event_id = any (%(ids)s::text[])"
_CLAIM = """
insert into inbox (handler, event_id) select %(handler)s, unnest(%(ids)s::text[])
on conflict do nothing returning event_id
"""


@dataclass(frozen=True, slots=True)
class Delivery:
    message: Msg
    envelope: Envelope
    event: Event

    @property
    def attempts(self) -> int:
        return self.message.metadata.num_delivered or 1

    @property
    def age_s(self) -> float:
        """Since the event was announced."""
        return (datetime.now(UTC) - self.envelope.time).total_seconds()


def backoff_s(attempts: int) -> float:
    """How long to wait before the next delivery: doubling, with jitter, up to a limit."""
    return min(BACKOFF_FIRST_S * 2 ** min(attempts, 10), BACKOFF_MAX_S) * random.uniform(0.7, 1.3)


class Busy:
    """Whether something was done a moment ago."""

    def __init__(self) -> None:
        self._at = float("-inf")

    def now(self) -> None:
        self._at = time.monotonic()

    @property
    def lately(self) -> bool:
        return time.monotonic() - self._at < BUSY_S


class Lane:
    def __init__(
        self,
        daemon: Daemon,
        handler: Handler,
        *,
        db: Database,
        bus: Bus,
        relay: Relay,
        doors: Doors,
        pulse: Pulse,
    ) -> None:
        self.daemon, self.handler = daemon, handler
        self.durable = f"{daemon.name}_{handler.name}"
        self.name = f"{daemon.name}.{handler.name}"
        self.subscribed = asyncio.Event()
        self._db, self._bus, self._relay, self._doors, self._pulse = db, bus, relay, doors, pulse
        self._in_hand: dict[int, Msg] = {}
        self._capacity = bus.settings.batch_size
        self._busy = Busy()

    async def run(self, stop: asyncio.Event) -> None:
        """Carry messages until `stop`; then finish what is in hand and give back what is not begun."""
        pull = await self._subscribe(stop)
        if pull is None:
            return
        self.subscribed.set()
        heartbeat = asyncio.create_task(self._heartbeat(pull))
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                taking = asyncio.create_task(pull.take(self._room()))
                await asyncio.wait({taking, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not taking.done():
                    taking.cancel()
                    break
                messages = taking.result()
                if self.handler.touches_books and self._busy.lately and len(messages) < self._capacity:
                    await asyncio.sleep(LINGER_S)
                    messages += pull.arrived(self._capacity - len(messages))
                await self._carry(messages)
                self._busy.now()
        finally:
            for message in await pull.close():
                with contextlib.suppress(*BUS_ERRORS):
                    await message.nak()
            await self._drain()
            heartbeat.cancel()
            stopping.cancel()

    async def _subscribe(self, stop: asyncio.Event) -> Pull | None:
        subjects = [kind.subject for kind in self.handler.consumes]
        while not stop.is_set():
            try:
                return await self._bus.subscribe(self.durable, subjects, batch=self._capacity)
            except BusUnavailable as error:
                log.warning("%s waits for the bus: %s", self.name, error)
                await asyncio.sleep(0.3)
        return None

    async def _heartbeat(self, pull: Pull) -> None:
        """Tell the server that slow work goes on, so that it does not deliver again."""
        while True:
            await asyncio.sleep(self._bus.settings.ack_wait_s / 3)
            for message in [*self._in_hand.values(), *pull.waiting()]:
                with contextlib.suppress(Exception):  # a beat that fails costs at most one redelivery
                    await message.in_progress()

    def _room(self) -> int:
        """How many messages may be taken now."""
        return self._capacity

    async def _carry(self, messages: list[Msg]) -> None:
        raise NotImplementedError

    async def _drain(self) -> None:
        """Finish what was begun."""

    async def _read(self, messages: Sequence[Msg]) -> list[Delivery]:
        """Decode; what cannot be read is parked and holds nobody up."""
        deliveries = []
        for message in messages:
            self._in_hand[id(message)] = message
            try:
                deliveries.append(Delivery(message, *decode(message.data, subject=message.subject)))
            except UnreadableEvent as error:
                await self._park(message, "", error)
        return deliveries

    async def claim(self, unit: Unit, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """The deliveries that this handler has not had before; the others had their effect already."""
        by_id = {delivery.envelope.id: delivery for delivery in deliveries}
        rows = await unit.rows(_CLAIM, handler=self.name, ids=sorted(by_id))
        fresh = {row.event_id for row in rows}
        return [delivery for event_id, delivery in by_id.items() if event_id in fresh]

    async def refuse(self, delivery: Delivery, no: Rejected) -> None:
        """Announce what the daemon makes of a refusal, once."""
        log.info("%s refused %s: %s", self.name, delivery.event.entity_id, no)
        async with self._unit([delivery]) as unit:
            said = self.daemon.refused(delivery.event, no)
            if await self.claim(unit, [delivery]) and said is not None:
                unit.emit(said)
        self._relay.offer(unit.announcements)
        self._pulse.beat.rejected += 1
        await self._done([delivery])

    def _unit(self, deliveries: Sequence[Delivery]):
        causes = {delivery.event.correlation_id: delivery.envelope.id for delivery in deliveries}
        return self._db.unit(actor=f"daemon:{self.daemon.name}", causes=causes, relayed=True)

    def emit(self, unit: Unit, outcome: Any) -> None:
        """Announce what a handler returned. Raises UndeclaredEvent for what its signature does not name."""
        emitted: list[Event] = outcome if isinstance(outcome, list) else [outcome] if outcome is not None else []
        for event in emitted:
            if type(event) not in self.handler.emits:
                raise UndeclaredEvent(handler=self.name, event=type(event).__name__)
        unit.emit(*emitted)

    async def fail(self, delivery: Delivery, error: Exception) -> None:
        """One message that did not work: refused, tried again later, or parked, by the error's family.

        A refusal that the daemon has no words for is parked: a fact that nobody would hear of must not be lost.
        """
        if isinstance(error, Rejected) and type(delivery.event) in self.daemon.refusable:
            await self.refuse(delivery, error)
        elif isinstance(error, Unavailable) or (
            _may_pass(error) and delivery.attempts < self._bus.settings.deliveries_max
        ):
            await self._retry([delivery], error)
        else:
            await self._park(delivery.message, delivery.envelope.id, error)

    async def _settle_failure(self, delivery: Delivery, error: Exception) -> None:
        try:
            await self.fail(delivery, error)
        except Unavailable as lost:
            await self._retry([delivery], lost)
        except Exception as bug:  # in what the daemon makes of a refusal: it must not end the lane
            await self._park(delivery.message, delivery.envelope.id, bug)

    async def _retry(self, deliveries: Sequence[Delivery], error: Exception) -> None:
        log.warning("%s tries %d again: %s", self.name, len(deliveries), error)
        self._pulse.beat.retried += len(deliveries)
        self._pulse.failed(f"{self.handler.name}: {error}")
        for delivery in deliveries:
            with contextlib.suppress(*BUS_ERRORS):
                await delivery.message.nak(delay=backoff_s(delivery.attempts))
            self._in_hand.pop(id(delivery.message), None)

    async def _park(self, message: Msg, event_id: str, error: Exception) -> None:
        trace = "".join(traceback.format_exception(error))
        log.error("%s parks %s: %s\n%s", self.name, event_id or message.subject, error, trace)
        self._pulse.beat.parked += 1
        self._pulse.failed(f"{self.handler.name} parked {event_id}: {error}")
        reason = f"{type(error).__name__}: {error}"
        try:
            await self._bus.park(message, handler=self.name, event_id=event_id, reason=reason, traceback=trace)
            if event_id:
                await remember_parked(self._db, self.name, event_id)
        except (Unavailable, *BUS_ERRORS) as lost:
            log.warning("%s could not park; it will be delivered again: %s", self.name, lost)
        self._in_hand.pop(id(message), None)

    async def _done(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            with contextlib.suppress(*BUS_ERRORS):  # an ack that is lost costs a redelivery, which the inbox refuses
                await delivery.message.ack()
            self._in_hand.pop(id(delivery.message), None)
        self._pulse.beat.handled += len(deliveries)


class BooksLane(Lane):
    """Messages in batches, each batch in one transaction."""

    async def _carry(self, messages: list[Msg]) -> None:
        deliveries = await self._read(messages)
        if deliveries:
            await self._deliver(deliveries)

    async def _deliver(self, deliveries: list[Delivery]) -> None:
        try:
            await self._attempt(deliveries)
        except Unavailable as error:
            await self._retry(deliveries, error)
        except Exception as error:
            if len(deliveries) == 1:
                await self._settle_failure(deliveries[0], error)
                return
            middle = len(deliveries) // 2  # a bad message never holds back a good one
            await self._deliver(deliveries[:middle])
            await self._deliver(deliveries[middle:])
        else:
            await self._done(deliveries)

    async def _attempt(self, deliveries: list[Delivery]) -> None:
        """One transaction: claim, handle, announce, commit."""
        readings = []
        if self.handler.reads is not None:
            door = await self._doors.of(self.handler.reads.door)
            readings.append(await self.handler.reads.read(door, [delivery.event for delivery in deliveries]))
        async with self._unit(deliveries) as unit:
            fresh = await self.claim(unit, deliveries)
            events = [delivery.event for delivery in fresh]
            if events and self.handler.batch:
                self.emit(unit, await self.handler.call(events, unit, *readings))
            elif events:
                for event in events:
                    self.emit(unit, await self.handler.call(event, unit, *readings))
        self._relay.offer(unit.announcements)


class WorldLane(Lane):
    """Messages side by side, up to a limit; their outcomes are recorded together."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._capacity = self._bus.settings.world_concurrency
        self._calls: set[asyncio.Task[None]] = set()
        self._answers: asyncio.Queue[tuple[Delivery, Any]] = asyncio.Queue()
        self._recorder: asyncio.Task[None] | None = None

    async def _carry(self, messages: list[Msg]) -> None:
        if self._recorder is None:
            self._recorder = asyncio.create_task(self._record_for_ever())
        elif self._recorder.done():
            self._recorder.result()  # a bug that ends the process: answers that nobody records must not be asked for
        for delivery in await self._unanswered(await self._read(messages)):
            call = asyncio.create_task(self._ask(delivery))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
        while len(self._calls) >= self._capacity:
            await asyncio.wait(self._calls, return_when=asyncio.FIRST_COMPLETED)

    def _room(self) -> int:
        return self._capacity - len(self._calls)

    async def _unanswered(self, deliveries: list[Delivery]) -> list[Delivery]:
        """Those whose answer is not on record. Only what comes again is looked up: a replay asks nobody twice."""
        again = [d for d in deliveries if d.attempts > 1 or d.age_s > FRESH_S]
        if not again:
            return deliveries
        try:
            async with self._db.unit() as unit:
                rows = await unit.rows(_HAD, handler=self.name, ids=[delivery.envelope.id for delivery in again])
        except Unavailable:  # asking again under the same key is safe
            return deliveries
        had = {row.event_id for row in rows}
        await self._done([delivery for delivery in deliveries if delivery.envelope.id in had])
        return [delivery for delivery in deliveries if delivery.envelope.id not in had]

    async def _ask(self, delivery: Delivery) -> None:
        try:
            door = await self._doors.of(self.handler.uses, delivery.event)
            answer = await self.handler.call(delivery.event, door)
        except Exception as error:
            answer = error
        await self._answers.put((delivery, answer))

    async def _record_for_ever(self) -> None:
        busy = Busy()
        while True:
            answers = [await self._answers.get()]
            if busy.lately:
                await asyncio.sleep(LINGER_S)
            while not self._answers.empty():
                answers.append(self._answers.get_nowait())
            await self._record(answers)
            busy.now()
            for _ in answers:
                self._answers.task_done()

    async def _record(self, answers: list[tuple[Delivery, Any]]) -> None:
        answered = [(delivery, answer) for delivery, answer in answers if not isinstance(answer, Exception)]
        if answered:
            await self._write_or_split(answered)
        for delivery, answer in answers:
            if isinstance(answer, Exception):
                await self._settle_failure(delivery, answer)

    async def _write_or_split(self, answered: list[tuple[Delivery, Any]]) -> None:
        try:
            await self._write(answered)
        except Exception as error:
            if len(answered) == 1 or isinstance(error, Unavailable):
                for delivery, _ in answered:
                    await self._settle_failure(delivery, error)
                return
            middle = len(answered) // 2  # a bad answer never holds back a good one
            await self._write_or_split(answered[:middle])
            await self._write_or_split(answered[middle:])

    async def _write(self, answered: list[tuple[Delivery, Any]]) -> None:
        deliveries = [delivery for delivery, _ in answered]
        async with self._unit(deliveries) as unit:
            said = {delivery.envelope.id: answer for delivery, answer in answered}  # once, if delivered twice
            for delivery in await self.claim(unit, deliveries):
                self.emit(unit, said[delivery.envelope.id])
        self._relay.offer(unit.announcements)
        await self._done(deliveries)

    async def _drain(self) -> None:
        if self._calls:
            await asyncio.wait(self._calls)
        await self._answers.join()
        if self._recorder is not None:
            self._recorder.cancel()


def _may_pass(error: Exception) -> bool:
    """Failures that another try may not meet: a race that a constraint stopped, a connection that broke."""
    from psycopg import IntegrityError
    from sqlalchemy.exc import IntegrityError as WrappedIntegrityError

    return isinstance(error, IntegrityError | WrappedIntegrityError | OSError | TimeoutError)
