"""The supervisor's end of the nursery: asks for children and hears what becomes of them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from pasys.stack import process
from pasys.stack.home import Home
from pasys.stack.plan import DAEMONS_PACKAGE, NURSERY, PRELOAD, Program
from pasys.stack.server import NotReady


class Child:
    """A program that the nursery was asked to fork. `ended` is its return code, `pid` and `ready` come before it."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.pid: int | None = None
        self.born: asyncio.Future[None] = loop.create_future()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[int] = loop.create_future()
        self.error: str | None = None

    def hear(self, said: dict[str, Any]) -> None:
        match said["tell"]:
            case "forked":
                self.pid = said["pid"]
                _settle(self.born)
            case "ready":
                _settle(self.ready)
            case "error":
                self.error = said["error"]
            case "ended":
                self.end(said["code"])

    def end(self, code: int) -> None:
        _settle(self.born)
        if not self.ended.done():
            self.ended.set_result(code)

    def signal(self, sent: signal.Signals) -> None:
        if self.pid is not None and not self.ended.done():
            process.send(self.pid, sent)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Nurse:
    """One nursery process after another; `loaded` is set while one has read everything."""

    def __init__(self, home: Home, *, bare: bool) -> None:
        self.home = home
        self.bare = bare  # reads nothing ahead: for tests of the machine room itself
        self.left_out: tuple[str, ...] = ()
        self.listening = asyncio.Event()
        self.loaded = asyncio.Event()
        self.daemons: list[str] = []
        self.broken: dict[str, str] = {}
        self.on_loaded: Callable[[], None] = lambda: None
        self._writer: asyncio.StreamWriter | None = None
        self._hearing: asyncio.Task[None] | None = None
        self._children: dict[int, Child] = {}
        self._last_id = 0

    async def start(self) -> subprocess.Popen[bytes]:
        """A new nursery process, listening at once and loaded later."""
        ours, theirs = socket.socketpair()
        words = [sys.executable, "-P", "-m", "pasys.stack.nursery", "--home", self.home.root]
        words += ["--channel", str(theirs.fileno())]
        if not self.bare:
            words += [word for name in self.left_out for word in ("--without", name)]
            words += ["--discover", DAEMONS_PACKAGE, *PRELOAD]
        with theirs:
            running = process.spawn(
                words,
                log=self.home.log(NURSERY),
                on_parent_death=signal.SIGKILL,
                pass_fds=[theirs.fileno()],
                # A thread pool of numpy's would not survive a fork; nothing here needs one.
                env={"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"} | os.environ,
            )
        ours.setblocking(False)
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self._hearing = asyncio.create_task(self._hear(reader))
        self.listening.set()
        return running

    def fork(self, program: Program) -> Child:
        """Raises NotReady where no nursery lives."""
        if self._writer is None:
            raise NotReady("the nursery is not running")
        self._last_id += 1
        request = asdict(program) | {"id": self._last_id, "log": str(self.home.log(program.name))}
        self._writer.write(json.dumps(request).encode() + b"\n")
        child = self._children[self._last_id] = Child()
        return child

    async def _hear(self, reader: asyncio.StreamReader) -> None:
        with suppress(ConnectionError):
            while line := await reader.readline():
                said = json.loads(line)
                if said["tell"] == "loaded":
                    self.daemons, self.broken = said["daemons"], said["broken"]
                    self.on_loaded()
                    self.loaded.set()
                elif child := self._children.get(said["id"]):
                    child.hear(said)
                    if said["tell"] == "ended":
                        del self._children[said["id"]]
        self._lost()

    def _lost(self) -> None:
        """The nursery has ended, and the kernel ended its children with it."""
        self.listening.clear()
        self.loaded.clear()
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        for child in self._children.values():
            child.error = "the nursery ended"
            child.end(-signal.SIGKILL)
        self._children.clear()
