"""What tests of the archive share: a journal over several small partitions, and what the command does, step by step."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from datetime import datetime, timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from pasys.adapters.signer import Signer, open_signer
from pasys.config import Settings
from pasys.db import Database
from pasys.domain import posting
from pasys.domain.ledger import Transfer
from pasys.service import account, ledger, ledger_archive, ledger_partition
from tests.faults_worker import forks
from tests.ledger_batches import Batches
from tests.ledger_kit import T0, people

ROWS = 60  # a partition
POINTS = ("written", "read back", "settled", "kept", "dropped, not committed", "half")


def signer(db: Database) -> Signer:
    return open_signer(db.settings)


async def grown(db: Database, *, seed: int = 1, rounds: int = 30, asked: list[Transfer] | None = None) -> list[int]:
    """A journal over several small partitions: holds, refusals, and much that is dated back and ahead.

    What was asked for is put into `asked`.
    """
    draw = random.Random(seed)
    async with db.unit(now=T0) as unit:
        await unit.rows(f"select set_config('pasys.partition_rows', '{ROWS}', false)")
        source = await account.system(unit, "external:deposits", "USD")
        flight = await account.system(unit, "refunds:in_flight", "USD")
        numbers = [source, flight, *await people(unit, *[f"user_{i}" for i in range(4)])]
    batches = Batches(seed, numbers)
    for step in range(rounds):
        now = T0 + timedelta(hours=step)
        batch = [
            replace(one, effective_at=now + timedelta(hours=draw.randint(-40, 60))) if draw.random() < 0.2 else one
            for one in batches.batch(draw.randint(1, 25), now)
        ]
        async with db.unit(now=now) as unit:
            await ledger.post(unit, batch, refuse=False)
        if asked is not None:
            asked += batch
    await resolve_all(db, T0 + timedelta(hours=rounds))
    async with db.unit() as unit:
        while await ledger_partition.keep(unit):
            pass
    return numbers


async def resolve_all(db: Database, now: datetime) -> None:
    """Void what is still held, behind everything else."""
    async with db.unit(now=now) as unit:
        open_ = [row.id for row in await unit.rows("select id from hold order by id")]
        holds = await ledger.holds(unit, open_)
        await ledger.post(unit, [transfer for id in open_ for transfer in posting.void(hold=holds[id])])


def dying(settings: Settings, folder: Path, point: str) -> BaseProcess:
    """A process that archives all it can as the command does, and dies by SIGKILL at a point; it has ended."""
    made = forks.Process(target=_run, args=(settings, folder, point), daemon=True)
    made.start()
    made.join(60)
    return made


def _run(settings: Settings, folder: Path, point: str) -> None:
    from pasys.cli import archive as command
    from pasys.stack.process import die_with_parent

    die_with_parent(os.getppid(), signal.SIGKILL)
    _arm(point)

    async def all_of_it() -> None:
        db = Database(settings)
        async with db.unit() as unit:
            parts = await ledger_archive.plan(unit, "USD", to=2 * ROWS)
        for part in parts:
            await command._archive(db, part, folder, 30.0, None)

    asyncio.run(all_of_it())


def _arm(point: str) -> None:
    def die(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if point == "written":
        ledger_archive.files.check = die
    if point == "read back":
        ledger_archive.files.settle = die
    if point == "settled":
        ledger_archive._keep = die
    if point == "kept":
        ledger_archive.drop = die
    if point == "dropped, not committed":
        ledger_archive.latest = die
    if point == "half":  # between the two partitions
        first = ledger_archive.write

        async def second(unit: Any, signer: Any, part: ledger_archive.Part, *args: Any, **named: Any) -> Any:
            return die() if part.first_seq > 1 else await first(unit, signer, part, *args, **named)

        ledger_archive.write = second


async def archive(db: Database, folder: Path, **how: Any) -> list[ledger_archive.Written]:
    """All that can be archived, as the command does it."""
    done = []
    async with db.unit() as unit:
        parts = await ledger_archive.plan(unit, "USD", **how)
    for part in parts:
        async with db.unit() as unit:
            done.append(await ledger_archive.write(unit, signer(db), part, folder))
        async with db.unit(actor="tester") as unit:
            assert await ledger_archive.drop(unit, done[-1])
    return done


async def everything(db: Database, numbers: list[int], times: list[datetime]) -> list[object]:
    """What the books say of each account at each time, by both clocks, and in statements by pages."""
    said: list[object] = []
    async with db.unit(now=T0 + timedelta(days=90)) as unit:
        for at in times:
            for by in ("effective", "recorded"):
                said.append(await ledger.trial_balance(unit, at=at, by=by))
                for number in numbers:
                    said.append(await ledger.balance_at(unit, number, at, by=by))
                    page = await ledger.statement(unit, number, since=at, by=by, limit=7)
                    said.append(page)
                    while page.truncated:
                        page = await ledger.statement(unit, number, since=at, by=by, limit=7, after=page.next)
                        said.append(page)
        said.append(await ledger.trial_balance(unit))
        said.append(await ledger.balances(unit, numbers))
    return said
