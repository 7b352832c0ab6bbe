"""Where screens get their answers: a connection to each server, opened when it is first asked and when it broke.

The settings are read anew for every new connection, because a stack that was restarted may have moved to other ports.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from pasys.bus import Bus
from pasys.config import Settings
from pasys.db import Database, Unit
from pasys.errors import PasysError, Unavailable
from pasys.service import event

T = TypeVar("T")
CONNECTIONS_MAX = 3


@dataclass(frozen=True, slots=True)
class Doors:
    """What the face that starts the dashboard lends to it: settings, the stack's picture, how people write times."""

    load: Callable[[], Settings]
    look: Callable[[Settings], dict[str, Any]]
    moment: Callable[[str], datetime]


class Source:
    """Answers questions. An error is a PasysError; after one of the Unavailable family the next ask connects anew."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors
        self._database: Database | None = None
        self._bus: Bus | None = None

    def moment(self, text: str) -> datetime:
        return self._doors.moment(text)

    async def ask(self, question: Callable[[Unit], Awaitable[T]]) -> T:
        """One question, in one unit."""
        if self._database is None:
            self._database = Database(self._doors.load(), connections_max=CONNECTIONS_MAX)
        asked = self._database
        try:
            async with asked.unit() as unit:
                return await question(unit)
        except Unavailable:
            if self._database is asked:  # else somebody has connected anew meanwhile
                self._database = None
                await asked.close()
            raise

    async def services(self) -> dict[str, Any]:
        """The picture of `pasys status`, looked at in a thread: it reads files and asks servers."""
        return await asyncio.to_thread(lambda: self._doors.look(self._doors.load()))

    async def dead_letters(self) -> int | None:
        """How many stand aside; None where the bus does not answer."""
        try:
            if self._bus is None:
                self._bus = await Bus(self._doors.load()).connect(name="pasys-dash")
            return await event.dead_count(self._bus)
        except PasysError:
            await self._forget_bus()
            return None

    async def close(self) -> None:
        await self._forget_bus()
        if self._database is not None:
            await self._database.close()
            self._database = None

    async def _forget_bus(self) -> None:
        bus, self._bus = self._bus, None
        if bus is not None:
            with contextlib.suppress(Exception):  # it is given up, whatever it says
                await asyncio.wait_for(bus.close(), 1)
