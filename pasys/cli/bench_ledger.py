"""What `pasys bench ledger` does: one asset's books on a PostgreSQL of its own, case after case, verified after each.

Every batch is made before the clock starts, and ends when its answer is there, committed. CPU is that of this process
and of all of PostgreSQL's; a refused transfer is accepted into the journal and not applied.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pasys.errors import BooksDoNotHold, InvalidInput

if TYPE_CHECKING:
    from pasys.config import Settings
    from pasys.db import Database

ASSET = "USD"
FUNDS_MINOR = 1_000_000_000
IDLE_S = 0.3
_TICKS_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Load:
    """What a case did: transfers asked for, those that moved money, and how long each call took, in ms.

    Work done by other processes says itself how long it took and what CPU it used.
    """

    accepted: int
    applied: int
    calls_ms: Sequence[float]
    seconds: float | None = None
    cpu_s: float | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """One case. Rates are transfers a second; `wal_bytes`, `client_us` and `postgres_us` are for each transfer."""

    case: str
    batch: int
    concurrency: int
    accepted: int
    applied: int
    seconds: float
    accepted_s: float
    applied_s: float
    p50_ms: float
    p99_ms: float
    wal_bytes: float
    client_us: float
    postgres_us: float
    verified: bool | None


@dataclass(frozen=True, slots=True)
class Ratio:
    """How one case stands beside another of the same run."""

    case: str
    beside: str
    ratio: float


@dataclass(frozen=True, slots=True)
class Bench:
    machine: str
    settings: str
    cases: list[Measured]
    ratios: list[Ratio]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    cases: Sequence[str]
    accounts: int
    transfers: int
    growth: int
    repeat: int
    keep: bool
    peer: Path | None = None
    peer_call: str | None = None
    peer_open: str | None = None


Work = Callable[[], Awaitable[Load]]


def run(options: Options, progress: Callable[[Measured], None]) -> Bench:
    """Measure the cases in turn. Raises InvalidInput for a case that there is not, BooksDoNotHold after one that broke
    the books."""
    from pasys.cli import bench_ledger_cases as cases

    for name in options.cases:
        if name not in cases.CASES:
            raise InvalidInput(field="case", reason=f"{name!r} is none of {', '.join(cases.CASES)}")
    if "peer" in options.cases and (options.peer is None or options.peer_call is None):
        raise InvalidInput(field="peer", reason="a peer is measured with --peer FILE.sql and --peer-call 'select …'")
    import uvloop

    with _postgres(options.keep) as settings:
        return uvloop.run(_run(settings, options, progress))


async def _run(settings: Settings, options: Options, progress: Callable[[Measured], None]) -> Bench:
    from pasys.cli import bench_ledger_cases as cases
    from pasys.db import Database

    db = Database(settings, connections_max=4)
    try:
        rig = Rig(db, options)
        await rig.prepare()
        said = await _server(db)
        found: list[Measured] = []
        for _ in range(options.repeat):
            for name in options.cases:
                async for measured in cases.CASES[name](rig):
                    progress(measured)
                    found.append(measured)
    finally:
        await db.close()
    found = _medians(found)
    return Bench(_machine(), said, found, _ratios(found))


class Rig:
    """The books of a bench: funded accounts, and a clock that stands over each case."""

    def __init__(self, db: Database, options: Options) -> None:
        self.db, self.options = db, options
        self.accounts: Any = None

    async def prepare(self) -> None:
        """Open the accounts, and give each its funds by a transfer: limits bind, and the books hold from the start."""
        import numpy as np

        from pasys.db import chunks
        from pasys.service import account, import_batch, pace

        async with self.db.unit() as unit:
            self.source = await account.system(unit, "external:deposits", ASSET)
        names = [f"a{number}" for number in range(self.options.accounts)]
        for some in chunks(names, 10_000):
            async with self.db.unit() as unit:
                await import_batch.open_accounts(unit, [import_batch.Wanted(name, ASSET, "customer") for name in some])
        async with self.db.unit() as unit:
            self.accounts = np.array(sorted(await pace.account_numbers(unit, type="customer", asset=ASSET)))
        await self.fund(self.accounts, FUNDS_MINOR)
        await self._settle()

    async def fund(self, numbers: Any, amount_minor: int) -> None:
        """Give each of these accounts so much more."""
        import numpy as np

        from pasys.cli.bench_ledger_cases import batch
        from pasys.service.ledger_poster import Poster

        async with Poster(self.db) as poster:
            for start in range(0, len(numbers), 8_000):
                some = numbers[start : start + 8_000]
                await poster.post_many(batch(np.full(len(some), self.source), some, amount_minor))

    async def measure(self, case: str, work: Work, *, batch: int, concurrency: int, verify: bool = True) -> Measured:
        """Stand over a piece of work; then verify the books."""
        await self._settle()
        gc.collect()
        gc.freeze()  # what was made for the case is not looked through while the clock runs
        wal, server, mine = await self._wal(), _server_cpu_s(), time.process_time()
        began = time.perf_counter()
        load = await work()
        seconds = load.seconds or time.perf_counter() - began
        mine = load.cpu_s or time.process_time() - mine
        server = _server_cpu_s() - server
        written = await self._wal() - wal
        verified = await self._verified(case) if verify else None
        calls = sorted(load.calls_ms) or [0.0]
        return Measured(
            case=case,
            batch=batch,
            concurrency=concurrency,
            accepted=load.accepted,
            applied=load.applied,
            seconds=round(seconds, 3),
            accepted_s=round(load.accepted / seconds),
            applied_s=round(load.applied / seconds),
            p50_ms=round(calls[len(calls) // 2], 2),
            p99_ms=round(calls[min(len(calls) - 1, len(calls) * 99 // 100)], 2),
            wal_bytes=round(written / load.accepted),
            client_us=round(1e6 * mine / load.accepted, 2),
            postgres_us=round(1e6 * server / load.accepted, 2),
            verified=verified,
        )

    async def _verified(self, case: str) -> bool:
        from pasys.service import ledger

        async with self.db.unit() as unit:
            found = await ledger.verify(unit)
        if not found.ok:
            first = found.findings[0]
            raise BooksDoNotHold(finding=f"after {case}: {first.what}: {first.detail}")
        return True

    async def _settle(self) -> None:
        """What the last case left behind is done before the next begins."""
        from pasys.service import pace

        await asyncio.sleep(IDLE_S)
        async with self.db.unit() as unit:
            await pace.checkpoint(unit)

    async def _wal(self) -> int:
        from pasys.service import pace

        async with self.db.unit() as unit:
            return await pace.wal_bytes(unit)


def _medians(found: list[Measured]) -> list[Measured]:
    """Of the runs of one case, the one in the middle by its rate."""
    by_case: dict[str, list[Measured]] = {}
    for measured in found:
        by_case.setdefault(measured.case, []).append(measured)
    return [sorted(runs, key=lambda run: run.applied_s)[len(runs) // 2] for runs in by_case.values()]


def _ratios(found: list[Measured]) -> list[Ratio]:
    """Everything beside what it is to be compared with, where both were measured."""
    rates = {measured.case: measured.accepted_s for measured in found}
    pairs = [
        ("uniform 8000", "copy, our indexes"),
        ("uniform 8000", "copy, four indexes"),
        ("hot 8000", "uniform 8000"),
        ("hot 1000", "uniform 1000"),
        ("uniform 1", "orm, 1 thread"),
        ("callers 1000", "orm, 8 threads"),
        ("callers 1", "peer, one a call"),
        ("growth, last", "growth, first"),
    ]
    return [
        Ratio(case, beside, round(rates[case] / rates[beside], 2))
        for case, beside in pairs
        if case in rates and rates.get(beside)
    ]


@contextlib.contextmanager
def _postgres(keep: bool) -> Iterator[Settings]:
    import msgspec

    from pasys import migration
    from pasys.config import Settings
    from pasys.stack.servers import running_servers

    home = Path(tempfile.mkdtemp(prefix="pasys-bench-"))
    try:
        with running_servers(home, durable=True) as endpoints:
            settings = msgspec.structs.replace(Settings(home=str(home), actor="bench"), **endpoints)
            migration.upgrade(settings)
            yield settings
    finally:
        if not keep:
            shutil.rmtree(home, ignore_errors=True)


def _machine() -> str:
    model = platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    return f"{os.cpu_count()} cores ({model}), Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"


async def _server(db: Database) -> str:
    from pasys.service import pace

    async with db.unit() as unit:
        facts = await pace.server_facts(unit)
    return ", ".join(f"{name} {value}" for name, value in facts.items()) + ", sealed in the same commit"


def _server_cpu_s() -> float:
    """CPU seconds of PostgreSQL so far: of all its processes, and of those that have ended."""
    spent = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            name, parent, fields = _stat(entry)
            if name != "postgres":
                continue
            if parent == os.getpid():  # the postmaster has those that have ended
                spent += sum(map(int, fields[11:15]))
            elif _stat(Path("/proc") / str(parent))[1] == os.getpid():
                spent += sum(map(int, fields[11:13]))
    return spent / _TICKS_S


def _stat(entry: Path) -> tuple[str, int, list[str]]:
    """Name, parent and the fields behind the name of a process (proc(5))."""
    head, _, rest = (entry / "stat").read_text(encoding="utf-8").rpartition(")")
    fields = rest.split()
    return head.partition("(")[2], int(fields[1]), fields
