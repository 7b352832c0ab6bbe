"""What `pasys bench pipeline` does: each case on a fresh stack of its own, every process's CPU counted.

A payment counts as applied when it is succeeded and posted; latency is created to final, as the books have it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pasys.errors import InvalidInput, WaitTimedOut

if TYPE_CHECKING:
    from pasys.config import Settings
    from pasys.db import Database

CASES = ("psp", "latency", "instant", "book")
CUSTOMERS, MERCHANTS = 500, 50
BATCH = 250
ASSET = "USD"
FUNDS = "1000000.00"
SETTLE_TIMEOUT_S = 600.0
_TICKS_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Measured:
    """One case. `rate_s` is applied payments for each second from the first creation to the last final status."""

    case: str
    batch: int
    accepted: int
    applied: int
    seconds: float
    rate_s: float
    p50_ms: float | None
    p99_ms: float | None
    cpu_ms_each: float
    cpu_ms_by_process: dict[str, float]
    verified: bool


@dataclass(frozen=True, slots=True)
class Bench:
    machine: str
    cases: list[Measured]


def run(cases: Sequence[str], payments: int, *, rate: int, seconds: int, keep: bool) -> Bench:
    """Measure the cases, one after the other. Raises InvalidInput for a case that there is not."""
    for case in cases:
        if case not in CASES:
            raise InvalidInput(field="case", reason=f"{case!r} is none of {', '.join(CASES)}")
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, fsync on"
    found = []
    for case in cases:
        with _stack(keep) as settings:
            found.append(asyncio.run(_measure(case, settings, payments, rate=rate, seconds=seconds)))
    return Bench(machine, found)


@contextlib.contextmanager
def _stack(keep: bool) -> Iterator[Settings]:
    """A home of its own, with everything running; the fraud rules let the bench's traffic through."""
    from pasys.config import load
    from pasys.stack import client

    home = Path(tempfile.mkdtemp(prefix="pasys-bench-"))
    try:
        client.up(home)
        yield load(home, actor="bench")
    finally:
        if not keep:
            client.down(home, destroy=True)
            shutil.rmtree(home, ignore_errors=True)


async def _measure(case: str, settings: Settings, payments: int, *, rate: int, seconds: int) -> Measured:
    from pasys.db import Database
    from pasys.service import ledger_verify
    from pasys.service.pace import pace

    db = Database(settings, connections_max=8)
    try:
        await _prepare(db, case)
        before, began = _cpu_ms(settings.home_path), time.monotonic()
        if case == "book":
            accepted, batch = await _import(db, payments)
        elif case == "latency":
            accepted, batch = await _steadily(db, rate, seconds), 1
        else:
            rail = "stripe" if case == "psp" else "instant"
            accepted, batch = await _at_once(db, rail, payments), BATCH
        await _until_final(db, began)
        elapsed_s = time.monotonic() - began
        spent = {name: ms - before.get(name, 0.0) for name, ms in _cpu_ms(settings.home_path).items()}
        async with db.unit() as unit:
            seen = await pace(unit)
            verified = (await ledger_verify.verify(unit)).ok
    finally:
        await db.close()
    return Measured(
        case=case,
        batch=batch,
        accepted=accepted,
        applied=seen.succeeded,
        seconds=round(elapsed_s, 2),
        rate_s=round(seen.succeeded / elapsed_s, 1),
        p50_ms=None if case == "book" else seen.p50_ms,
        p99_ms=None if case == "book" else seen.p99_ms,
        cpu_ms_each=round(sum(spent.values()) / max(seen.succeeded, 1), 3),
        cpu_ms_by_process=_each(spent, seen.succeeded),
        verified=verified,
    )


def _each(spent: Mapping[str, float], applied: int) -> dict[str, float]:
    ordered = sorted(spent.items(), key=lambda item: -item[1])
    return {name: round(ms / max(applied, 1), 3) for name, ms in ordered}


