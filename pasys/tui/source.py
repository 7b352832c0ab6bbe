"""Where screens get their answers: a connection to each server, opened when it is first asked and when it broke.

The settings are read anew for every new connection, because a stack that was restarted may have moved to other ports.
A question may be asked again and again. A change is made once, and where nobody can tell whether it was, that is said.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from pasys.bus import Bus
from pasys.config import default_home, spoken
from pasys.db import Database, Unit
from pasys.errors import DatabaseUnavailable, OutcomeUnknown, PasysError, Unavailable
from pasys.service import event
from pasys.tui.doors import Doors as Doors

T = TypeVar("T")
CONNECTIONS_MAX = 3
ACT_TIMEOUT_S = 30.0
NOT_NEEDED = ("PASYS_ACTOR", "PASYS_DASH")  # a command says who by itself, and has no colours


class Source:
    """Answers questions. An error is a PasysError; after one of the Unavailable family the next ask connects anew."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors
        self._database: Database | None = None
        self._bus: Bus | None = None

    def moment(self, text: str) -> datetime:
        return self._doors.moment(text)

    def who(self) -> str:
        """Under whose name changes are recorded. Raises InvalidSettings."""
        return self._doors.load().who

    def command(self, words: Sequence[str], *, changes: bool = True) -> str:
        """The command line that says these words to this very system, from any shell; where it `changes` something, as
        this very person."""
        settings, before = self._doors.load(), ["pasys"]
        if "PASYS_HOME" in os.environ or settings.home != str(default_home()):
            before += ["--home", settings.home]
        if settings.actor and changes:
            before += ["--actor", settings.actor]
        return shlex.join([*before, *words])

    def in_a_shell(self, *words: str, what: str = "The same in a shell", changes: bool = False) -> str:
        """What a screen says of a command that shows the same, or goes on from there."""
        return f"{what}{self.needs()}: {self.command(words, changes=changes)}"

    def needs(self) -> str:
        """What a shell needs for such a command, as a part of a sentence. Variables by name: they may say passwords."""
        variables = [variable for variable in spoken(os.environ) if variable not in NOT_NEEDED]
        verb = "is" if len(variables) == 1 else "are"
        return f", where {', '.join(variables)} {verb} set as here" if variables else ""

    async def ask(self, question: Callable[[Unit], Awaitable[T]]) -> T:
        """One question, in one unit."""
        asked = self._connected()
        try:
            async with asked.unit() as unit:
                return await question(unit)
        except Unavailable:
            await self._give_up(asked)
            raise

    async def act(self, verb: Callable[[Unit], Awaitable[T]], *, look: str) -> T:
        """One change, in one unit. Raises OutcomeUnknown where the connection broke while it was committed; after any
        other error nothing was changed. `look` is the command that shows what became of it."""
        asked, unit = self._connected(), None
        try:
            async with asyncio.timeout(ACT_TIMEOUT_S), asked.unit(changes=True) as unit:
                return await verb(unit)
        except OutcomeUnknown as error:
            await self._give_up(asked)
            raise OutcomeUnknown(reason=error.facts["reason"], look=look) from error
        except TimeoutError as error:
            await self._give_up(asked)
            reason = f"no answer in {ACT_TIMEOUT_S:g} s"
            if unit is not None and unit.decided:
                raise OutcomeUnknown(reason=reason, look=look) from error
            raise DatabaseUnavailable(reason=reason) from error
        except Unavailable:
            await self._give_up(asked)
            raise

    def _connected(self) -> Database:
        if self._database is None:
            self._database = Database(self._doors.load(), connections_max=CONNECTIONS_MAX)
        return self._database

    async def _give_up(self, asked: Database) -> None:
        if self._database is asked:  # else somebody has connected anew meanwhile
            self._database = None
            await asked.close()

    async def apart(self, question: Callable[[Unit], Awaitable[T]]) -> T:
        """One question that computes for long, in a thread with a connection of its own: keys are answered meanwhile.

        Cancelled, it stops there, too.
        """
        settings = self._doors.load()
        running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []

        async def there() -> T:
            task = asyncio.current_task()
            assert task is not None
            running.append((asyncio.get_running_loop(), task))
            database = Database(settings, connections_max=1)
            try:
                async with database.unit() as unit:
                    return await question(unit)
            finally:
                await database.close()

        job = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(there())))
        try:
            return await asyncio.shield(job)
        except asyncio.CancelledError:
            for loop, task in running:
                loop.call_soon_threadsafe(task.cancel)
            await asyncio.wait([job])
            raise

    async def services(self) -> dict[str, Any]:
        """The picture of `pasys status`, looked at in a thread: it reads files and asks servers."""
        return await asyncio.to_thread(lambda: self._doors.look(self._doors.load()))

    def home(self) -> Path:
        """Where the processes of this system write their logs."""
        return self._doors.load().home_path

    async def bus(self) -> Bus:
        """The connection to the bus. Raises BusUnavailable, StackNotRunning."""
        if self._bus is not None and not self._bus.client.is_connected:
            await self._forget_bus()
        if self._bus is None:
            self._bus = await Bus(self._doors.load()).connect(name="pasys-dash")
        return self._bus

    async def ask_bus(self, question: Callable[[Bus], Awaitable[T]]) -> T:
        """One question to the bus."""
        bus = await self.bus()
        try:
            return await question(bus)
        except Unavailable:
            if self._bus is bus:
                await self._forget_bus()
            raise

    async def dead_letters(self) -> int | None:
        """How many stand aside; None where the bus does not answer."""
        try:
            return await self.ask_bus(event.dead_count)
        except PasysError:
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
