"""Runs the main job from an empty folder to proven books, and says how fast each part of it was.

    python scripts/run_main_job.py --home ./main-job --rows 10000

It starts the stack, imports a generated file, waits until the daemons have settled all of it, decides what waits for a
person, refunds a share, reconciles with the PSP, verifies the ledger, and stops the stack again. It ends with 0 only
when no break is unexplained, every refused row was meant to be refused, nothing hangs, and the books hold.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pasys.config import load
from pasys.db import Database, Unit
from pasys.domain.refund import FINAL as REFUND_ENDS
from pasys.domain.refund import Status as RefundStatus
from pasys.errors import Rejected
from pasys.money import parse
from pasys.service import fraud, import_batch, refund, refund_query

ROOT = Path(__file__).resolve().parent.parent
T = TypeVar("T")
OPERATOR, SUPERVISOR = "operator", "supervisor"
MEANT_TO_BE_REFUSED = {"amount_not_sendable", "exceeds_credits"}
REFUNDS_AT_ONCE = 8
REFUNDED_REASON = "sent back"
LOOK_EVERY_S = 1.0


@dataclass
class Job:
    """What is asked for, and what came of it."""

    home: Path
    rows: int
    seed: int
    refund_share: float
    timeout_s: float
    found: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @property
    def payments(self) -> Path:
        return self.home / "payments.csv"

    @property
    def refunds(self) -> Path:
        return self.home / "refunds.csv"

    def pasys(self, *words: str, accept: tuple[int, ...] = (0,)) -> dict[str, Any]:
        """One command line; what it printed. Ends the job where its exit code is not among those accepted."""
        ended = self._run(*words, "--json")
        if ended.returncode not in accept:
            raise SystemExit(f"pasys {' '.join(words)} ended with {ended.returncode}: {ended.stdout.strip()}")
        return json.loads(ended.stdout)

    def stop(self) -> None:
        self._run("down")

    def _run(self, *words: str) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-c", "from pasys.cli.main import main; main()"]
        command = [*program, "--home", str(self.home), "--actor", OPERATOR, *words]
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    def check(self, holds: bool, fault: str) -> None:
        if not holds:
            self.faults.append(fault)

    def ask(self, question: Callable[[Database], Awaitable[T]], *, actor: str = OPERATOR) -> T:
        async def cross() -> T:
            database = Database(load(self.home, actor=actor), connections_max=REFUNDS_AT_ONCE)
            try:
                return await question(database)
            finally:
                await database.close()

        return asyncio.run(cross())


def say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


# The steps -----------------------------------------------------------------------------------------------------------


def generate(job: Job) -> None:
    job.home.mkdir(parents=True, exist_ok=True)
    options = ["--rows", str(job.rows), "--seed", str(job.seed), "--refund-share", str(job.refund_share)]
    script = [sys.executable, str(ROOT / "scripts" / "generate_payments.py"), *options]
    subprocess.run([*script, "--out", str(job.payments), "--refunds-out", str(job.refunds)], check=True)


def import_payments(job: Job) -> None:
    began = time.monotonic()
    said = job.pasys("tx", "import", str(job.payments), "--open-accounts", accept=(0, 6))
    refused = Counter(refusal["rule"] for refusal in said["refusals"])
    wrong = refused.keys() - MEANT_TO_BE_REFUSED
    job.check(not wrong, f"import refused rows that are good: {', '.join(sorted(wrong))}")
    done = said["done_before"] + said["created"] + said["replayed"] + said["refused"]
    job.check(done >= said["rows"], f"import did {done} of {said['rows']} rows")
    job.found["import"] = {
        "batch": said["batch"],
        "rows": said["rows"],
        "created": said["created"],
        "refused": dict(refused),
        "rows_a_second": said["rate"],
    }
    job.found["began"] = began


def settle(job: Job) -> None:
    """Wait until the daemons have nothing to do but what waits for a person; let people decide; wait again."""
    _until_nothing_pends(job)
    seconds = time.monotonic() - job.found["began"]
    tally = job.ask(_tally(job))
    job.found["settlement"] = {
        "seconds": round(seconds, 1),
        "by_psp": tally.by_psp,
        "psp_payments_a_second": round(tally.by_psp / seconds, 1),
        "p50_s": tally.p50_s and round(tally.p50_s, 3),
        "p95_s": tally.p95_s and round(tally.p95_s, 3),
    }
    job.found["reviews"] = job.ask(_decide_reviews, actor=SUPERVISOR)
    _until_nothing_pends(job)


def _tally(job: Job) -> Callable[[Database], Awaitable[import_batch.Tally]]:
    batch = job.found["import"]["batch"]
    return lambda db: _in_unit(db, lambda unit: import_batch.tally(unit, batch))


async def _in_unit(db: Database, question: Callable[[Unit], Awaitable[T]]) -> T:
    async with db.unit() as unit:
        return await question(unit)


def _until_nothing_pends(job: Job) -> None:
    deadline = time.monotonic() + job.timeout_s

    async def wait(db: Database) -> bool:
        while True:
            tally = await _tally(job)(db)
            waits = f"{tally.pending} pending, {tally.review} in review"
            say(f"  {waits}, {tally.succeeded} succeeded, {tally.failed} failed, {tally.fraud} fraud")
            if not tally.pending:
                return True
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(LOOK_EVERY_S)

    job.check(job.ask(wait), f"payments were still pending after {job.timeout_s:g} s")


async def _decide_reviews(db: Database) -> dict[str, int]:
    """Every other payment is let through."""
    decided: Counter[str] = Counter()
    rows = await _in_unit(db, lambda unit: fraud.reviews(unit, limit=1_000))
    for number, row in enumerate(rows):
        async with db.unit() as unit:
            verb = fraud.reject if number % 2 else fraud.approve
            decided[(await verb(unit, row.transaction_id, "main job")).outcome] += 1
    return dict(decided)


def refund_some(job: Job) -> None:
    """Ask for the refunds of the file, several at once; payments that never succeeded refuse theirs by name."""
    with job.refunds.open(encoding="utf-8", newline="") as file:
        wanted = list(csv.DictReader(file))
    began = time.monotonic()
    asked = job.ask(lambda db: _ask_for_refunds(db, wanted))
    approved = job.ask(_approve_refunds, actor=SUPERVISOR)
    left = job.ask(lambda db: _until_refunds_end(db, job.timeout_s))
    seconds = time.monotonic() - began
    job.check(left == 0, f"refunds were still open after {job.timeout_s:g} s")
    job.check(asked["asked"] > 0, "no refund was accepted")
    job.found["refunds"] = {
        **asked,
        "approved_by_a_second_person": approved,
        "seconds": round(seconds, 1),
        "refunds_a_second": round(asked["asked"] / seconds, 1),
    }


async def _ask_for_refunds(db: Database, wanted: list[dict[str, str]]) -> dict[str, int]:
    known = await _in_unit(db, lambda unit: import_batch.by_key(unit, [row["key"] for row in wanted]))
    counts: Counter[str] = Counter({"wanted": len(wanted)})
    room = asyncio.Semaphore(REFUNDS_AT_ONCE)

    async def ask(row: dict[str, str]) -> None:
        amount = parse(row["amount"], row["asset"])
        async with room:
            try:
                async with db.unit() as unit:
                    transaction_id = known[row["key"]]
                    await refund.request(unit, transaction_id, amount=amount, reason=REFUNDED_REASON, key=row["key"])
                counts["asked"] += 1
            except Rejected as no:
                counts[no.code] += 1

    await asyncio.gather(*(ask(row) for row in wanted if row["key"] in known))
    return dict(counts)


async def _approve_refunds(db: Database) -> int:
    waiting = await _in_unit(
        db, lambda unit: refund_query.listing(unit, status=RefundStatus.AWAITING_APPROVAL, limit=10_000)
    )
    for row in waiting:
        async with db.unit() as unit:
            await refund.approve(unit, row.id)
    return len(waiting)


async def _until_refunds_end(db: Database, timeout_s: float) -> int:
    deadline = time.monotonic() + timeout_s
    while True:
        open_ones = 0
        for status in RefundStatus:
            if status not in REFUND_ENDS:
                rows = await _in_unit(db, lambda unit, s=status: refund_query.listing(unit, status=s, limit=10_000))
                open_ones += len(rows)
        say(f"  {open_ones} refunds on their way")
        if not open_ones or time.monotonic() > deadline:
            return open_ones
        await asyncio.sleep(LOOK_EVERY_S)


def reconcile(job: Job) -> None:
    began = time.monotonic()
    said = job.pasys("reconcile", "run", "--psp", "stripe", "--timeout", str(job.timeout_s), accept=(0, 10))
    breaks = [one for one in said["breaks"] if one["status"] == "open"]
    kinds = Counter(one["kind"] for one in breaks)
    job.check(not breaks, f"unexplained breaks: {dict(kinds)}")
    job.check(said["matched"] > 0, "no line of the statement was matched")
    job.found["reconciliation"] = {
        "matched": said["matched"],
        "open_breaks": dict(kinds),
        "seconds": round(time.monotonic() - began, 1),
    }


def verify(job: Job) -> None:
    said = job.pasys("ledger", "verify", accept=(0, 9))
    job.check(said["ok"], "the books do not hold")
    job.found["ledger"] = {"ok": said["ok"], "transfers": said["transfers"], "accounts": said["accounts"]}


STEPS = (import_payments, settle, refund_some, reconcile, verify)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--home", type=Path, required=True, help="a folder for the stack and the files")
    parser.add_argument("--rows", type=int, default=10_000, help="of the file (default 10,000)")
    parser.add_argument("--seed", type=int, default=1, help="of the file")
    parser.add_argument("--refund-share", type=float, default=0.1, help="of the card payments (default 0.1)")
    parser.add_argument("--timeout", type=float, default=900.0, help="of each wait, in seconds")
    parser.add_argument("--keep", action="store_true", help="leave the stack running")
    chosen = parser.parse_args()
    job = Job(chosen.home.absolute(), chosen.rows, chosen.seed, chosen.refund_share, chosen.timeout)
    generate(job)
    was_running = job.pasys("up", "-d")["already_running"]
    try:
        for step in STEPS:
            say(f"{step.__name__.replace('_', ' ')} …")
            step(job)
    finally:
        if not (chosen.keep or was_running):
            job.stop()
    del job.found["began"]
    print(json.dumps({"ok": not job.faults, "faults": job.faults, **job.found}, indent=2))
    sys.exit(1 if job.faults else 0)


if __name__ == "__main__":
    main()
