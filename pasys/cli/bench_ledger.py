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
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pasys.errors import BooksDoNotHold, InvalidInput

if TYPE_CHECKING:
    from pasys.config import Settings
    from pasys.db import Database

ASSET, OTHER_ASSET = "USD", "EUR"
FUNDS_MINOR = 1_000_000_000
IDLE_S = 0.3
SETTLE_MAX = 20  # times so long
_TICKS_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Load:
    """What a case did: transfers answered, those that moved money, and how long each call took, in ms.

    Work done by other processes says itself how long it took and what CPU it used.
    """

    accepted: int
    applied: int
    calls_ms: Sequence[float]
    seconds: float | None = None
    cpu_s: float | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """One case. Rates are transfers a second; `wal_bytes`, `client_us` and `postgres_us` are for each transfer.

    Of several rounds it is the one in the middle; `spread` is how far apart fastest and slowest are, as a share of it.
    """

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
    rounds: int = 1
    spread: float = 0.0


@dataclass(frozen=True, slots=True)
class Ratio:
    """One case's rate as a multiple of another's in the same run."""

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
    peer_batch: int = 100

    def __post_init__(self) -> None:
        from pasys.cli.bench_ledger_cases import CASES

        for name in self.cases:
            if name not in CASES:
                raise InvalidInput(field="case", reason=f"{name!r} is none of {', '.join(CASES)}")
        if (self.peer is None) != (self.peer_call is None) or ("peer" in self.cases and self.peer is None):
            raise InvalidInput(
                field="peer", reason="a peer is measured with --peer FILE.sql and --peer-call 'select …'"
            )
        if self.peer is not None and not self.peer.is_file():
            raise InvalidInput(field="peer", reason=f"there is no file {self.peer}")


Work = Callable[[], Awaitable[Load]]


def run(options: Options, progress: Callable[[Measured], None]) -> Bench:
    """Measure the cases in turn, round by round, and tell `progress` of each. Raises InvalidInput for options that make
    no sense, BooksDoNotHold after a case that broke the books."""
    import uvloop

    hardware = machine()  # before there is any load of ours
    with own_postgres(options.keep) as settings:
        return uvloop.run(_run(settings, options, hardware, progress))


async def _run(settings: Settings, options: Options, machine: str, progress: Callable[[Measured], None]) -> Bench:
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
    return Bench(machine, said, found, _ratios(found))


class Rig:
    """The books of a bench: accounts with limits and funds, and a clock that stands over each case."""

    def __init__(self, db: Database, options: Options) -> None:
        self.db, self.options = db, options
        self.accounts: Any = None
        self._elsewhere: Any = None
        self._opened = 0

    async def prepare(self) -> None:
        """Open the accounts of the books."""
        self.accounts = await self.open(self.options.accounts, FUNDS_MINOR)

    async def elsewhere(self) -> Any:
        """As many accounts in another asset, for a writer who meets nobody."""
        if self._elsewhere is None:
            self._elsewhere = await self.open(self.options.accounts, FUNDS_MINOR, asset=OTHER_ASSET)
        return self._elsewhere

    async def open(self, count: int, funds_minor: Any, *, asset: str = ASSET) -> Any:
        """Open customers' accounts, whose limits bind, and fund each by a transfer, so that the books hold from the
        start. `funds_minor` is one amount, or one for each. Their numbers, in order."""
        import numpy as np

        from pasys.db import chunks
        from pasys.service import account, import_batch, pace

        async with self.db.unit() as unit:
            source = await account.system(unit, "external:deposits", asset)
            before = await pace.account_numbers(unit, type="customer", asset=asset)
        wanted = [
            import_batch.Wanted(f"a{number}", asset, "customer") for number in range(self._opened, self._opened + count)
        ]
        self._opened += count
        for some in chunks(wanted, 10_000):
            async with self.db.unit() as unit:
                await import_batch.open_accounts(unit, some)
        async with self.db.unit() as unit:
            after = await pace.account_numbers(unit, type="customer", asset=asset)
        opened = np.setdiff1d(np.array(after, np.int64), np.array(before, np.int64))
        await self._fund(source, opened, np.broadcast_to(funds_minor, count), asset)
        return opened

    async def _fund(self, source: int, numbers: Any, amounts: Any, asset: str) -> None:
        import numpy as np

        from pasys.cli.bench_ledger_cases import batch
        from pasys.service.ledger_poster import Poster

        async with Poster(self.db) as poster:
            for start in range(0, len(numbers), 8_000):
                some = slice(start, start + 8_000)
                debit = np.full(len(numbers[some]), source)
                answers = await poster.post_many(batch(debit, numbers[some], amounts[some], asset=asset))
                assert not answers.result.any(), "everybody has the funds that the case counts on"

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
            raise BooksDoNotHold(finding=f"after {case}: {found.findings[0]}")
        return True

    async def _settle(self) -> None:
        """What the last case left behind is done before the next begins: a poster brings account rows that lag up to
        date as soon as nobody comes, and what is dirty is written out."""
        from pasys.service import pace

        for _ in range(SETTLE_MAX):
            await asyncio.sleep(IDLE_S)
            async with self.db.unit() as unit:
                if not await pace.lag(unit):
                    break
        async with self.db.unit() as unit:
            await pace.checkpoint(unit)

    async def _wal(self) -> int:
        from pasys.service import pace

        async with self.db.unit() as unit:
            return await pace.wal_bytes(unit)


def _medians(found: list[Measured]) -> list[Measured]:
    """Of the rounds of one case, the one in the middle by its rate (of an even number the slower), and their spread."""
    by_case: dict[str, list[Measured]] = {}
    for measured in found:
        by_case.setdefault(measured.case, []).append(measured)
    middles = []
    for rounds in by_case.values():
        ordered = sorted(rounds, key=lambda one: one.accepted_s)
        middle = ordered[(len(ordered) - 1) // 2]
        spread = (ordered[-1].accepted_s - ordered[0].accepted_s) / middle.accepted_s
        middles.append(replace(middle, rounds=len(ordered), spread=round(spread, 3)))
    return middles


_PAIRS = [
    ("hot 8000", "uniform 8000"),
    ("hot 1000", "uniform 1000"),
    ("2 writers, 2 assets", "2 writers, 1 asset"),
    ("uniform 1", "orm, 1 thread"),
    ("callers 1000", "orm, 8 threads"),
    ("callers 1", "peer, 1 a commit"),
    ("growth, last", "growth, early"),
]


def _ratios(found: list[Measured]) -> list[Ratio]:
    """Every case beside what it is to be compared with, where both were measured."""
    rates = {measured.case: measured.accepted_s for measured in found}
    others = [case for case in rates if case.startswith(("copy, ", "orm, ", "peer, "))]
    pairs = [*product(("uniform 8000", "uniform 1000"), others), *_PAIRS]
    return [
        Ratio(case, beside, round(rates[case] / rates[beside], 3))
        for case, beside in pairs
        if case in rates and rates.get(beside)
    ]


@contextlib.contextmanager
def own_postgres(keep: bool) -> Iterator[Settings]:
    """A durable embedded PostgreSQL at the newest revision, for the length of the block; `keep` leaves its home."""
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


def machine() -> str:
    """Cores, processor, Python and the load that others make."""
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
