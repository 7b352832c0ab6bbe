"""The cases of `pasys bench ledger`: what is posted, by how many, in which batches."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pasys.cli.bench_ledger import ASSET, Load, Measured, Rig
from pasys.domain.ledger import Kind, Purpose, Transfer
from pasys.domain.ledger_columns import Columns, Int64s
from pasys.ids import uuid7s
from pasys.service.ledger_poster import Answers, Poster

OUTSTANDING = 3  # batches that a writer has handed over at a time: judging and writing overlap
SEED = 20_261
ZIPF = 1.1  # the exponent: of 100,000 accounts the first pays in 13 % of the transfers, and is paid in as many
TIGHT_FUNDS_MINOR, TIGHT_MAX_MINOR = 6_400, 3_000  # where a fifth is refused, for as long as one likes
EARLY = 1_500_000
GROWTH_WINDOW = 1_000_000  # a partition: one is closed and indexed in each window
KEEP_EVERY_S = 1.0
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
        debit, credit = (np.searchsorted(_zipf(count), draw.random(n)) for _ in range(2))
    else:
        debit, credit = (draw.integers(0, count, n) for _ in range(2))
    if shape == "hot":
        credit = np.where(draw.random(n) < 0.5, 0, credit)
    credit = np.where(credit == debit, (credit + 1) % count, credit)
    return accounts[debit], accounts[credit]


@cache
def _zipf(count: int) -> NDArray[np.float64]:
    """How likely it is that an account is among the first, by its place: Zipf's law, bounded by the accounts there are.

    numpy's own has no bound; cut off at a hundred thousand, three in ten would meet the last account.
    """
    weights = 1 / np.arange(1, count + 1) ** ZIPF
    reached = np.cumsum(weights / weights.sum())
    reached[-1] = 1.0
    return reached


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


async def warm(poster: Poster, accounts: Int64s, *, asset: str = ASSET) -> None:
    """The poster meets every account."""
    size = 8_000
    for start in range(0, len(accounts), size):
        some = accounts[max(min(start, len(accounts) - size), 0) : start + size]  # nobody is alone in the last one
        await poster.post_many(batch(some, np.roll(some, 1), 1, asset=asset))


# Batches -------------------------------------------------------------------------------------------------------------


def batches(
    accounts: Int64s, size: int, count: int, *, draw: np.random.Generator, shape: str = "uniform", asset: str = ASSET
) -> list[Columns]:
    """So many batches of a size."""
    made = []
    for _ in range(count):
        debit, credit = pairs(accounts, size, draw=draw, shape=shape)
        made.append(batch(debit, credit, draw.integers(1, 1_000, size), asset=asset))
    return made


def count_of(rig: Rig, size: int, *, share: int = 1) -> int:
    """How many batches a case has: small ones are slow, and fewer transfers tell as much."""
    fewer = {1: 200, 100: 8, 1_000: 2}.get(size, 1)
    return max(rig.options.transfers // fewer // share // size, OUTSTANDING)


def shaped(shape: str, sizes: Sequence[int]) -> Case:
    async def case(rig: Rig) -> AsyncIterator[Measured]:
        for size in sizes:
            draw = np.random.default_rng(SEED + size)
            async with Poster(rig.db, group_max=size) as poster:
                await warm(poster, rig.accounts)
                made = batches(rig.accounts, size, count_of(rig, size), draw=draw, shape=shape)
                outstanding = 1 if size == 1 else OUTSTANDING
                yield await rig.measure(
                    f"{shape} {size}",
                    lambda made=made, poster=poster, n=outstanding: write(poster, made, n),
                    batch=size,
                    concurrency=outstanding,
                )

    return case


async def tight(rig: Rig) -> AsyncIterator[Measured]:
    """Balances that do not suffice for a fifth of what is asked.

    Money that changes hands at random, and nobody may owe, comes to be distributed exponentially (A. Drăgulescu and
    V. Yakovenko, Statistical mechanics of money, 2000). So it is from the start, and the share refused stays the same.
    """
    size, draw = 8_000, np.random.default_rng(SEED)
    funds = 1 + draw.exponential(TIGHT_FUNDS_MINOR, 1_000).astype(np.int64)
    numbers = await rig.open(len(funds), funds)
    made = []
    for _ in range(count_of(rig, size, share=2)):
        debit, credit = pairs(numbers, size, draw=draw, shape="uniform")
        made.append(batch(debit, credit, draw.integers(1, TIGHT_MAX_MINOR, size)))
    async with Poster(rig.db, group_max=size) as poster:
        await warm(poster, numbers)
        yield await rig.measure(f"tight {size}", lambda: write(poster, made), batch=size, concurrency=OUTSTANDING)


async def holds(rig: Rig) -> AsyncIterator[Measured]:
    """A batch of holds, then the batch that ends them: of eight, three are posted whole, three in part, two voided."""
    size, draw = 1_000, np.random.default_rng(SEED)
    made: list[Columns] = []
    for _ in range(count_of(rig, size, share=8)):
        debit, credit = pairs(rig.accounts, size, draw=draw, shape="uniform")
        begun = batch(debit, credit, draw.integers(10, 1_000, size), kind=np.full(size, int(Kind.PENDING)))
        eighth = np.arange(size) % 8
        amount = np.where((eighth >= 3) & (eighth < 6), begun.amount // 2, begun.amount)
        kind = np.where(eighth < 6, int(Kind.POST), int(Kind.VOID))
        made += [begun, batch(debit, credit, amount, kind=kind, pending_id=begun.id)]
    async with Poster(rig.db, group_max=size) as poster:
        await warm(poster, rig.accounts)
        yield await rig.measure(
            f"holds and posts {size}", lambda: write(poster, made), batch=size, concurrency=OUTSTANDING
        )


async def replays(rig: Rig) -> AsyncIterator[Measured]:
    """Every batch a second time: all of it is answered, and nothing of it applied."""
    size, draw = 1_000, np.random.default_rng(SEED)
    made = batches(rig.accounts, size, count_of(rig, size, share=4), draw=draw)
    async with Poster(rig.db, group_max=size) as poster:
        await warm(poster, rig.accounts)
        await write(poster, made)
        yield await rig.measure(f"replays {size}", lambda: write(poster, made), batch=size, concurrency=OUTSTANDING)


# Callers and growth --------------------------------------------------------------------------------------------------


async def callers(rig: Rig) -> AsyncIterator[Measured]:
    """Each transfer has a caller who waits for it alone."""
    draw = np.random.default_rng(SEED)
    async with Poster(rig.db) as poster:
        await warm(poster, rig.accounts)
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
    """On to many millions: the rate around the first of them and at the end, with partitions kept on the way."""
    size, total = 8_000, rig.options.growth
    window = max(min(GROWTH_WINDOW, total // 4) // size, 1)
    early = max(min(EARLY - GROWTH_WINDOW // 2, total // 4) // size, 1)
    between = max(total // size - early - 2 * window, 0)
    draw = np.random.default_rng(SEED)
    async with Poster(rig.db, group_max=size) as poster, _kept(rig):
        await warm(poster, rig.accounts)
        for name, unseen in (("growth, early", early), ("growth, last", between)):
            for start in range(0, unseen, window):
                await write(poster, batches(rig.accounts, size, min(window, unseen - start), draw=draw))
            made = batches(rig.accounts, size, window, draw=draw)
            yield await rig.measure(name, lambda made=made: write(poster, made), batch=size, concurrency=OUTSTANDING)


@contextlib.asynccontextmanager
async def _kept(rig: Rig) -> AsyncIterator[None]:
    """The partitions are kept meanwhile, and what the keeper could not do comes to light."""
    keeper = asyncio.create_task(_keep(rig))
    try:
        yield
    finally:
        keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeper


async def _keep(rig: Rig) -> None:
    """What the ledger daemon does every few seconds: partitions made ahead, and closed ones indexed."""
    from pasys.service import ledger_partition

    while True:
        async with rig.db.unit(actor="keeper") as unit:
            busy = await ledger_partition.keep(unit)
        await asyncio.sleep(0 if busy else KEEP_EVERY_S)


def _elsewhere(module: str, name: str) -> Case:
    async def case(rig: Rig) -> AsyncIterator[Measured]:
        async for measured in getattr(import_module(f"pasys.cli.{module}"), name)(rig):
            yield measured

    return case


CASES: dict[str, Case] = {
    "uniform": shaped("uniform", (1, 100, 1_000, 8_000)),
    "zipf": shaped("zipf", (1_000, 8_000)),
    "hot": shaped("hot", (1_000, 8_000)),
    "tight": tight,
    "holds": holds,
    "replays": replays,
    "writers": _elsewhere("bench_ledger_writers", "writers"),
    "callers": callers,
    "copy": _elsewhere("bench_ledger_beside", "copy"),
    "orm": _elsewhere("bench_ledger_beside", "orm"),
    "peer": _elsewhere("bench_ledger_beside", "peer"),
    "growth": growth,
}
DEFAULT = ("uniform", "zipf", "hot", "tight", "holds", "replays", "writers", "callers", "copy", "orm")
