"""Some refunds are settled a while after they were made; what is still to be settled is a row, not a timer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress

from pasys.simulator.store import Store

SETTLED_AT_ONCE_MAX = 100
IDLE_S = 60.0

log = logging.getLogger("pasys.simulator")


class Deferred:
    """Settles each row when it is due."""

    def __init__(self, store: Store, settle: Callable[[str], None]) -> None:
        self._store = store
        self._settle = settle
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """There may be something that is due earlier than was known."""
        self._woken.set()

    async def run(self) -> None:
        while True:
            self._woken.clear()
            for (object_id,) in self._store.rows(
                "SELECT id FROM deferred WHERE due <= ? ORDER BY due LIMIT ?", (time.time(), SETTLED_AT_ONCE_MAX)
            ):
                self._settle(object_id)
            await self._store.settled()
            row = self._store.row("SELECT min(due) FROM deferred")
            due = row[0] if row else None
            wait_s = IDLE_S if due is None else min(IDLE_S, due - time.time())
            with suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), max(0.0, wait_s))
