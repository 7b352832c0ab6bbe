"""What a daemon is doing, for people to see: written to Redis every second or two, gone when the daemon is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from pasys.bus import Bus
from pasys.config import Settings
from pasys.daemon import Daemon
from pasys.worker.log import log

if TYPE_CHECKING:
    from pasys.worker.lane import Lane

PERIOD_S = 2.0
EXPIRES_S = 10


class Beat(msgspec.Struct, kw_only=True):
    """One pulse. `lag` is messages not finished, by handler; `rate` is messages a second over the last period."""

    name: str
    daemon: str
    pid: int
    host: str
    started_at: float
    at: float
    handled: int
    rejected: int
    retried: int
    parked: int
    rate: float
    lag: dict[str, int | None]
    last_error: str | None
    last_error_at: float | None


class Pulse:
    def __init__(self, instance: str, daemon: Daemon, bus: Bus, settings: Settings) -> None:
        self._bus = bus
        self._settings = settings
        self.beat = Beat(
            name=instance,
            daemon=daemon.name,
            pid=os.getpid(),
            host=socket.gethostname(),
            started_at=time.time(),
            at=time.time(),
            handled=0,
            rejected=0,
            retried=0,
            parked=0,
            rate=0.0,
            lag={},
            last_error=None,
            last_error_at=None,
        )

    def failed(self, reason: str) -> None:
        self.beat.last_error, self.beat.last_error_at = reason[:300], time.time()

    async def run(self, stop: asyncio.Event, lanes: Sequence[Lane]) -> None:
        """Beat until `stop`. Without Redis the daemon works on, unseen."""
        import redis.asyncio as redis
        from redis.exceptions import RedisError

        client = redis.from_url(self._settings.require("redis_url"), socket_timeout=2, socket_connect_timeout=2)
        key = f"{self._settings.redis_prefix}:pulse:{self.beat.name}@{self.beat.host}"
        handled = 0
        try:
            while not stop.is_set():
                self.beat.lag = {lane.handler.name: await self._bus.lag(lane.durable) for lane in lanes}
                now = time.time()
                self.beat.rate = round((self.beat.handled - handled) / max(now - self.beat.at, 0.001), 1)
                handled, self.beat.at = self.beat.handled, now
                try:
                    await client.set(key, msgspec.json.encode(self.beat), ex=EXPIRES_S)
                except (RedisError, OSError) as error:
                    log.debug("pulse: %s", error)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), PERIOD_S)
        finally:
            with contextlib.suppress(RedisError, OSError):
                await client.delete(key)
            with contextlib.suppress(RedisError, OSError):
                await client.aclose()
