"""A process of its own posts batches and dies by SIGKILL: between reading and writing, while the database writes, or
between the commit and the answer. What it was answered until then, it has said.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import pytest

from pasys.config import Settings
from pasys.db import Database
from pasys.domain.ledger import Result, Transfer
from pasys.domain.ledger_columns import Columns
from pasys.service import ledger, ledger_books
from pasys.service.ledger_poster import Poster
from tests.faults_worker import forks
from tests.ledger_batches import one_by_one
from tests.ledger_shape import Shape
from tests.ledger_world import Answer, Asked, post_in

# Where it dies. "written" is before the commit where the books are locked; "waiting" is when it waits for the database.
POINTS = ("judged", "written", "committed", "waiting")


@dataclass(frozen=True)
class Orders:
    """What the process does: all batches at once, or one after the other, by a poster, in units, or by both."""

    batches: list[list[Transfer]]
    at_once: bool
    by: str
    point: str
    nth: int
    now: datetime


class Doomed:
    """The process, as whoever has started it sees it."""

    def __init__(self, settings: Settings, shape: Shape, orders: Orders) -> None:
        self.asked = [Asked(batch) for batch in orders.batches]
        self._said, theirs = forks.Pipe(duplex=False)
        self._process: BaseProcess = forks.Process(target=run, args=(settings, shape, orders, theirs), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def killed(self) -> bool:
        return self._process.exitcode == -signal.SIGKILL

    @property
    def ended(self) -> bool:
        return not self._process.is_alive()

    def kill(self) -> None:
        self._process.kill()

    def hear(self) -> None:
        """Wait for its end; then `asked` has the answers that it got."""
        self._process.join(30)
        assert self._process.exitcode in (0, -signal.SIGKILL), f"it ended with {self._process.exitcode}"
        try:
            while True:
                i, answers = self._said.recv()
                self.asked[i].answers = answers
        except EOFError:
            self._said.close()


def run(settings: Settings, shape: Shape, orders: Orders, said: Connection) -> None:
    """What the process does. It dies with the fork server, and so with whoever started that."""
    from pasys.stack.process import die_with_parent

    die_with_parent(os.getppid(), signal.SIGKILL)
    patch = pytest.MonkeyPatch()
    shape.put_on(patch)
    _arm(patch, orders)
    asyncio.run(_post(settings, shape, orders, said))


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _arm(patch: pytest.MonkeyPatch, orders: Orders) -> None:
    write, left = ledger_books.write, orders.nth

    async def written(*args: Any, **more: Any) -> None:
        nonlocal left
        left -= 1
        if not left and orders.point == "judged":
            _die()
        await write(*args, **more)
        if not left and orders.point == "written":
            _die()

    patch.setattr(ledger_books, "write", written)


async def _post(settings: Settings, shape: Shape, orders: Orders, said: Connection) -> None:
    db = Database(settings, connections_max=len(orders.batches))
    answered = 0

    async def one(poster: Poster, i: int) -> None:
        nonlocal answered
        answers = await WAYS[orders.by](db, poster, orders.batches[i], orders.now)
        answered += 1
        if answered == orders.nth and orders.point == "committed":
            _die()
        said.send((i, answers))

    async with Poster(db, group_max=shape.group_max, now=lambda: orders.now) as poster:
        steps = [one(poster, i) for i in range(len(orders.batches))]
        if orders.at_once:
            await asyncio.gather(*steps)
        else:
            for step in steps:
                await step
    await db.close()


async def _by_poster(_: Database, poster: Poster, batch: Sequence[Transfer], now: datetime) -> list[Answer]:
    answers = one_by_one(await poster.post_many(Columns.of(batch)))
    return [(Result(result), replayed, seq) for result, replayed, seq in answers]


async def _in_unit(db: Database, _: Poster, batch: Sequence[Transfer], now: datetime) -> list[Answer]:
    async with db.unit(now=now) as unit:
        posted = await ledger.post(unit, batch, refuse=False)
    return [(one.result, one.replayed, one.seq) for one in posted]


async def _by_both(db: Database, poster: Poster, batch: Sequence[Transfer], now: datetime) -> list[Answer]:
    async with db.unit(now=now) as unit:
        return await post_in(unit, poster, batch)


WAYS = {"poster": _by_poster, "unit": _in_unit, "both": _by_both}
