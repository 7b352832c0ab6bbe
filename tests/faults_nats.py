"""A NATS server of a test's own, that can be away for a while and keeps what it had."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pasys.stack.home import Home
from pasys.stack.nats import Nats
from pasys.stack.server import until_ready
from tests.simulator_process import free_port


class OwnNats:
    """It starts, dies by SIGKILL, and starts again at the same address on the same data."""

    def __init__(self, folder: Path) -> None:
        home = Home(folder)
        home.create()
        self._server = Nats(home, port=free_port())
        self._process: subprocess.Popen[bytes] | None = None
        self.url = self._server.url

    async def start(self) -> None:
        await asyncio.to_thread(self._server.prepare)
        self._process = self._server.start()
        await until_ready(self._server, self._process, timeout_s=20)

    async def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)

    async def lose_everything(self) -> None:
        """Its disk is gone, and it comes back without anything that it had acknowledged."""
        await self.kill()
        await asyncio.to_thread(shutil.rmtree, self._server.data)
        await self.start()


@asynccontextmanager
async def own_nats() -> AsyncIterator[OwnNats]:
    """Not running yet."""
    folder = Path(tempfile.mkdtemp(prefix="pasys-t"))
    server = OwnNats(folder)
    try:
        yield server
    finally:
        await server.kill()
        shutil.rmtree(folder, ignore_errors=True)
