"""NATS JetStream: two streams, publish with an ack, pull, park. The outbox is the truth; this is the wire.

EVENTS carries every subject of the catalogue; DEAD keeps what could not be handled, with its reason. A repeated publish
of the same event is dropped by the server (Nats-Msg-Id is the event's id).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, RawStreamMsg, StorageType, StreamConfig
from nats.js.errors import APIError, NotFoundError

from pasys.config import Settings
from pasys.errors import BusUnavailable, DeadLetterNotFound
from pasys.events import CATALOG, Announcement
from pasys.pull import BUS_ERRORS as BUS_ERRORS
from pasys.pull import Pull as Pull

KEEP_S = 3 * 86_400
DEAD_KEEP_S = 90 * 86_400
DUPLICATE_WINDOW_S = 120
PUBLISH_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 5.0
NEWEST_TIMEOUT_S = 0.5  # for the first of them; what is there comes at once
HEADERS_MAX = 1_024  # of a message's size, for what we write above its body
log = logging.getLogger("pasys")


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was parked: where it came from, why it stands here, and how often it was tried."""

    sequence: int
    subject: str
    handler: str
    event_id: str
    reason: str
    traceback: str
    deliveries: int
    parked_at: datetime
    body: bytes


@dataclass(frozen=True, slots=True)
class Watch:
    """Somebody looks at what passes, until they no longer do."""

    subscriptions: Sequence[Subscription]

    async def unsubscribe(self) -> None:
        for subscription in self.subscriptions:
            await subscription.unsubscribe()


