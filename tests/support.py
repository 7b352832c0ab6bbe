"""What tests share: daemons in this event loop, a simulator process, and waiting for what becomes true."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from pasys import worker
from pasys.config import Settings
from pasys.db import Database, Unit
from pasys.driver import as_owner
from pasys.money import Money, parse
from pasys.service import account, transaction, transaction_query

T = TypeVar("T")
PIPELINE = ("fraud", "settlement", "ledger", "refund")


@asynccontextmanager
async def owning(db: Database) -> AsyncIterator[Unit]:
    """A unit of somebody who may do anything in this database, as its operator may at psql."""
    async with db.unit() as unit, as_owner(unit.driver):
        yield unit


@asynccontextmanager
async def daemons(settings: Settings, *names: str) -> AsyncIterator[None]:
    """The named daemons, running here; all of the money path when none is named."""
    stop = asyncio.Event()
    tasks = [
        asyncio.create_task(worker.run(worker.load(name), settings, stop=stop), name=name) for name in names or PIPELINE
    ]
    try:
        yield
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def eventually(look: Callable[[], Awaitable[T]], *, within_s: float = 15.0, every_s: float = 0.02) -> T:
    """The first truthy answer; fails when there is none in time."""
    deadline = time.monotonic() + within_s
    while True:
        seen = await look()
        if seen:
            return seen
        assert time.monotonic() < deadline, f"not within {within_s} s; last seen: {seen!r}"
        await asyncio.sleep(every_s)


async def until_status(db: Database, transaction_id: str, *wanted: str, within_s: float = 15.0) -> Any:
    """The transaction, once it has one of these statuses."""
    seen: list[Any] = []

    async def look() -> Any:
        async with db.unit() as unit:
            seen[:] = [await transaction_query.get(unit, transaction_id)]
        return seen[0] if seen[0].status in wanted else None

    try:
        return await eventually(look, within_s=within_s)
    except AssertionError:
        raise AssertionError(f"{transaction_id} is {seen[0].status} ({seen[0].outcome}), not {wanted}") from None


async def open_accounts(unit: Unit, *, assets: Sequence[str] = ("USD",)) -> None:
    """alice and bob, customers, and shop, a merchant."""
    for asset in assets:
        await account.open(unit, name="alice", type="customer", asset=asset)
        await account.open(unit, name="bob", type="customer", asset=asset)
        await account.open(unit, name="shop", type="merchant", asset=asset)


async def pay(
    db: Database,
    amount: str = "100.00",
    *,
    asset: str = "USD",
    rail: str = "instant",
    payment_method: str | None = None,
    key: str | None = None,
) -> str:
    """alice pays shop; the transaction's id."""
    async with db.unit() as unit:
        draft = transaction.Draft(
            amount=parse(amount, asset), rail=rail, debit="alice", credit="shop", payment_method=payment_method, key=key
        )
        created = await transaction.create(unit, draft)
    assert created.transaction_id is not None
    return created.transaction_id


async def balance_of(db: Database, name: str, asset: str = "USD") -> Money:
    """What is posted on an account."""
    async with db.unit() as unit:
        for held in await account.balance(unit, name):
            if held.asset == asset:
                return held.posted
    raise AssertionError(f"{name} has no {asset}")
