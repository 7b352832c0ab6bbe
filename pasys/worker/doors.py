"""The doors to the world that one daemon uses: opened when first asked for, closed when the daemon stops."""

from __future__ import annotations

import asyncio
from typing import Any

from pasys.adapters import Psp, open_psp
from pasys.config import Settings
from pasys.daemon import Daemon
from pasys.db import Database
from pasys.errors import PspUnavailable, Rejected
from pasys.events import Event


class Doors:
    def __init__(self, daemon: Daemon, settings: Settings, db: Database) -> None:
        self._daemon = daemon
        self._settings = settings
        self._db = db
        self._open: dict[Any, Any] = {}
        self._opening = asyncio.Lock()

    async def of(self, kind: type, event: Event | None = None) -> Any:
        """The door of a kind. A PSP is chosen by its name, which the event carries."""
        key: Any = (kind, getattr(event, "psp", None)) if kind is Psp else kind
        if key not in self._open:
            async with self._opening:
                if key not in self._open:
                    self._open[key] = await self._make(kind, event)
        return self._open[key]

    async def _make(self, kind: type, event: Event | None) -> Any:
        if kind in self._daemon.doors:
            return await self._daemon.doors[kind](self._settings, self._db)
        assert kind is Psp and event is not None, f"{self._daemon.name} does not say how to open {kind.__name__}"
        name = getattr(event, "psp")  # noqa: B009 - any event for a Psp handler has it
        try:
            return open_psp(name, self._settings)
        except Rejected as no:  # it is about our settings, and says nothing about the payment
            raise PspUnavailable(psp=name, reason=str(no)) from no

    async def close(self) -> None:
        for door in self._open.values():
            if hasattr(door, "close"):
                await door.close()
        self._open.clear()
