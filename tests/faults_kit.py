"""What the tests of faults and of concurrency share: a PSP of their own, and processes that all ask at once."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psycopg

from pasys.bus import Bus
from pasys.config import Settings
from pasys.db import Database
from pasys.errors import PasysError
from pasys.money import Money
from pasys.service import account, refund, refund_query, transaction, transaction_query
from tests.faults_invariants import unfinished
from tests.faults_scenario import settings_for
from tests.simulator_process import Simulator, free_port
from tests.support import eventually

_forks = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class AtHome:
    """A simulator, settings that point at it, and the books under those settings."""

    settings: Settings
    simulator: Simulator
    db: Database

    async def calls(self, operation: str, **query: str) -> dict[str, Any]:
        """How many calls of an operation the PSP has seen, by what came of them."""
        return await asyncio.to_thread(self.simulator.calls, operation=operation, **query)

    async def fault(self, kind: str, operation: str, **rule: Any) -> None:
        await asyncio.to_thread(lambda: self.simulator.fault(kind, operation, **rule))


@asynccontextmanager
async def stripe_at_home(settings: Settings, *options: str, **changed: Any) -> AsyncIterator[AtHome]:
    """A PSP for one test, which is over with it."""
    with tempfile.TemporaryDirectory(prefix="pasys-t") as folder:
        simulator = await asyncio.to_thread(Simulator, Path(folder), *options)
        chosen = msgspec.structs.replace(settings_for(settings, simulator, webhook_port=free_port()), **changed)
        db = Database(chosen, connections_max=12)
        try:
            yield AtHome(chosen, simulator, db)
        finally:
            await db.close()
            await asyncio.to_thread(_stopped, simulator)


def _stopped(simulator: Simulator) -> None:
    if simulator.process.poll() is None:
        simulator.stop()


async def at_once(settings: Settings, ask: Callable[..., Any], *, processes: int, each: int, args: Sequence[Any] = ()):
    """Ask from several processes, `each` times in parallel in each; all answers and refusals, by their names."""
    answers = _forks.Queue()
    gate = _forks.Event()
    workers = [
        _forks.Process(target=_many, args=(settings, ask, each, tuple(args), gate, answers), daemon=True)
        for _ in range(processes)
    ]
    for process in workers:
        process.start()
    for _ in workers:  # all of them are connected
        assert await asyncio.to_thread(answers.get, True, 30) == "ready"
    gate.set()
    said = [await asyncio.to_thread(answers.get, True, 60) for _ in range(processes * each)]
    for process in workers:
        await asyncio.to_thread(process.join, 20)
        assert process.exitcode == 0, "a process that asked came to grief"
    return said


def _many(settings: Settings, ask: Callable[..., Any], each: int, args: Sequence[Any], gate: Any, answers: Any) -> None:
    asyncio.run(_ask_all(settings, ask, each, args, gate, answers))


async def _ask_all(
    settings: Settings, ask: Callable[..., Any], each: int, args: Sequence[Any], gate: Any, answers: Any
) -> None:
    db = Database(settings, connections_max=8)
    async with db.unit() as unit:
        await unit.value("select 1")
    answers.put("ready")
    await asyncio.to_thread(gate.wait, 60)

    async def one(index: int) -> None:
        try:
            async with db.unit() as unit:
                said = await ask(unit, index, *args)
        except PasysError as no:
            said = no.code
        answers.put(said)

    await asyncio.gather(*map(one, range(each)))
    await db.close()


async def ask_refund(unit: Any, index: int, transaction_id: str, amount_minor: int) -> str:
    """One of many who want their money back."""
    return (await refund.request(unit, transaction_id, amount=Money(amount_minor, "USD"))).refund_id


async def ask_one_refund(db: Database, transaction_id: str, amount_minor: int) -> None:
    async with db.unit() as unit:
        await ask_refund(unit, 0, transaction_id, amount_minor)


async def ask_create(unit: Any, index: int, key: str) -> tuple[str | None, bool]:
    """One of many who send the same request."""
    draft = transaction.Draft(amount=Money(1_000, "USD"), rail="instant", debit="alice", credit="shop", key=key)
    made = await transaction.create(unit, draft)
    return made.transaction_id, made.replayed


async def ask_transfer(unit: Any, index: int, names: tuple[str, str]) -> str:
    """One of many who pay to and fro between two accounts."""
    debit, credit = names if index % 2 else names[::-1]
    draft = transaction.Draft(amount=Money(1 + index % 90, "USD"), debit=debit, credit=credit)
    await transaction.create(unit, draft)
    return "done"


async def fund(db: Database, name: str, amount_minor: int) -> None:
    async with db.unit() as unit:
        await transaction.create(unit, transaction.Draft(amount=Money(amount_minor, "USD"), credit=name))


async def payment(db: Database, transaction_id: str) -> transaction_query.TransactionRow:
    async with db.unit() as unit:
        return await transaction_query.get(unit, transaction_id)


async def refunds_of(db: Database, transaction_id: str) -> list[refund_query.RefundRow]:
    async with db.unit() as unit:
        return await refund_query.listing(unit, transaction=transaction_id)


async def final_refund(db: Database, refund_id: str, *, within_s: float = 20) -> refund_query.RefundRow:
    async def look() -> refund_query.RefundRow | None:
        async with db.unit() as unit:
            row = await refund_query.get(unit, refund_id)
        return row if row.final_at else None

    found = await eventually(look, within_s=within_s)
    assert found is not None
    return found


async def open_payers(db: Database, count: int) -> list[str]:
    """So many customers, because one who pays too often looks like fraud; and shop."""
    names = [f"payer-{index}" for index in range(count)]
    async with db.unit() as unit:
        await account.open(unit, name="shop", type="merchant", asset="USD")
        for name in names:
            await account.open(unit, name=name, type="customer", asset="USD")
    return names


async def pay_from(db: Database, payers: Sequence[str], *, amount_minor: int = 5_000) -> list[str]:
    """One payment each, by Stripe."""
    made = []
    for payer in payers:
        async with db.unit() as unit:
            draft = transaction.Draft(
                amount=Money(amount_minor, "USD"), rail="stripe", debit=payer, credit="shop",
                payment_method="pm_card_visa",
            )  # fmt: skip
            created = await transaction.create(unit, draft)
        assert created.transaction_id is not None
        made.append(created.transaction_id)
    return made


async def all_status(db: Database, transaction_ids: Sequence[str], status: str, *, within_s: float = 30) -> None:
    """Waits until every one of them has this status."""

    async def look() -> bool:
        async with db.unit() as unit:
            count = await unit.value(
                "select count(*) from transaction where id = any (%(ids)s::text[]) and status = %(status)s",
                ids=list(transaction_ids),
                status=status,
            )
        return count == len(transaction_ids)

    await eventually(look, within_s=within_s, every_s=0.05)


async def parked(settings: Settings) -> list[Any]:
    """What stands in DEAD."""
    bus = await Bus(settings).connect()
    try:
        return await bus.dead_letters()
    finally:
        await bus.close()


async def send_raw(settings: Settings, *messages: tuple[str, bytes]) -> None:
    """Put messages on the bus past the outbox, each as if it had never been there."""
    bus = await Bus(settings).connect()
    try:
        for subject, body in messages:
            await bus.js.publish(f"{bus.prefix}{subject}", body)
    finally:
        await bus.close()


async def drained(settings: Settings, durable: str) -> bool:
    """Whether a handler's consumer has nothing left."""
    bus = await Bus(settings).connect()
    try:
        return await bus.lag(durable) == 0
    finally:
        await bus.close()


async def nothing_unfinished(db: Database, *, within_s: float = 30) -> None:
    """Waits until every transaction and refund has ended, and every announcement was made."""

    async def look() -> bool:
        async with db.unit() as unit:
            return await unfinished(unit) == 0

    await eventually(look, within_s=within_s, every_s=0.05)


async def unknown(db: Database) -> list[transaction_query.TransactionRow]:
    """The operator's queue: of what the PSP has not said what happened."""
    async with db.unit() as unit:
        return await transaction_query.listing(unit, outcome="unknown")


async def own_space(servers: Settings, template: str) -> Settings:
    """Settings of a namespace that several tests share. Its database goes with the servers."""
    space = f"faults_{os.getpid()}"
    head, _, query = servers.require("database_url").partition("?")
    tail = f"?{query}" if query else ""
    stem = head.rsplit("/", 1)[0]
    async with await psycopg.AsyncConnection.connect(f"{stem}/postgres{tail}", autocommit=True) as connection:
        await connection.execute(f"create database {space} template {template} strategy file_copy".encode())
    return msgspec.structs.replace(servers, database_url=f"{stem}/{space}{tail}", bus_prefix=space, redis_prefix=space)
