"""The three servers by themselves, without a supervisor: for tests and for tools that need nothing more."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pasys.stack import ports
from pasys.stack.home import Home, take_lock
from pasys.stack.nats import Nats
from pasys.stack.postgres import Postgres
from pasys.stack.server import Server, until_ready
from pasys.stack.valkey import Valkey

START_TIMEOUT_S = 60.0


@contextmanager
def running_servers(home: Path, *, durable: bool = True) -> Iterator[dict[str, str]]:
    """PostgreSQL, NATS and Valkey for the length of the block; the keys are fields of Settings.

    `durable=False` is for tests only: PostgreSQL then never waits for the disk. Raises HomeInUse, ServerMissing and
    NotReady. Not from inside a running event loop.
    """
    place = Home(home.absolute())
    place.create()
    lock = take_lock(place.lock, home=place.root)
    started: list[tuple[Server, subprocess.Popen[bytes]]] = []
    try:
        chosen: set[int] = set()
        for service in ("nats", "redis"):
            chosen.add(ports.choose(service, asked=None, remembered=None, avoid=chosen))
        nats_port, redis_port = chosen
        postgres = Postgres(place, durable=durable)
        nats, valkey = Nats(place, port=nats_port), Valkey(place, port=redis_port)
        asyncio.run(_start([postgres, nats, valkey], started))
        yield {"database_url": postgres.url, "nats_url": nats.url, "redis_url": valkey.url}
    finally:
        for server, running in reversed(started):
            _stop(server, running)
        os.close(lock)


async def _start(servers: list[Server], started: list[tuple[Server, subprocess.Popen[bytes]]]) -> None:
    async def bring_up(server: Server) -> None:
        await asyncio.to_thread(server.prepare)
        running = server.start()
        started.append((server, running))
        await until_ready(server, running, timeout_s=START_TIMEOUT_S)

    await asyncio.gather(*map(bring_up, servers))


def _stop(server: Server, running: subprocess.Popen[bytes]) -> None:
    for sent, patience_s in server.stop_signals:
        running.send_signal(sent)
        try:
            running.wait(patience_s)
            return
        except subprocess.TimeoutExpired:
            continue
