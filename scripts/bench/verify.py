"""How fast the books are proved: `pasys ledger verify --full`, and the form that begins at the last signed checkpoint.

    python scripts/bench/verify.py                               3,000,000 transfers, each form three times
    python scripts/bench/verify.py --transfers 10000000 --repeat 5

The books are written on an embedded PostgreSQL with durability on, and verified while nobody else is at them: direct
transfers, holds, and posts and voids of them; every twentieth hold stays open. Then one thing of each kind that is
proved is changed as superuser, and must be found. Exit code 1 where a form is slower than --at-least transfers a
second, 9 where the books do not hold or a change is not found.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import uvloop

from pasys.adapters.signer import open_signer
from pasys.cli.bench_ledger import ASSET, Options, Rig, machine, own_postgres
from pasys.cli.bench_ledger_cases import SEED, batch, pairs, warm
from pasys.config import Settings
from pasys.db import Database, Unit
from pasys.domain.ledger import Kind
from pasys.domain.ledger_audit import Finding, State
from pasys.domain.ledger_columns import Columns
from pasys.driver import as_owner
from pasys.service import ledger_checkpoint, ledger_partition, pace
from pasys.service.ledger_poster import Poster
from pasys.service.ledger_verify import Verification, verify

SIZE = 8_000
HELD = SIZE // 4  # holds in a batch; as many direct transfers, and the rest ends the holds of the batch before
OPEN = 20  # one hold in so many is never ended
LEAST = 300_000
# What is changed, and how a verification must call it. Each in the last rows, which both forms read.
CHANGES = {
    "chain: a seal": "update transfer set seal = seal # 1 where asset = %(asset)s and seq = %(last)s",
    "ids: one that is gone": "delete from transfer_key where asset = %(asset)s and seq = %(last)s",
    "balances: an account's row": "update account set credits_posted = credits_posted + 1 where id = %(account)s",
    "holds: an amount": "update hold set amount = amount + 1 where id = (select id from hold limit 1)",
}


@dataclass(frozen=True)
class Form:
    """One form of the verification, and how long each of its runs took."""

    name: str
    found: Verification
    seconds: list[float]

    @property
    def rate(self) -> float:
        return self.found.transfers / statistics.median(self.seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transfers", type=int, default=3_000_000, help="in the journal (default 3,000,000)")
    parser.add_argument("--accounts", type=int, default=100_000, help="that they are between (default 100,000)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each form, of which the median counts")
    parser.add_argument("--at-least", type=int, default=LEAST, help=f"transfers a second (default {LEAST:,})")
    parser.add_argument("--keep", action="store_true", help="leave the database where it is")
    chosen = parser.parse_args()
    if chosen.transfers < 4 * SIZE or chosen.accounts < 2 or chosen.repeat < 1:
        parser.error(f"at least {4 * SIZE:,} transfers, two accounts and one run")
    print(machine(), flush=True)
    with own_postgres(chosen.keep) as settings:
        return uvloop.run(measured(settings, chosen))


async def measured(settings: Settings, chosen: argparse.Namespace) -> int:
    """Write the books, verify them in both forms, and say how it went: the exit code."""
    db = Database(settings, connections_max=4)
    try:
        quiet = Options(cases=(), accounts=chosen.accounts, transfers=0, growth=0, repeat=1, keep=chosen.keep)
        rig = Rig(db, quiet)
        await rig.prepare()
        began = time.perf_counter()
        starts = await written(rig, chosen.transfers)
        print(
            f"{chosen.transfers:,} transfers written in {time.perf_counter() - began:.0f} s: {await mix(db)}",
            flush=True,
        )
        forms = [await run(db, "full", {}, chosen.repeat), await run(db, "incremental", starts, chosen.repeat)]
        unseen = [change for change in CHANGES if not await seen(rig, change, starts)]
    finally:
        await db.close()
    return report(forms, unseen, chosen.at_least)


# The books -----------------------------------------------------------------------------------------------------------


async def written(rig: Rig, transfers: int) -> dict[str, State]:
    """Post so many; the proven state behind two thirds of them, from where the incremental form begins."""
    draw = np.random.default_rng(SEED)
    count, before, starts = transfers // SIZE, None, {}
    async with Poster(rig.db, group_max=SIZE) as poster:
        await warm(poster, rig.accounts)
        for number in range(count):
            before = mixed(rig, draw, before)
            answers = await poster.post_many(before)
            assert not answers.result.any(), "everybody has the funds that the bench counts on"
            if number == count * 2 // 3:
                starts = await checkpointed(rig.db)
    async with rig.db.unit() as unit:
        while await ledger_partition.keep(unit):
            pass
        await pace.checkpoint(unit)
    return starts


def mixed(rig: Rig, draw: np.random.Generator, before: Columns | None) -> Columns:
    """A batch: holds, the ends of those of the batch before (two voids among eight), and direct transfers."""
    debit, credit = pairs(rig.accounts, SIZE, draw=draw, shape="uniform")
    kind, pending = np.full(SIZE, int(Kind.DIRECT)), np.zeros(SIZE, "V16")
    amount = draw.integers(1, 1_000, SIZE)
    kind[:HELD], amount[:HELD] = int(Kind.PENDING), 1_000
    if before is not None:
        ended = np.arange(HELD)[np.arange(HELD) % OPEN != 0]
        ends = slice(HELD, HELD + len(ended))
        pending[ends], debit[ends], credit[ends] = before.id[ended], before.debit[ended], before.credit[ended]
        kind[ends] = np.where(ended % 8 < 6, int(Kind.POST), int(Kind.VOID))
        amount[ends] = np.where(kind[ends] == int(Kind.VOID), 1_000, draw.integers(1, 1_001, len(ended)))
    return batch(debit, credit, amount, kind=kind, pending_id=pending)


async def checkpointed(db: Database) -> dict[str, State]:
    async with db.unit() as unit:
        signer = open_signer(unit.settings)
        await ledger_checkpoint.checkpoint(unit, signer)
        return await ledger_checkpoint.starts(unit, signer)


async def mix(db: Database) -> str:
    async with db.unit() as unit:
        rows = await unit.rows("select kind, count(*) as n from transfer group by kind order by kind")
    return ", ".join(f"{row.n:,} {Kind(row.kind).name.lower()}" for row in rows)


# Verification --------------------------------------------------------------------------------------------------------


async def run(db: Database, name: str, starts: Mapping[str, State], repeat: int) -> Form:
    runs = [await timed(db, starts) for _ in range(repeat)]
    return Form(name, runs[-1][0], [seconds for _, seconds in runs])


async def timed(db: Database, starts: Mapping[str, State]) -> tuple[Verification, float]:
    async with db.unit() as unit:
        began = time.perf_counter()
        found = await verify(unit, starts=starts)
        seconds = time.perf_counter() - began
    if not found.ok:
        print(f"the books do not hold: {found.findings[0]}", file=sys.stderr)
        raise SystemExit(9)
    return found, seconds


class _Undone(Exception):
    """Takes a change back."""


async def seen(rig: Rig, change: str, starts: Mapping[str, State]) -> bool:
    """Change one thing behind the ledger's back, verify, and take it back; True where it was found."""
    findings: list[Finding] = []
    try:
        async with rig.db.unit() as unit, as_owner(unit.driver):
            await unit.rows("set local session_replication_role = replica")  # no trigger fires
            await unit.rows(CHANGES[change], asset=ASSET, last=await last(unit), account=int(rig.accounts[0]))
            findings += (await verify(unit, starts=starts)).findings
            raise _Undone
    except _Undone:
        print(f"  {change}: {findings[0].detail if findings else 'NOT FOUND'}", flush=True)
    return bool(findings)


async def last(unit: Unit) -> int:
    return await ledger_checkpoint.last_seq(unit, ASSET)


def report(forms: list[Form], unseen: list[str], at_least: int) -> int:
    print("covered: every row's seal and place in the hash chain, every id, every balance and version of each account")
    print("beside each row and now, every limit, and every open hold with its amount and deadline")
    for form in forms:
        spread = ", ".join(f"{seconds:.2f} s" for seconds in form.seconds)
        said = f"{form.found.transfers:,} transfers, {form.found.accounts:,} accounts: {form.rate:,.0f} transfers/s"
        print(f"{form.name:<12} {said} (median of {spread})")
    slow = [form.name for form in forms if form.rate < at_least]
    for name in slow:
        print(f"{name} is slower than {at_least:,} transfers/s", file=sys.stderr)
    return 9 if unseen else 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
