"""A timer ticks in one copy of its daemon at a time: whoever holds the advisory lock for that tick."""

from __future__ import annotations

import asyncio
import contextlib
import zlib

from pasys.daemon import Daemon, Timer
from pasys.db import Database
from pasys.errors import PasysError
from pasys.events import Event
from pasys.worker.log import log
from pasys.worker.pulse import Pulse
from pasys.worker.relay import Relay


async def run_timer(
    daemon: Daemon, timer: Timer, db: Database, relay: Relay, stop: asyncio.Event, pulse: Pulse
) -> None:
    """Tick until `stop`. A tick that fails is logged and tried again at the next."""
    period = timer.seconds(db.settings)
    key = zlib.crc32(f"{daemon.name}.{timer.name}".encode())
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), period)
        if stop.is_set():
            return
        try:
            await _tick(daemon, timer, db, relay, key)
        except Exception as error:  # a timer outlives every kind of failure: the next tick is its retry
            known = isinstance(error, PasysError)
            log.warning("%s.%s: %s", daemon.name, timer.name, error, exc_info=None if known else error)
            pulse.failed(f"{timer.name}: {error}")


async def _tick(daemon: Daemon, timer: Timer, db: Database, relay: Relay, key: int) -> None:
    async with db.unit(actor=f"daemon:{daemon.name}", relayed=True) as unit:
        if not await unit.value("select pg_try_advisory_xact_lock(%(key)s)", key=key):
            return
        outcome = await timer.call(unit)
        emitted: list[Event] = outcome if isinstance(outcome, list) else [outcome] if outcome else []
        unit.emit(*emitted)
    relay.offer(unit.announcements)
