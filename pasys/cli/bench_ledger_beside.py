"""What `pasys bench ledger` measures beside ours in the same run: programs of their own, on the same PostgreSQL.

Each is started with the database's address and its own words, and prints one line of JSON: transfers applied, seconds,
and how long each call took (scripts/bench).
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from pasys.cli.bench_ledger import Load, Measured, Rig
from pasys.errors import InvalidInput

FOLDER = Path(__file__).parents[2] / "scripts" / "bench"
COPY_BATCH = 8_000


async def copy(rig: Rig) -> AsyncIterator[Measured]:
    """COPY of the same rows: into what our journal has for indexes, and into what a plain journal would have."""
    for indexes in ("our", "four"):
        words = ["copy_rows.py", indexes, str(max(rig.options.transfers // COPY_BATCH, 2))]
        yield await _measured(rig, f"copy, {indexes} indexes", words, batch=COPY_BATCH, concurrency=1)


async def orm(rig: Rig) -> AsyncIterator[Measured]:
    """A ledger as one writes it with an ORM: two row locks, two checks, one commit for each transfer."""
    for threads in (1, 8):
        words = ["orm_ledger.py", str(threads), str(max(rig.options.transfers // 400, 50))]
        name = f"orm, {threads} thread{'s' if threads > 1 else ''}"
        yield await _measured(rig, name, words, batch=1, concurrency=threads)


async def peer(rig: Rig) -> AsyncIterator[Measured]:
    """A ledger that is a SQL file: one call a transaction, and a hundred."""
    options = rig.options
    for size, name in ((1, "peer, one a call"), (100, "peer, 100 a commit")):
        count = max(options.transfers // 400, 100)
        words = ["peer_ledger.py", str(options.peer), options.peer_open or "", options.peer_call or ""]
        yield await _measured(rig, name, [*words, str(size), str(count)], batch=size, concurrency=1)


async def _measured(rig: Rig, name: str, words: list[str], *, batch: int, concurrency: int) -> Measured:
    async def work() -> Load:
        running = await asyncio.create_subprocess_exec(
            *[sys.executable, str(FOLDER / words[0]), rig.db.url, *words[1:]], stdout=asyncio.subprocess.PIPE
        )
        said, _ = await running.communicate()
        if running.returncode:
            raise InvalidInput(field="case", reason=f"{name}: {words[0]} ended with {running.returncode}")
        answer = json.loads(said)
        return Load(answer["applied"], answer["applied"], answer["calls_ms"], answer["seconds"], answer["cpu_s"])

    if not FOLDER.exists():
        raise InvalidInput(field="case", reason="scripts/bench is not there: it comes with a checkout")
    return await rig.measure(name, work, batch=batch, concurrency=concurrency, verify=False)