async def _prepare(db: Database, case: str) -> None:
    from pasys.money import parse
    from pasys.service import account, fraud_rules, transaction

    async with db.unit() as unit:
        for number in range(CUSTOMERS):
            await account.open(unit, name=f"customer-{number}", type="customer", asset=ASSET)
        for number in range(MERCHANTS):
            await account.open(unit, name=f"merchant-{number}", type="merchant", asset=ASSET)
        await fraud_rules.change_rules(unit, await _lenient(unit), note="bench")
    if case == "book":
        async with db.unit() as unit:
            drafts = [
                transaction.Draft(amount=parse(FUNDS, ASSET), credit=f"customer-{number}")
                for number in range(CUSTOMERS)
            ]
            await transaction.create_many(unit, drafts, partial=False)


async def _lenient(unit: Any) -> Any:
    """The current rules without velocity: the bench's customers pay far more often than people do."""
    import msgspec

    from pasys.service import fraud_rules

    await fraud_rules.ensure_rules(unit)
    current = await fraud_rules.rules_at(unit)
    return {**msgspec.to_builtins(current.rules), "velocity": []}


def _draft(number: int, rail: str) -> Any:
    from pasys.money import Money
    from pasys.service import transaction

    return transaction.Draft(
        amount=Money(1_000 + number % 9_000, ASSET),
        rail=rail,
        debit=f"customer-{number % CUSTOMERS}",
        credit=f"merchant-{number % MERCHANTS}",
        key=f"bench-{number}",
    )


async def _at_once(db: Database, rail: str, payments: int) -> int:
    from pasys.service import transaction

    for start in range(0, payments, BATCH):
        drafts = [_draft(number, rail) for number in range(start, min(start + BATCH, payments))]
        async with db.unit() as unit:
            await transaction.create_many(unit, drafts, partial=False)
    return payments


async def _steadily(db: Database, rate: int, seconds: int) -> int:
    """One unit for each payment, on a fixed timetable, however long the earlier ones take."""
    from pasys.service import transaction

    async def create(number: int) -> None:
        async with db.unit() as unit:
            await transaction.create(unit, _draft(number, "stripe"))

    began = time.monotonic()
    creating = []
    for number in range(rate * seconds):
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
        creating.append(asyncio.create_task(create(number)))
    await asyncio.gather(*creating)
    return len(creating)


async def _import(db: Database, payments: int) -> tuple[int, int]:
    """A file, as `pasys tx import` takes it: checked in full, then created in chunks. The checking is counted, too."""
    from pasys.cli import import_file
    from pasys.cli.import_source import Source
    from pasys.cli.transaction import BATCH_SIZE

    file = db.settings.home_path / "bench.csv"
    rows = (f"bench-{n},customer-{n % CUSTOMERS},merchant-{n % MERCHANTS},{10 + n % 90}.00" for n in range(payments))
    file.write_text("key,from,to,amount,asset\n" + "".join(f"{row},{ASSET}\n" for row in rows), encoding="utf-8")
    options = import_file.Options(
        open_accounts=False, atomic=False, dry_run=False, skip_invalid=False, batch_size=BATCH_SIZE
    )
    source = Source(file, delimiter=",")
    found = import_file.prepare(source, options, lambda *_: None)
    outcome = await import_file.run(db, source, found, options, lambda *_: None)
    return outcome.created, BATCH_SIZE


async def _until_final(db: Database, began: float) -> None:
    from pasys.service.pace import under_way

    while True:
        async with db.unit() as unit:
            left = await under_way(unit)
        if left == 0:
            return
        if time.monotonic() - began > SETTLE_TIMEOUT_S:
            raise WaitTimedOut(entity_id=f"{left} payments", status="pending", waited_s=SETTLE_TIMEOUT_S)
        await asyncio.sleep(0.05)


def _cpu_ms(home: Path) -> dict[str, float]:
    """CPU that every process of the stack has used so far, and this one's; by service."""
    from pasys.stack import client

    names = {state.pid: state.name for state in client.status(home).services if state.pid}
    names[os.getpid()] = "bench"
    spent: dict[str, float] = {}
    for pid in _pids():
        parent, ms = _stat(pid)
        name = names.get(pid) or ("postgres" if names.get(parent) == "postgres" else None)
        if name is not None:
            spent[name] = spent.get(name, 0.0) + ms
    return spent


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _stat(pid: int) -> tuple[int, float]:
    """Parent and CPU milliseconds of a process (proc(5)); its name may hold anything, so we read behind it."""
    try:
        fields = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0, 0.0
    return int(fields[1]), (int(fields[11]) + int(fields[12])) * 1000 / _TICKS_S
