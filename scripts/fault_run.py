"""A thousand deaths: workers are killed at every point of a payment and of a refund while the PSP misbehaves.

    python scripts/fault_run.py --runs 1000 --seed 1

Each run is one seed: it draws payments, refunds and the PSP's faults, kills a worker with SIGKILL at one point or two,
lets a sound one finish, and compares our books with the PSP's. The first run that finds anything wrong ends it with
exit code 1 and the seed that does it again: `--runs 1 --seed N`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import psycopg

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pasys import migration  # noqa: E402
from pasys.config import Settings  # noqa: E402
from pasys.stack.servers import running_servers  # noqa: E402
from tests.faults_scenario import Place, Seen, plan, started_simulator  # noqa: E402
from tests.simulator_process import Simulator, free_port  # noqa: E402

RUNS_A_PLACE = 25  # then a new database, so that looking at all of it stays quick
TEMPLATE = "faults_template"


@dataclass
class Tally:
    """What all runs came to."""

    runs: int = 0
    deaths: int = 0
    not_reached: int = 0
    points: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    failed: list[int] = field(default_factory=list)

    def add(self, seed: int, seen: Seen) -> None:
        self.runs += 1
        self.deaths += len(seen.died_at)
        self.not_reached += len(seen.missed)
        self.points.update(seen.died_at)
        self.missed.update(seen.missed)
        if seen.wrong:
            self.failed.append(seed)

    def summary(self, seconds: float) -> str:
        reached = len(self.points)
        never = sorted(self.missed.keys() - self.points.keys())
        return (
            f"{self.runs} runs in {seconds:.0f} s ({self.runs / seconds:.2f}/s): {self.deaths} deaths at {reached} "
            f"points, {self.not_reached} ended before theirs; {len(self.failed)} wrong"
            + (f"\nnever reached: {', '.join(never)}" if never else "")
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000, help="how many (default 1000)")
    parser.add_argument("--seed", type=int, default=1, help="the first seed (default 1)")
    parser.add_argument("--jobs", type=int, default=6, help="how many at a time (default 6)")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first run that is wrong")
    parser.add_argument("--verbose", action="store_true", help="a line for each run")
    options = parser.parse_args()
    # Whoever ends it must leave no server behind, even where a shell has Ctrl-C ignored in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    began = time.monotonic()
    tally = Tally()
    with contextlib.suppress(KeyboardInterrupt), _servers() as settings:
        asyncio.run(_run(settings, options, tally, began))
    print(tally.summary(time.monotonic() - began))
    for seed in tally.failed:
        print(f"again: python scripts/fault_run.py --runs 1 --seed {seed}")
    return 1 if tally.failed or tally.runs < options.runs else 0


@contextlib.contextmanager
def _servers() -> Iterator[Settings]:
    home = Path(tempfile.mkdtemp(prefix="pasys-f"))
    try:
        with running_servers(home, durable=False) as endpoints:
            settings = msgspec.convert({"home": str(home), "actor": "tester", **endpoints}, Settings)
            with psycopg.connect(settings.require("database_url"), autocommit=True) as connection:
                connection.execute(f"create database {TEMPLATE}".encode())
            migration.upgrade(_with_database(settings, TEMPLATE))
            yield settings
    finally:
        shutil.rmtree(home, ignore_errors=True)


async def _run(settings: Settings, options: argparse.Namespace, tally: Tally, began: float) -> None:
    seeds = iter(range(options.seed, options.seed + options.runs))
    spaces = itertools.count(1)
    async with asyncio.TaskGroup() as group:  # one that breaks ends the others, each with its PSP
        for _ in range(min(options.jobs, options.runs)):
            group.create_task(_job(settings, options, tally, seeds, spaces, began))


async def _job(
    settings: Settings,
    options: argparse.Namespace,
    tally: Tally,
    seeds: Iterator[int],
    spaces: Iterator[int],
    began: float,
) -> None:
    """Take seeds until there are none, on a PSP of its own."""
    folder, port = Path(tempfile.mkdtemp(prefix="pasys-f")), free_port()
    simulator = await asyncio.to_thread(started_simulator, folder, webhook_port=port)
    place: Place | None = None
    try:
        for seed in seeds:
            if place is None or place.runs >= RUNS_A_PLACE:
                place = await _next_place(settings, place, simulator, spaces, port=port)
            wanted = plan(seed)
            seen = await place.run(wanted)
            tally.add(seed, seen)
            _report(wanted, seen, options, tally, began)
            if seen.wrong and not options.keep_going:
                for _ in seeds:
                    pass
            if seen.wrong:
                await place.close()
                place = None
    finally:
        simulator.process.kill()  # before anything else that might fail
        if place is not None:
            await place.close()
        shutil.rmtree(folder, ignore_errors=True)


async def _next_place(
    settings: Settings, before: Place | None, simulator: Simulator, spaces: Iterator[int], *, port: int
) -> Place:
    if before is not None:
        await before.close()
    await asyncio.to_thread(simulator.control, "DELETE", "data")
    space = f"f{next(spaces)}"
    async with await psycopg.AsyncConnection.connect(settings.require("database_url"), autocommit=True) as connection:
        await connection.execute(f"create database {space} template {TEMPLATE} strategy file_copy".encode())
    chosen = msgspec.structs.replace(_with_database(settings, space), bus_prefix=space, redis_prefix=space)
    return await Place.open(chosen, simulator, webhook_port=port)


def _with_database(settings: Settings, name: str) -> Settings:
    head, _, query = settings.require("database_url").partition("?")
    url = f"{head.rsplit('/', 1)[0]}/{name}" + (f"?{query}" if query else "")
    return msgspec.structs.replace(settings, database_url=url)


def _report(wanted: object, seen: Seen, options: argparse.Namespace, tally: Tally, began: float) -> None:
    if seen.wrong:
        print(f"WRONG  {wanted}\n       " + "\n       ".join(seen.wrong), flush=True)
    elif options.verbose:
        print(f"ok     {wanted}; {len(seen.died_at)} deaths, {seen.seconds:.1f} s", flush=True)
    if tally.runs % 25 == 0:
        seconds = time.monotonic() - began
        print(f"{tally.runs} of {options.runs}, {tally.deaths} deaths, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
