"""What was announced reaches the bus: at once when this process announced it, else within a second.

A worker publishes its own announcements from memory, right after the commit. What a command left in the outbox is swept
under SKIP LOCKED, so that many relays share the work and no row waits behind a locked one. Whatever nobody waits for (a
file's rows, what a worker could not publish itself) is a backlog: one relay at a time works it off, beside the rest and
not before it, and makes way for whoever is still writing it. A row goes away only after the server's ack; published
twice, the server drops it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import psycopg

from pasys.bus import BUS_ERRORS, Bus
from pasys.db import BULK_LOCK, OUTBOX_CHANNEL, Database, Unit
from pasys.driver import connect
from pasys.errors import Unavailable
from pasys.events import Announcement
from pasys.worker.log import log

SWEEP_MAX = 500
PUBLISH_MAX = 1_000
POLL_S = 1.0
TIDY_S = 0.2
GATHER_S = 0.01
LISTENER_LOCK = 7_082_502
BACKLOG_LOCK = 7_082_506
MAKE_WAY = 9.0  # pauses, each as long as a batch of the backlog took, while somebody writes in bulk

_SWEEP = """
select o.event_id, e.subject || '.' || e.asset as subject, e.body
  from (select event_id from outbox where {which} order by event_id limit %(limit)s for update skip locked) o
  join event e on e.id = o.event_id
 order by o.event_id
"""
_AT_ONCE = _SWEEP.format(which="claimed_until is null")
_BACKLOG = _SWEEP.format(which="claimed_until < clock_timestamp()")
_NOBODY_WRITES = "select pg_try_advisory_lock(%(key)s) and pg_advisory_unlock(%(key)s)"
_DONE = "delete from outbox where event_id = any(%(ids)s::text[])"


class Relay:
    def __init__(self, db: Database, bus: Bus) -> None:
        self._db = db
        self._bus = bus
        self._mine: list[Announcement] = []
        self._acked: list[str] = []
        self._wake = asyncio.Event()
        self._sweep_now = asyncio.Event()
        self.pause: Callable[[float], Awaitable[None]] = asyncio.sleep

    def offer(self, announcements: Sequence[Announcement]) -> None:
        """Take what this process has just committed."""
        if announcements:
            self._mine += announcements
            self._wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`: publish our own, sweep what commands announced, listen for them, work off the rest."""
        parts = (self._listen, self._sweep_for_ever, self._work_off_for_ever, self._tidy_for_ever)
        helpers = [asyncio.create_task(_outliving_errors(part)) for part in parts]
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                waking = asyncio.create_task(self._wake.wait())
                await asyncio.wait({waking, stopping}, return_when=asyncio.FIRST_COMPLETED)
                waking.cancel()
                await self.flush()
        finally:
            stopping.cancel()
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)

    async def flush(self) -> None:
        """Publish our own announcements. What the bus did not take stays in the outbox for a sweep."""
        self._wake.clear()
        while self._mine:
            batch, self._mine = self._mine[:PUBLISH_MAX], self._mine[PUBLISH_MAX:]
            acked = await self._bus.publish(batch)
            self._acked += acked  # not in one line: that would bring back what is tidied while we publish

    async def tidy(self) -> None:
        """Take out of the outbox what the bus has; put off a little, because one statement serves for many."""
        while self._acked:
            done, self._acked = self._acked[:PUBLISH_MAX], self._acked[PUBLISH_MAX:]
            try:
                async with self._db.unit() as unit:
                    await unit.rows(_DONE, ids=done)
            except Unavailable as error:  # then a sweep publishes them again, and the bus drops them
                log.warning("relay: %s", error)

    async def sweep(self) -> int:
        """Publish one batch of what others want out at once; how many the bus took."""
        async with self._db.unit() as unit:
            return await self._publish(unit, _AT_ONCE)

    async def _publish(self, unit: Unit, which: str) -> int:
        rows = await unit.rows(which, limit=SWEEP_MAX)
        acked = await self._bus.publish([Announcement(row.event_id, row.subject, bytes(row.body)) for row in rows])
        if acked:
            await unit.rows(_DONE, ids=acked)
        return len(acked)

    async def _sweep_for_ever(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._sweep_now.wait(), POLL_S)
            await asyncio.sleep(GATHER_S)  # one sweep for everything that a burst of commands announces
            self._sweep_now.clear()
            if self._bus.client.is_connected:
                while await self.sweep() == SWEEP_MAX:
                    pass

    async def work_off(self) -> int:
        """Publish the backlog, batch by batch, unless another relay is at it; how many the bus took.

        While somebody writes more it pauses before it lets go: one relay's pause must not be another's turn.
        """
        taken, batch = 0, SWEEP_MAX
        while batch == SWEEP_MAX:
            began = time.monotonic()
            async with self._db.unit() as unit:
                if not await unit.value("select pg_try_advisory_xact_lock(%(key)s)", key=BACKLOG_LOCK):
                    break
                batch = await self._publish(unit, _BACKLOG)
                if batch == SWEEP_MAX and not await unit.value(_NOBODY_WRITES, key=BULK_LOCK):
                    await self.pause(min(MAKE_WAY * (time.monotonic() - began), POLL_S))
            taken += batch
        return taken

    async def _work_off_for_ever(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            if self._bus.client.is_connected:
                await self.work_off()

    async def _tidy_for_ever(self) -> None:
        while True:
            await asyncio.sleep(TIDY_S)
            await self.tidy()

    async def _listen(self) -> None:
        """Be woken by commands that announce something: one relay listens for all, whoever has the lock.

        The others look now and then, on a connection that they have anyway, whether nobody listens any more.
        """
        while not await self._nobody_listens():
            await asyncio.sleep(POLL_S)
        async with await connect(self._db.url, autocommit=True) as connection:
            if not await self._is_listener(connection):
                return  # somebody was faster; it is called again
            await connection.execute(f"listen {OUTBOX_CHANNEL}".encode())
            self._sweep_now.set()
            async for _ in connection.notifies():
                self._sweep_now.set()

    async def _nobody_listens(self) -> bool:
        async with self._db.unit() as unit:
            return await unit.value("select pg_try_advisory_xact_lock(%(key)s)", key=LISTENER_LOCK)

    async def _is_listener(self, connection: psycopg.AsyncConnection[Any]) -> bool:
        cursor = await connection.execute("select pg_try_advisory_lock(%s)", (LISTENER_LOCK,))
        row = await cursor.fetchone()
        return row is not None and row[0]


async def _outliving_errors(part: Callable[[], Awaitable[None]]) -> None:
    """Run a part of the relay, and run it again when it fails: nobody else would notice that it is gone."""
    while True:
        try:
            await part()
        except (Unavailable, psycopg.OperationalError, *BUS_ERRORS) as error:
            log.warning("relay: %s", error)
        except Exception:
            log.exception("relay: a bug; it goes on")
        await asyncio.sleep(POLL_S)
