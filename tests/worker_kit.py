"""What tests of the worker share: small daemons in this event loop, the rows that they leave, and a wire to cut."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from pasys import ids, worker
from pasys.bus import Bus
from pasys.config import Settings
from pasys.daemon import Daemon
from pasys.db import Database, Unit
from pasys.events import AccountOpened, Announcement, Event, encode
from pasys.service import event as event_service
from tests.support import eventually


@asynccontextmanager
async def running(settings: Settings, *daemons: Daemon, ready: bool = True) -> AsyncIterator[asyncio.Event]:
    """Daemons at work; the event that stops them. Leaving the block waits until they have stopped."""
    stop, up = asyncio.Event(), [asyncio.Event() for _ in daemons]
    tasks = [
        asyncio.create_task(worker.run(daemon, settings, stop=stop, ready=begun.set))
        for daemon, begun in zip(daemons, up, strict=True)
    ]
    try:
        if ready:
            async with asyncio.timeout(15):
                await asyncio.gather(*(begun.wait() for begun in up))
        yield stop
    finally:
        stop.set()
        async with asyncio.timeout(30):
            await asyncio.gather(*tasks)


def opened(name: str) -> AccountOpened:
    """A fact to be handled; `name` says which."""
    return AccountOpened(account_id=ids.account_id(ids.new_account_number()), name=name, type="customer", asset="USD")


def announcement(event: Event, *, event_id: str | None = None) -> Announcement:
    event_id = event_id or ids.new("evt")
    body = encode(event, id=event_id, time=datetime.now(UTC), correlation_id=event.entity_id)
    return Announcement(event_id, f"{event.subject}.{event.asset}", body)


async def deliver(bus: Bus, *events: Event, times: int = 1) -> None:
    """Put events on the bus; several times under other message ids, as a bus that forgot would."""
    for event in events:
        said = announcement(event)
        for _ in range(times):
            again = Announcement(ids.new("msg"), said.subject, said.body)
            assert await bus.publish([again]) == [again.event_id]


async def announce(db: Database, *events: Event) -> None:
    """Announce as a command does: rows in the outbox, for any relay."""
    async with db.unit() as unit:
        unit.emit(*events)


class Effects:
    """Rows that handlers leave in their unit; nothing keeps one from being written twice."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def write(self, unit: Unit, what: str, who: str = "") -> None:
        await unit.rows("insert into effect (what, who) values (%(what)s, %(who)s)", what=what, who=who)

    async def all(self) -> list[Any]:
        async with self._db.unit() as unit:
            return await unit.rows("select what, who, began, clock_timestamp() as seen from effect order by what")

    async def whats(self) -> list[str]:
        return [row.what for row in await self.all()]

    async def until(self, count: int, *, within_s: float = 10.0) -> list[str]:
        """What was done, once it is so much."""

        async def enough() -> list[str]:
            whats = await self.whats()
            return whats if len(whats) >= count else []

        return await eventually(enough, within_s=within_s)


async def announced(db: Database, subject: str) -> list[Any]:
    """The log of what was announced under a subject, oldest first."""
    async with db.unit() as unit:
        return await unit.rows("select id, body from event where subject = %(subject)s order by id", subject=subject)


async def waiting(db: Database) -> int:
    """How many rows stand in the outbox."""
    async with db.unit() as unit:
        return await unit.value("select count(*) from outbox")


async def on_the_bus(bus: Bus) -> int:
    """How many messages the stream of events holds."""
    return (await bus.js.stream_info(bus.events)).state.messages


async def dead(bus: Bus, count: int = 1) -> list[Any]:
    """What was parked, once it is so much."""

    async def enough() -> list[Any]:
        letters = await event_service.dead_letters(bus)
        return letters if len(letters) >= count else []

    return await eventually(enough)


async def until_idle(bus: Bus, durable: str) -> Any:
    """The consumer's state, once every message is acknowledged or put aside."""

    async def idle() -> Any:
        return await bus.lag(durable) == 0

    await eventually(idle)
    return await bus.js.consumer_info(bus.events, durable)


class Wire:
    """A TCP wire to a server, which can be cut and mended."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self.port = 0

    async def mend(self) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in self._open:
            writer.transport.abort()
        self._open.clear()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(*self._target)
        self._open |= {writer, there_writer}
        await asyncio.gather(_pump(reader, there_writer), _pump(there_reader, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()
