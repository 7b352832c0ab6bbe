"""The embedded Valkey (or Redis): fast and rebuildable, never on disk, loopback only, behind a password."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from functools import cached_property
from pathlib import Path

from pasys.stack import locate, process
from pasys.stack.home import Home, write_private
from pasys.stack.ports import LOOPBACK
from pasys.stack.server import NotReady

# noeviction: a counter that vanished would be a limit that lets everything through; a refused write is seen.
_CONFIGURATION = """\
bind {host}
port {port}
protected-mode yes
requirepass {password}
dir {folder}
save ""
appendonly no
maxmemory 512mb
maxmemory-policy noeviction
"""


class Valkey:
    """`port` is on loopback. The service is called redis, after the protocol that it speaks."""

    name = "redis"
    stop_signals = ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))

    def __init__(self, home: Home, *, port: int) -> None:
        self.home = home
        self.port = port
        self.data = home.data / "valkey"
        self.password = home.secret("redis")

    @cached_property
    def binary(self) -> Path:
        return locate.valkey()

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@{LOOPBACK}:{self.port}/0"

    def prepare(self) -> None:
        """Raises ServerMissing."""
        self.data.mkdir(mode=0o700, exist_ok=True)
        for orphan in process.working_in(self.data):
            process.send(orphan, signal.SIGKILL)
        folder = json.dumps(str(self.data))
        text = _CONFIGURATION.format(host=LOOPBACK, port=self.port, password=self.password, folder=folder)
        write_private(self.home.run / "valkey.conf", text.encode())

    def start(self) -> subprocess.Popen[bytes]:
        return process.spawn(
            [self.binary, self.home.run / "valkey.conf"],
            log=self.home.log(self.name),
            on_parent_death=signal.SIGKILL,
            cwd=self.data,
            env=os.environ | {"TZ": "UTC"},  # its log knows local time only
        )

    async def probe(self) -> None:
        reader, writer = await asyncio.open_connection(LOOPBACK, self.port)
        try:
            writer.write(f"AUTH {self.password}\r\nPING\r\n".encode())
            answers = [await reader.readline(), await reader.readline()]
        finally:
            writer.close()
        if answers != [b"+OK\r\n", b"+PONG\r\n"]:
            raise NotReady(b" ".join(answers).decode("utf-8", "replace").strip() or "the connection was closed")
