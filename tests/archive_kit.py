"""What tests of the archive share: a journal over several small partitions, and what the command does, step by step."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pasys.adapters.signer import Signer, open_signer
from pasys.db import Database
from pasys.domain import posting
from pasys.domain.ledger import Transfer
from pasys.service import account, ledger, ledger_archive, ledger_partition
from tests.ledger_batches import Batches
from tests.ledger_kit import T0, people

ROWS = 60  # a partition


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
