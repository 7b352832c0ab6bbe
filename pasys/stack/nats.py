"""The embedded NATS server: JetStream on disk, one user, loopback only, and never two servers on one data folder."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from pasys.errors import HomeInUse
from pasys.stack import locate, process
from pasys.stack.home import Home, write_private
from pasys.stack.ports import LOOPBACK
from pasys.stack.server import NotReady

USER = "pasys"
PROBE_STREAM, PROBE_SUBJECT = "PASYS_PROBE", "pasys.probe"
ORPHAN_WAIT_S = 3.0
_CONFIGURATION = """\
server_name: pasys
listen: "{host}:{port}"
logtime_utc: true
authorization {{ user: {user}, password: {password} }}
jetstream {{ store_dir: {store}, sync_interval: "10s" }}
"""


class Nats:
    """`port` is on loopback. Readiness is a message that JetStream stored and acknowledged."""

    name = "nats"
    stop_signals = ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))

    def __init__(self, home: Home, *, port: int) -> None:
        self.home = home
        self.port = port
        self.data = home.data / "nats"
        self.password = home.secret("nats")

    @cached_property
    def binary(self) -> Path:
        return locate.nats()

    @property
    def url(self) -> str:
        return f"nats://{USER}:{self.password}@{LOOPBACK}:{self.port}"

    def prepare(self) -> None:
        """Raises ServerMissing, HomeInUse."""
        self.data.mkdir(mode=0o700, exist_ok=True)
        self._end_orphan()
        store = json.dumps(str(self.data))
        text = _CONFIGURATION.format(host=LOOPBACK, port=self.port, user=USER, password=self.password, store=store)
        write_private(self.home.run / "nats.conf", text.encode())

    def start(self) -> subprocess.Popen[bytes]:
        lock = self._lock()
        try:
            # The server inherits the lock and so holds it exactly as long as it lives; it has none of its own.
            return process.spawn(
                [self.binary, "-c", self.home.run / "nats.conf"],
                log=self.home.log(self.name),
                on_parent_death=signal.SIGKILL,  # what it acknowledged is in the page cache, and stays
                cwd=self.data,
                pass_fds=[lock],
            )
        finally:
            os.close(lock)

    async def probe(self) -> None:
        reader, writer = await asyncio.open_connection(LOOPBACK, self.port)
        try:
            await _round_trip(reader, writer, password=self.password)
        finally:
            writer.close()

    def _lock(self) -> int:
        descriptor = os.open(self.home.data / "nats.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            holder = next(process.working_in(self.data), "another NATS server")
            raise HomeInUse(home=str(self.data), pid=holder) from None
        return descriptor

    def _end_orphan(self) -> None:
        """A server that outlived its supervisor (possible only without Linux's help) still holds the lock."""
        deadline = time.monotonic() + ORPHAN_WAIT_S
        while True:
            try:
                lock = self._lock()
                # Unlocked, not only closed: a child that is just being forked would hold a copy for a moment.
                fcntl.flock(lock, fcntl.LOCK_UN)
                return os.close(lock)
            except HomeInUse:
                for pid in process.working_in(self.data):
                    process.send(pid, signal.SIGKILL)
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)


async def _round_trip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, password: str) -> None:
    """Create the probe stream where it is missing, store one message in it, and wait for JetStream's word."""
    await reader.readline()  # INFO
    hello = {"verbose": False, "pedantic": False, "user": USER, "pass": password, "name": "pasys supervisor"}
    inbox = f"_INBOX.probe{os.getpid()}"
    writer.write(f"CONNECT {json.dumps(hello)}\r\nSUB {inbox} 1\r\n".encode())
    stream: dict[str, Any] = {"name": PROBE_STREAM, "subjects": [PROBE_SUBJECT], "max_msgs": 1, "storage": "file"}
    stream |= {"retention": "limits", "discard": "old", "num_replicas": 1}
    await _request(reader, writer, f"$JS.API.STREAM.CREATE.{PROBE_STREAM}", json.dumps(stream), inbox=inbox)
    await _request(reader, writer, PROBE_SUBJECT, "", inbox=inbox)


async def _request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, subject: str, body: str, *, inbox: str
) -> None:
    content = body.encode()
    writer.write(f"PUB {subject} {inbox} {len(content)}\r\n".encode() + content + b"\r\n")
    while True:
        line = await reader.readline()
        if not line:
            raise NotReady("the connection was closed")
        if line.startswith(b"-ERR"):
            raise NotReady(line.decode("utf-8", "replace").strip())
        if line.startswith(b"PING"):
            writer.write(b"PONG\r\n")
        if line.startswith((b"MSG ", b"HMSG ")):
            return _judge((await reader.readexactly(int(line.split()[-1]) + 2)), line)


def _judge(body: bytes, line: bytes) -> None:
    """Raises NotReady for an answer that reports an error or that nobody serves the subject."""
    if line.startswith(b"HMSG"):
        raise NotReady("JetStream is not up yet")
    answer: dict[str, Any] = {}
    with suppress(ValueError):
        answer = json.loads(body)
    if error := answer.get("error"):
        raise NotReady(f"JetStream: {error.get('description', error)}")