class Bus:
    """A connection that outlives the server: it reconnects for ever, and every call says when it cannot."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.prefix = f"{settings.bus_prefix}." if settings.bus_prefix else ""
        stem = settings.bus_prefix.upper().replace(".", "_")
        self.events = f"{stem}_EVENTS" if stem else "EVENTS"
        self.dead = f"{stem}_DEAD" if stem else "DEAD"
        self._client = Client()
        self._stream: JetStreamContext | None = None

    @property
    def js(self) -> JetStreamContext:
        assert self._stream is not None, "connect first"
        return self._stream

    @property
    def client(self) -> Client:
        return self._client

    async def connect(self, *, name: str = "pasys", wait: bool = False) -> Bus:
        """Connect and make the streams exist. With `wait`, try until the server is there; else BusUnavailable."""
        while True:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):  # the client itself would try for ever
                    self._client = await nats.connect(
                        self.settings.require("nats_url"),
                        name=name,
                        connect_timeout=3,
                        max_reconnect_attempts=-1,
                        reconnect_time_wait=0.25,
                        allow_reconnect=True,
                        error_cb=_quiet,
                        pending_size=64 * 1024 * 1024,
                    )
                self._stream = self._client.jetstream(timeout=PUBLISH_TIMEOUT_S, publish_async_max_pending=4096)
                await self._ensure_streams()
                return self
            except (*BUS_ERRORS, APIError) as error:
                await self.close()
                if not wait:
                    raise BusUnavailable(reason=str(error) or type(error).__name__) from None
                await asyncio.sleep(0.25)

    async def close(self) -> None:
        if self._client.is_connected or self._client.is_reconnecting:  # one that never was cannot be closed
            with contextlib.suppress(*BUS_ERRORS):
                await self._client.close()

    async def _ensure_streams(self) -> None:
        await self._ensure(self.events, [f"{self.prefix}{noun}.>" for noun in _nouns()], KEEP_S)
        await self._ensure(self.dead, [f"{self.prefix}dead.>"], DEAD_KEEP_S)

    async def _ensure(self, name: str, subjects: list[str], keep_s: int) -> None:
        config = StreamConfig(
            name=name,
            subjects=subjects,
            storage=StorageType.FILE,
            max_age=keep_s,
            duplicate_window=DUPLICATE_WINDOW_S,
            allow_direct=True,
        )
        try:
            found = await self.js.stream_info(name)
            if sorted(found.config.subjects or []) != sorted(subjects):
                await self.js.update_stream(config)
        except NotFoundError:
            await self.js.add_stream(config)

    async def empty(self) -> None:
        """Forget all messages, dead letters and consumers; the streams stand anew. Raises BusUnavailable."""
        try:
            for name in (self.events, self.dead):
                await self.js.delete_stream(name)
            await self._ensure_streams()
        except (*BUS_ERRORS, APIError) as error:
            raise BusUnavailable(reason=str(error) or type(error).__name__) from None

    async def publish(self, announcements: Sequence[Announcement]) -> list[str]:
        """Publish, all in flight at once; the ids that the server has acknowledged."""
        if not announcements or not self._client.is_connected:
            return []
        futures = []
        try:
            async with asyncio.timeout(PUBLISH_TIMEOUT_S):  # once for all: a limit on each would cost a task for each
                for said in announcements:
                    if len(said.body) + HEADERS_MAX > self._client.max_payload:
                        log.error("%s %s is too large for the bus, and stays", said.subject, said.event_id)
                        continue  # it must not hold up what stands behind it
                    future = await self.js.publish_async(
                        f"{self.prefix}{said.subject}", said.body, headers={"Nats-Msg-Id": said.event_id}
                    )
                    futures.append((said.event_id, future))
        except BUS_ERRORS:
            pass  # those that were sent may still be acknowledged; the others stay in the outbox
        if futures:
            await asyncio.wait([future for _, future in futures], timeout=PUBLISH_TIMEOUT_S)
        acked = []
        for event_id, future in futures:
            if future.done() and not future.cancelled() and future.exception() is None:
                acked.append(event_id)
            else:
                future.cancel()
        return acked

    async def subscribe(self, durable: str, subjects: Sequence[str], *, batch: int) -> Pull:
        """A durable pull consumer that all copies of a handler share. Raises BusUnavailable."""
        filters = [f"{self.prefix}{subject}.*" for subject in subjects]
        config = ConsumerConfig(
            durable_name=durable,
            filter_subjects=filters,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=self.settings.ack_wait_s,
            max_deliver=-1,  # the server would drop silently; the worker counts and parks
            max_ack_pending=max(4_000, 16 * batch),
            deliver_policy=DeliverPolicy.ALL,
        )

        async def make() -> None:
            await self._ensure_streams()
            await self.js.add_consumer(self.events, config)

        try:
            await make()
        except (*BUS_ERRORS, APIError) as error:
            raise BusUnavailable(reason=str(error) or type(error).__name__) from None
        pull = Pull(self._client, f"$JS.API.CONSUMER.MSG.NEXT.{self.events}.{durable}", batch=batch, make=make)
        await pull.open()
        return pull

    async def lag(self, durable: str) -> int | None:
        """Messages that the consumer has not finished; None while nobody can say."""
        try:
            info = await self.js.consumer_info(self.events, durable, timeout=2)
        except (*BUS_ERRORS, APIError):
            return None
        return (info.num_pending or 0) + (info.num_ack_pending or 0)

    async def waits_since(self, durable: str) -> datetime | None:
        """No message that the consumer has not finished is older than this; None where it has finished all.

        Raises BusUnavailable.
        """
        try:
            info = await self.js.consumer_info(self.events, durable, timeout=2)
            if not info.num_pending and not info.num_ack_pending:
                return None
            finished = info.ack_floor.stream_seq if info.ack_floor else 0
            oldest = await self.js.get_msg(self.events, seq=finished + 1, subject=">", next=True)
            return oldest.time
        except NotFoundError:  # nobody has asked for its messages yet, or the last of them has just gone
            return None
        except (*BUS_ERRORS, APIError) as error:
            raise BusUnavailable(reason=str(error) or type(error).__name__) from None

    async def park(self, message: Msg, *, handler: str, event_id: str, reason: str, traceback: str) -> None:
        """Put a message aside, with the reason, and stop its delivery. Parked twice, it stands here once."""
        metadata = message.metadata
        await self.js.publish(
            f"{self.prefix}dead.{handler.replace('.', '_')}",
            message.data,
            headers={
                "Nats-Msg-Id": f"{handler}:{metadata.sequence.stream}",
                "Pasys-Subject": message.subject.removeprefix(self.prefix),
                "Pasys-Handler": handler,
                "Pasys-Event": event_id,
                "Pasys-Reason": " ".join(reason.split())[:500],
                "Pasys-Traceback": traceback.replace("\r", "").replace("\n", "\\n")[-4000:],
                "Pasys-Deliveries": str(metadata.num_delivered),
            },
        )
        await message.term()

    async def dead_letters(self, *, limit: int = 1_000, after: int = 0) -> list[DeadLetter]:
        """What stands in DEAD behind a sequence, oldest first."""
        state = (await self.js.stream_info(self.dead)).state
        found: list[DeadLetter] = []
        sequence = max(state.first_seq, 1, after + 1)  # a stream that was never used says 0
        while sequence <= state.last_seq and len(found) < limit:
            with contextlib.suppress(NotFoundError):
                found.append(_dead_letter(await self.js.get_msg(self.dead, seq=sequence)))
            sequence += 1
        return found

    async def dead_letter(self, sequence: int) -> DeadLetter:
        """One dead letter. Raises DeadLetterNotFound."""
        try:
            return _dead_letter(await self.js.get_msg(self.dead, seq=sequence))
        except (NotFoundError, APIError):
            raise DeadLetterNotFound(sequence=sequence) from None

    async def forget(self, sequence: int) -> None:
        """Remove a dead letter, once it was replayed or given up."""
        await self.js.delete_msg(self.dead, sequence)

    async def tail(self, subject: str, *, last: int = 0) -> AsyncIterator[Msg]:
        """Messages as they come, for people to look at; with `last`, the newest that many first."""
        config = ConsumerConfig(ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.NEW)
        if last:
            state = (await self.js.stream_info(self.events)).state
            config.deliver_policy = DeliverPolicy.BY_START_SEQUENCE
            config.opt_start_seq = max(state.first_seq, state.last_seq - last + 1, 1)
        subscription = await self.js.subscribe(f"{self.prefix}{subject}", stream=self.events, config=config)
        try:
            async for message in subscription.messages:
                yield message
        finally:
            await subscription.unsubscribe()

    async def newest(self, subject: str, *, among: int) -> list[Msg]:
        """Those on a subject among the newest so many messages of the bus, oldest first. Raises BusUnavailable."""
        try:
            state = (await self.js.stream_info(self.events)).state
            if not state.messages:
                return []
            config = ConsumerConfig(
                ack_policy=AckPolicy.NONE,
                deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=max(state.first_seq, state.last_seq - among + 1, 1),
            )
            subscription = await self.js.pull_subscribe(f"{self.prefix}{subject}", stream=self.events, config=config)
            try:
                return await subscription.fetch(among, timeout=NEWEST_TIMEOUT_S)
            except TimeoutError:
                return []
            finally:
                await subscription.unsubscribe()
        except (*BUS_ERRORS, APIError) as error:
            raise BusUnavailable(reason=str(error) or type(error).__name__) from None

    async def watch(self, subject: str, hear: Callable[[Msg], Awaitable[None]]) -> Watch:
        """Events as they pass, for people to look at: it costs the streams nothing, and what passes while the
        connection is away is not seen. Raises BusUnavailable."""
        first, *rest = subject.split(".")
        # For any noun the server is asked for each of ours: without a prefix all it says itself would match, too.
        subjects = [".".join([noun, *(rest or [first])]) for noun in _nouns()] if first in ("*", ">") else [subject]
        try:
            return Watch([await self._client.subscribe(f"{self.prefix}{one}", cb=hear) for one in subjects])
        except BUS_ERRORS as error:
            raise BusUnavailable(reason=str(error) or type(error).__name__) from None


def _nouns() -> list[str]:
    """What events are about: the first word of their subjects."""
    return sorted({subject.split(".")[0] for subject in CATALOG})


def _dead_letter(message: RawStreamMsg) -> DeadLetter:
    headers = message.headers or {}
    return DeadLetter(
        sequence=message.seq or 0,
        subject=headers.get("Pasys-Subject", ""),
        handler=headers.get("Pasys-Handler", ""),
        event_id=headers.get("Pasys-Event", ""),
        reason=headers.get("Pasys-Reason", ""),
        traceback=headers.get("Pasys-Traceback", "").replace("\\n", "\n"),
        deliveries=int(headers.get("Pasys-Deliveries", "0")),
        parked_at=message.time or datetime.now(UTC),
        body=message.data or b"",
    )


async def _quiet(_: Exception) -> None:
    """A lost connection is reported by the calls that need it, not by a log line for every attempt to reconnect."""
