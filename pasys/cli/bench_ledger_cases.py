"""The cases of `pasys bench ledger`: what is posted, by how many, in which batches."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pasys.cli.bench_ledger import ASSET, Load, Measured, Rig
from pasys.domain.ledger import Kind, Purpose, Transfer
from pasys.domain.ledger_columns import Columns, Int64s
from pasys.ids import uuid7s
from pasys.service.ledger_poster import Answers, Poster

if TYPE_CHECKING:
    from pasys.config import Settings

OUTSTANDING = 3  # batches that a writer has handed over at a time: judging and writing overlap
SEED = 20_261
Case = Callable[[Rig], AsyncIterator[Measured]]


def batch(debit: Int64s, credit: Int64s, amount: Any, *, asset: str = ASSET, **more: Any) -> Columns:
    """Book transfers with fresh ids."""
    n = len(debit)
    return Columns(
        asset=asset,
        id=np.frombuffer(uuid7s(n), "V16"),
        debit=np.asarray(debit, np.int64),
        credit=np.asarray(credit, np.int64),
        amount=np.broadcast_to(np.asarray(amount, np.int64), n).copy(),
        purpose=np.full(n, int(Purpose.BOOK)),
        **more,
    )


def pairs(accounts: Int64s, n: int, *, draw: np.random.Generator, shape: str) -> tuple[Int64s, Int64s]:
    """Debit and credit accounts that differ: uniform, zipf (few are met often), or one account in half of them."""
    count = len(accounts)
    if shape == "zipf":
        debit, credit = (np.minimum(draw.zipf(1.1, n), count) - 1 for _ in range(2))
    else:
        debit, credit = (draw.integers(0, count, n) for _ in range(2))
    if shape == "hot":
        credit = np.where(draw.random(n) < 0.5, 0, credit)
    credit = np.where(credit == debit, (credit + 1) % count, credit)
    return accounts[debit], accounts[credit]


async def write(poster: Poster, batches: Sequence[Columns], outstanding: int = OUTSTANDING) -> Load:
    """Hand the batches over in order, a few at a time."""
    waiting = iter(batches)
    calls: list[float] = []
    accepted = applied = 0

    async def writer() -> None:
        nonlocal accepted, applied
        for one in waiting:
            began = time.perf_counter()
            answers: Answers = await poster.post_many(one)
            calls.append(1000 * (time.perf_counter() - began))
            accepted += len(one)
            applied += int(((answers.result == 0) & ~answers.replayed).sum())

    await asyncio.gather(*[writer() for _ in range(outstanding)])
    return Load(accepted, applied, calls)


async def warm(rig: Rig, poster: Poster, asset_accounts: Int64s) -> None:
    """The poster meets every account."""
    for start in range(0, len(asset_accounts) - 1, 8_000):
        some = asset_accounts[start : start + 8_000]
        await poster.post_many(batch(some, np.roll(some, 1), 1))


# Batches -------------------------------------------------------------------------------------------------------------


def _batches(rig: Rig, shape: str, size: int, total: int) -> list[Columns]:
    draw = np.random.default_rng(SEED + size)
    made = []
    for _ in range(max(total // size, OUTSTANDING)):
        debit, credit = pairs(rig.accounts, size, draw=draw, shape=shape)
        made.append(batch(debit, credit, draw.integers(1, 1_000, size)))
    return made


def _size(rig: Rig, size: int) -> int:
    """How many transfers a case of this batch size posts: small batches are slow, and need fewer to be measured."""
    return {1: rig.options.transfers // 200, 100: rig.options.transfers // 8, 1_000: rig.options.transfers // 2}.get(
        size, rig.options.transfers
    )


def shaped(shape: str, sizes: Sequence[int]) -> Case:
    async def case(rig: Rig) -> AsyncIterator[Measured]:
        for size in sizes:
            async with Poster(rig.db, group_max=size) as poster:
                await warm(rig, poster, rig.accounts)
                batches = _batches(rig, shape, size, _size(rig, size))
                outstanding = 1 if size == 1 else OUTSTANDING
                yield await rig.measure(
                    f"{shape} {size}",
                    lambda batches=batches, poster=poster, n=outstanding: write(poster, batches, n),
                    batch=size,
                    concurrency=outstanding,
                )

    return case


async def tight(rig: Rig) -> AsyncIterator[Measured]:
    """Balances that do not suffice for a fifth of what is asked."""
    from pasys.service import account

    async with rig.db.unit() as unit:
        names = [f"tight-{i}" for i in range(1_000)]
        numbers = np.array(sorted([(await account.open(unit, name=name, asset=ASSET)).number for name in names]))
    await rig.fund(numbers, 4_000)
    draw = np.random.default_rng(SEED)
    batches = []
    for _ in range(max(rig.options.transfers // 8_000 // 2, 1)):
        debit, credit = pairs(numbers, 8_000, draw=draw, shape="uniform")
        batches.append(batch(debit, credit, draw.integers(1, 3_000, 8_000)))
    async with Poster(rig.db, group_max=8_000) as poster:
        yield await rig.measure("tight 8000", lambda: write(poster, batches), batch=8_000, concurrency=OUTSTANDING)


async def holds(rig: Rig) -> AsyncIterator[Measured]:
    """A batch of holds, then the batch that ends them: two in four posted whole, one in part, one voided."""
    draw = np.random.default_rng(SEED)
    batches: list[Columns] = []
    size = 1_000
    for _ in range(max(rig.options.transfers // 8 // size // 2, 1)):
        debit, credit = pairs(rig.accounts, size, draw=draw, shape="uniform")
        begun = batch(debit, credit, draw.integers(10, 1_000, size), kind=np.full(size, int(Kind.PENDING)))
        quarter = np.arange(size) % 4
        amount = np.where(quarter == 2, begun.amount // 2, begun.amount)
        kind = np.where(quarter == 3, int(Kind.VOID), int(Kind.POST))
        batches += [begun, batch(debit, credit, amount, kind=kind, pending_id=begun.id)]
    async with Poster(rig.db, group_max=size) as poster:
        await warm(rig, poster, rig.accounts)
        yield await rig.measure("holds and posts 1000", lambda: write(poster, batches), batch=size, concurrency=3)


async def replays(rig: Rig) -> AsyncIterator[Measured]:
    """Every batch a second time: all of it is answered, and nothing of it applied."""
    batches = _batches(rig, "uniform", 1_000, rig.options.transfers // 8)
    async with Poster(rig.db, group_max=1_000) as poster:
        await write(poster, batches)
        yield await rig.measure("replays 1000", lambda: write(poster, batches), batch=1_000, concurrency=OUTSTANDING)


# Writers and callers -------------------------------------------------------------------------------------------------


def _writer(settings: Settings, asset: str, numbers: Int64s, seed: int, count: int, go: Any, done: Any) -> None:
    """One writer as a process of its own."""
    import uvloop

    from pasys.db import Database

    async def work() -> None:
        draw = np.random.default_rng(seed)
        batches = []
        for _ in range(count):
            debit, credit = pairs(numbers, 8_000, draw=draw, shape="uniform")
            batches.append(batch(debit, credit, draw.integers(1, 1_000, 8_000), asset=asset))
        db = Database(settings, connections_max=2)
        async with Poster(db, group_max=8_000) as poster:
            await poster.post_many(batch(numbers[:2], numbers[1::-1], 1, asset=asset))
            done.put(None)
            await asyncio.to_thread(go.wait)
            cpu = time.process_time()
            load = await write(poster, batches)
            done.put(replace(load, cpu_s=time.process_time() - cpu))
        await db.close()

    uvloop.run(work())


async def writers(rig: Rig) -> AsyncIterator[Measured]:
    """Two processes, on one asset and on two."""
    from pasys.service import account

    async with rig.db.unit() as unit:
        names = [f"b{i}" for i in range(1_000)]
        other = np.array(
            sorted(
                [
                    (await account.open(unit, name=name, asset="EUR", debits_must_not_exceed_credits=False)).number
                    for name in names
                ]
            )
        )
    count = max(rig.options.transfers // 8_000 // 4, 1)
    for name, assets in (("2 writers, 1 asset", (ASSET, ASSET)), ("2 writers, 2 assets", (ASSET, "EUR"))):
        spawn = multiprocessing.get_context("spawn")
        go, done = spawn.Event(), spawn.Queue()
        running = []
        for seed, asset in enumerate(assets):
            numbers = rig.accounts if asset == ASSET else other
            words = (rig.db.settings, asset, numbers, seed, count, go, done)
            running.append(spawn.Process(target=_writer, args=words))
            running[-1].start()
        for _ in running:
            await asyncio.to_thread(done.get)

        async def work(go: Any = go, done: Any = done, running: Any = running) -> Load:
            go.set()
            loads = [await asyncio.to_thread(done.get) for _ in running]
            for process in running:
                await asyncio.to_thread(process.join)
            sums = {name: sum(getattr(load, name) for load in loads) for name in ("accepted", "applied", "cpu_s")}
            return Load(**sums, calls_ms=[ms for load in loads for ms in load.calls_ms])

        yield await rig.measure(name, work, batch=8_000, concurrency=2)


async def callers(rig: Rig) -> AsyncIterator[Measured]:
    """Each transfer has a caller who waits for it alone."""
    draw = np.random.default_rng(SEED)
    async with Poster(rig.db) as poster:
        await warm(rig, poster, rig.accounts)
        for count in (1, 16, 1_000, 4_000):
            total = min(rig.options.transfers // 3, count * 250 + 2_000)
            debit, credit = (side.tolist() for side in pairs(rig.accounts, total, draw=draw, shape="uniform"))
            sides = list(zip(debit, credit, strict=True))
            yield await rig.measure(
                f"callers {count}",
                lambda count=count, sides=sides: _call(poster, count, sides),
                batch=1,
                concurrency=count,
            )


async def _call(poster: Poster, callers: int, sides: Sequence[tuple[int, int]]) -> Load:
    waiting = iter(sides)
    calls: list[float] = []
    applied = 0

    async def caller() -> None:
        nonlocal applied
        for debit, credit in waiting:
            transfer = Transfer(debit=debit, credit=credit, amount_minor=7, asset=ASSET, purpose=Purpose.BOOK)
            began = time.perf_counter()
            answer = await poster.post(transfer)
            calls.append(1000 * (time.perf_counter() - began))
            applied += answer.accepted

    await asyncio.gather(*[caller() for _ in range(callers)])
    return Load(len(calls), applied, calls)


async def growth(rig: Rig) -> AsyncIterator[Measured]:
    """On to many millions, with partitions kept on the way: the second stretch, and the last of the same length.

    In both a partition is closed and indexed, where a stretch is as long as one.
    """
    stretch = min(1_000_000, rig.options.growth // 3)
    async with Poster(rig.db, group_max=8_000) as poster:
        await warm(rig, poster, rig.accounts)
        keeper = asyncio.create_task(_keep(rig))
        try:
            for number in range(1, rig.options.growth // stretch + 1):
                batches = _batches(rig, "uniform", 8_000, stretch)
                name = {2: "growth, first", rig.options.growth // stretch: "growth, last"}.get(number)
                if name is None:
                    await write(poster, batches)
                    continue
                yield await rig.measure(
                    name,
                    lambda batches=batches: write(poster, batches),
                    batch=8_000,
                    concurrency=OUTSTANDING,
                    verify=name == "growth, last",
                )
        finally:
            keeper.cancel()


async def _keep(rig: Rig) -> None:
    """What the ledger daemon does every few seconds: partitions made ahead, and closed ones indexed."""
    from pasys.service import ledger_partition

    while True:
        async with rig.db.unit(actor="keeper") as unit:
            busy = await ledger_partition.keep(unit)
        await asyncio.sleep(0 if busy else 1)


def _beside(name: str) -> Case:
    async def case(rig: Rig) -> AsyncIterator[Measured]:
        from pasys.cli import bench_ledger_beside as beside

        async for measured in getattr(beside, name)(rig):
            yield measured

    return case


CASES: dict[str, Case] = {
    "uniform": shaped("uniform", (1, 100, 1_000, 8_000)),
    "zipf": shaped("zipf", (1_000, 8_000)),
    "hot": shaped("hot", (1_000, 8_000)),
    "tight": tight,
    "holds": holds,
    "replays": replays,
    "writers": writers,
    "callers": callers,
    "copy": _beside("copy"),
    "orm": _beside("orm"),
    "peer": _beside("peer"),
    "growth": growth,
}
DEFAULT = ("uniform", "zipf", "hot", "tight", "holds", "replays", "writers", "callers", "copy", "orm")
