"""A process of its own runs the real daemons of the money path, and may be told where to die.

Processes come from a fork server that has everything imported, so that starting one takes milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from pasys.config import Settings
from tests.faults_points import Kill, Trigger, arm, die

PIPELINE = ("fraud", "settlement", "ledger", "refund")
# Waits that only decide how soon something is done again are shortened, so that a thousand deaths take minutes.
CLAIM_S = 0.3
POLL_S = 0.3
# Four daemons share the process; opening their connections is most of what starting it costs.
CONNECTIONS_MAX = 3

forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload(
    [
        "tests.faults_worker",
        "pasys.worker",
        "pasys.adapters.stripe_api",
        "pasys.adapters.stripe",
        "pasys.adapters.velocity",
        "sqlalchemy.ext.asyncio",
        "sqlalchemy.dialects.postgresql.psycopg",
        "redis.asyncio",
        "daemons.fraud",
        "daemons.settlement",
        "daemons.ledger",
        "daemons.refund",
        "daemons.reconciliation",
        "daemons.webhook",
        "uvicorn.protocols.http.httptools_impl",
        "uvloop",
    ]
)


class Worker:
    """Daemons in a process; told of a point, it dies when it gets there."""

    def __init__(
        self, settings: Settings, *, daemons: Sequence[str] = PIPELINE, kill: Kill | None = None, webhooks: bool = False
    ) -> None:
        theirs, self._orders = forks.Pipe(duplex=False)
        self.process: BaseProcess = forks.Process(
            target=run, args=(settings, tuple(daemons), kill, webhooks, theirs), daemon=True
        )
        self.process.start()
        theirs.close()

    def die_at(self, kill: Kill | None) -> None:
        """From now on; None takes it back."""
        with contextlib.suppress(BrokenPipeError):
            self._orders.send(kill)

    @property
    def alive(self) -> bool:
        return self.process.is_alive()

    @property
    def killed(self) -> bool:
        """Whether it died by SIGKILL, and not of an error of its own."""
        return self.process.exitcode == -signal.SIGKILL

    def kill(self) -> None:
        self.process.kill()
        self.process.join(10)

    def stop(self) -> int | None:
        """Ask it to drain; its exit code."""
        self.process.terminate()
        self.process.join(20)
        if self.process.exitcode is None:
            self.kill()
        return self.process.exitcode


def run(settings: Settings, daemons: tuple[str, ...], kill: Kill | None, webhooks: bool, orders: Connection) -> None:
    """What the process does. It dies with the fork server, and so with whoever started that."""
    import uvloop

    from pasys.stack.process import die_with_parent

    die_with_parent(os.getppid(), signal.SIGKILL)
    logging.disable(logging.ERROR)
    _shorten_waits()
    trigger = arm()
    trigger.set(kill)
    uvloop.run(_serve(settings, daemons, webhooks, trigger, orders))


def _shorten_waits() -> None:
    from pasys import db, worker
    from pasys.worker import relay

    worker.CONNECTIONS_MAX = CONNECTIONS_MAX
    db.CLAIM_S = CLAIM_S
    relay.POLL_S = POLL_S


async def _serve(
    settings: Settings, daemons: tuple[str, ...], webhooks: bool, trigger: Trigger, orders: Connection
) -> None:
    from daemons import webhook
    from pasys import worker

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_reader(orders.fileno(), lambda: _take_order(trigger, orders))
    tasks: list[Any] = [worker.run(worker.load(name), settings, stop=stop) for name in daemons]
    if webhooks:
        tasks.append(webhook.run(settings, stop=stop))
    await asyncio.gather(*tasks)


def _take_order(trigger: Trigger, orders: Connection) -> None:
    try:
        trigger.set(orders.recv())
    except EOFError:  # whoever started this process is gone
        die()
