"""Two writers at once, each a process of its own, since one interpreter is one core: on one asset, and on two."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import queue
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from pasys.cli.bench_ledger import ASSET, OTHER_ASSET, Load, Measured, Rig
from pasys.cli.bench_ledger_cases import SEED, batches, count_of, warm, write
from pasys.errors import ProgramEnded

if TYPE_CHECKING:
    from pasys.config import Settings
    from pasys.domain.ledger_columns import Int64s

SIZE = 8_000
LISTEN_S = 0.2


async def writers(rig: Rig) -> AsyncIterator[Measured]:
    """Where both post to one asset, each often finds that the other was there, and locks and reads."""
    count = count_of(rig, SIZE, share=4)
    for name, assets in (("2 writers, 1 asset", (ASSET, ASSET)), ("2 writers, 2 assets", (ASSET, OTHER_ASSET))):
        spawn = multiprocessing.get_context("spawn")
        go, done = spawn.Event(), spawn.Queue()
        running: list[BaseProcess] = []
        try:
            for seed, asset in enumerate(assets):
                numbers = rig.accounts if asset == ASSET else await rig.elsewhere()
                words = (rig.db.settings, asset, numbers, SEED + seed, count, go, done)
                running.append(spawn.Process(target=_writer, args=words, daemon=True))
                running[-1].start()
            for _ in running:
                await _heard(done, running)
            yield await rig.measure(name, lambda go=go, d=done, r=running: _both(go, d, r), batch=SIZE, concurrency=2)
        finally:
            for process in running:
                process.kill()


async def _both(go: Any, done: Any, running: Sequence[BaseProcess]) -> Load:
    go.set()
    loads: list[Load] = [await _heard(done, running) for _ in running]
    sums = {name: sum(getattr(load, name) for load in loads) for name in ("accepted", "applied", "cpu_s")}
    return Load(**sums, calls_ms=[ms for load in loads for ms in load.calls_ms])


async def _heard(done: Any, running: Sequence[BaseProcess]) -> Any:
    """What the next of them says. Raises ProgramEnded where one is gone and nothing more was said."""
    while True:
        ended = [process.exitcode for process in running if process.exitcode]
        with contextlib.suppress(queue.Empty):
            return await asyncio.to_thread(done.get, timeout=LISTEN_S)
        if ended:
            raise ProgramEnded(program="a writer", status=ended[0], reason="it was still needed")


def _writer(settings: Settings, asset: str, numbers: Int64s, seed: int, count: int, go: Any, done: Any) -> None:
    """One writer. It says when it is ready, waits for the word, and says what it did."""
    import numpy as np
    import uvloop

    from pasys.db import Database
    from pasys.service.ledger_poster import Poster

    async def work() -> None:
        made = batches(numbers, SIZE, count, draw=np.random.default_rng(seed), asset=asset)
        db = Database(settings, connections_max=2)
        async with Poster(db, group_max=SIZE) as poster:
            await warm(poster, numbers, asset=asset)
            done.put(None)
            await asyncio.to_thread(go.wait)
            cpu_s = time.process_time()
            load = await write(poster, made)
            done.put(replace(load, cpu_s=time.process_time() - cpu_s))
        await db.close()

    uvloop.run(work())
