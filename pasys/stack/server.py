"""What an embedded server is: prepared, started, asked until it really answers, stopped by ever firmer signals."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from typing import Protocol

PROBE_EVERY_S = 0.01
PROBE_TIMEOUT_S = 2.0


class NotReady(Exception):
    """The server did not answer a probe as a working one does; the text says how."""


class Server(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def url(self) -> str: ...

    @property
    def stop_signals(self) -> tuple[tuple[signal.Signals, float], ...]:
        """Each signal, and how many seconds it is given before the next one."""
        ...

    def prepare(self) -> None:
        """Make the data folder and the configuration; heal what a crash left. Called before every start; may block."""
        ...

    def start(self) -> subprocess.Popen[bytes]: ...

    async def probe(self) -> None:
        """A real piece of work. Raises NotReady."""
        ...


async def until_ready(server: Server, process: subprocess.Popen[bytes], *, timeout_s: float) -> None:
    """Probe until the server works. Raises NotReady when it ended, or did not work in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while True:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                return await server.probe()
        except (NotReady, OSError, TimeoutError, EOFError) as error:
            if process.poll() is not None:
                raise NotReady(f"it ended ({process.returncode})") from None
            if loop.time() > deadline:
                raise NotReady(f"no answer in {timeout_s:g} s: {error}") from None
        await asyncio.sleep(PROBE_EVERY_S)
