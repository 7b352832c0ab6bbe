"""The four ways to run a service: an embedded server, somebody else's server, the nursery, a program forked by it."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Awaitable, Callable
from typing import Protocol
from urllib.parse import urlsplit

from pasys.stack import process
from pasys.stack.nurse import Child, Nurse
from pasys.stack.plan import Program
from pasys.stack.server import PROBE_TIMEOUT_S, NotReady, Server, until_ready

READY_TIMEOUT_S = 60.0
HEALTH_EVERY_S = 0.05
EXTERNAL_EVERY_S, EXTERNAL_TIMEOUT_S = 10.0, 10.0
PROGRAM_STOP = ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0))


class Run(Protocol):
    """One life of a service."""

    @property
    def pid(self) -> int | None: ...

    @property
    def ended(self) -> asyncio.Future[int]: ...

    @property
    def error(self) -> str | None: ...

    def signal(self, sent: signal.Signals) -> None: ...


class Runner(Protocol):
    stop_signals: tuple[tuple[signal.Signals, float], ...]

    async def start(self) -> Run:
        """Raises PasysError, OSError, NotReady."""
        ...

    async def until_ready(self, run: Run) -> None:
        """Raises NotReady when it will not be."""
        ...


class ProcessRun:
    """A child of the supervisor itself."""

    error: str | None = None

    def __init__(self, running: subprocess.Popen[bytes]) -> None:
        self.running = running
        self.pid = running.pid
        self.ended: asyncio.Future[int] = asyncio.ensure_future(process.ended(running))

    def signal(self, sent: signal.Signals) -> None:
        self.running.send_signal(sent)


class ServerRunner:
    def __init__(self, server: Server, *, before_start: Callable[[], None]) -> None:
        self.server = server
        self.before_start = before_start
        self.stop_signals = server.stop_signals

    async def start(self) -> Run:
        self.before_start()
        await asyncio.to_thread(self.server.prepare)
        return ProcessRun(self.server.start())

    async def until_ready(self, run: Run) -> None:
        assert isinstance(run, ProcessRun)
        await until_ready(self.server, run.running, timeout_s=READY_TIMEOUT_S)


class NurseryRunner:
    """Ready when everything is read; programs that are `early` do not wait for that."""

    stop_signals = ((signal.SIGKILL, 5.0),)

    def __init__(self, nurse: Nurse) -> None:
        self.nurse = nurse

    async def start(self) -> Run:
        return ProcessRun(await self.nurse.start())

    async def until_ready(self, run: Run) -> None:
        loaded = asyncio.ensure_future(self.nurse.loaded.wait())
        try:
            await asyncio.wait({loaded, run.ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            loaded.cancel()
        if run.ended.done():
            raise NotReady("it ended while reading its modules")


class ProgramRunner:
    stop_signals = PROGRAM_STOP

    def __init__(self, program: Program, nurse: Nurse) -> None:
        self.program = program
        self.nurse = nurse

    async def start(self) -> Run:
        await (self.nurse.listening if self.program.early else self.nurse.loaded).wait()
        child = self.nurse.fork(self.program)
        await asyncio.shield(child.born)
        return child

    async def until_ready(self, run: Run) -> None:
        assert isinstance(run, Child)
        if self.program.once:
            await asyncio.shield(run.ended)
        elif self.program.reports_ready:
            await _first(run, run.ready)
        if self.program.health_url:
            await _first(run, asyncio.ensure_future(_healthy(self.program.health_url)))


async def _first(run: Run, sign: asyncio.Future[None]) -> None:
    """Wait for a sign of readiness. Raises NotReady when the process ended first, or gave none in time."""
    await asyncio.wait({run.ended, sign}, return_when=asyncio.FIRST_COMPLETED, timeout=READY_TIMEOUT_S)
    if sign.done():
        return sign.result()
    sign.cancel()
    raise NotReady("it ended before it was ready" if run.ended.done() else f"no sign in {READY_TIMEOUT_S:g} s")


async def _healthy(url: str) -> None:
    """Ask until the answer is 200."""
    parts = urlsplit(url)
    request = f"GET {parts.path} HTTP/1.0\r\nHost: {parts.netloc}\r\n\r\n".encode()
    while True:
        try:
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            writer.write(request)
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                status = await reader.readline()
            writer.close()
            if b" 200" in status:
                return
        except (OSError, TimeoutError):
            pass
        await asyncio.sleep(HEALTH_EVERY_S)


class ExternalRun:
    """A server that somebody else runs: from here, its life ends when it stops answering."""

    pid = None
    error: str | None = None

    def __init__(self) -> None:
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def signal(self, sent: signal.Signals) -> None:
        if not self.ended.done():
            self.ended.set_result(0)


class ExternalRunner:
    """`probe` does a real piece of work there, and raises what went wrong."""

    stop_signals = ((signal.SIGTERM, 1.0),)

    def __init__(self, probe: Callable[[], Awaitable[None]]) -> None:
        self.probe = probe

    async def start(self) -> Run:
        return ExternalRun()

    async def until_ready(self, run: Run) -> None:
        assert isinstance(run, ExternalRun)
        if error := await self._ask():
            raise NotReady(error)
        watching = asyncio.create_task(self._watch(run))
        run.ended.add_done_callback(lambda _: watching.cancel())

    async def _watch(self, run: ExternalRun) -> None:
        while run.error is None:
            await asyncio.sleep(EXTERNAL_EVERY_S)
            run.error = await self._ask()
        if not run.ended.done():
            run.ended.set_result(1)

    async def _ask(self) -> str | None:
        """What went wrong, if anything did."""
        try:
            async with asyncio.timeout(EXTERNAL_TIMEOUT_S):
                await self.probe()
        except Exception as error:  # three drivers, each with a family of errors of its own
            return " ".join(str(error).split())[:300] or type(error).__name__
        return None
