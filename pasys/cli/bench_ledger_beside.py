"""What `pasys bench ledger` measures beside ours in the same run: programs of their own, on the same PostgreSQL.

Each is started with the database's address and its own words. It makes its tables, says "ready" and waits for a line;
it works, prints one line of JSON (transfers applied, seconds, CPU seconds, how long each call took), and tidies up when
there is nothing more to read. So the clock stands over its work alone (scripts/bench).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from pasys.cli.bench_ledger import Load, Measured, Rig
from pasys.errors import InvalidInput, ProgramEnded

FOLDER = Path(__file__).parents[2] / "scripts" / "bench"
COPY_BATCH = 8_000
PEER_REFUSED = 2  # how a program ends over SQL that is not ours
LINE_MAX = 1 << 26  # bytes of an answer


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
    """A ledger that is a SQL file: one call a transaction, and several."""
    options = rig.options
    for size in (1, options.peer_batch):
        count = max(options.transfers // 400 // size, 2)
        words = ["peer_ledger.py", str(options.peer), options.peer_open or "", options.peer_call or ""]
        yield await _measured(rig, f"peer, {size} a commit", [*words, str(size), str(count)], batch=size, concurrency=1)


async def _measured(rig: Rig, name: str, words: list[str], *, batch: int, concurrency: int) -> Measured:
    if not FOLDER.exists():
        raise InvalidInput(field="case", reason="scripts/bench is not there: it comes with a checkout")
    async with _program([str(FOLDER / words[0]), rig.db.url, *words[1:]]) as said:
        await said("ready")

        async def work() -> Load:
            answer = json.loads(await said("done"))
            return Load(answer["applied"], answer["applied"], answer["calls_ms"], answer["seconds"], answer["cpu_s"])

        return await rig.measure(name, work, batch=batch, concurrency=concurrency, verify=False)


@contextlib.asynccontextmanager
async def _program(words: list[str]) -> AsyncIterator[Callable[[str], Awaitable[bytes]]]:
    """A program that runs for the length of the block, and the way to hear its next line: "ready", or once it has been
    given the word, what it has "done". Raises InvalidInput where it ends over a peer's SQL, else ProgramEnded."""
    pipe = asyncio.subprocess.PIPE
    running = await asyncio.create_subprocess_exec(
        sys.executable, *words, stdin=pipe, stdout=pipe, stderr=pipe, limit=LINE_MAX
    )
    assert running.stdin is not None and running.stdout is not None

    async def said(what: str) -> bytes:
        assert running.stdin is not None and running.stdout is not None
        if what == "done":
            running.stdin.write(b"go\n")
        line = await running.stdout.readline()
        if not line:
            await _complain(running, Path(words[0]).name)
        return line

    try:
        yield said
        running.stdin.close()
        await running.wait()
    finally:
        if running.returncode is None:  # we were interrupted
            running.kill()
            await running.wait()


async def _complain(running: asyncio.subprocess.Process, program: str) -> None:
    _, complained = await running.communicate()
    reason = (complained.decode("utf-8", "replace").strip() or "it said nothing").splitlines()[-1]
    if running.returncode == PEER_REFUSED:
        raise InvalidInput(field="peer", reason=reason)
    raise ProgramEnded(program=program, status=running.returncode, reason=reason)
