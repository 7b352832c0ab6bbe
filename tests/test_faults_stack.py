"""kill -9 of any part of a real stack while payments and refunds are under way: nothing is lost or done twice."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from pasys import config
from pasys.db import Database
from pasys.errors import Unavailable
from pasys.money import Money
from pasys.service import account, transaction
from pasys.stack import client
from tests.faults_invariants import violations
from tests.faults_kit import ask_one_refund, nothing_unfinished
from tests.support import eventually

SETTINGS = "ack_wait_s = 1.0\nresolve_every_s = 0.2\npsp_timeout_s = 1.0\n"
PAYMENTS = 8
REFUNDED = 3
RETRY_S = 0.1
VICTIMS = ["postgres", "nats", "redis", "settlement", "ledger", "psp", "nursery", "supervisor"]


@dataclass
class Psp:
    """The stack's own simulator, as far as its lists are concerned."""

    http: httpx.Client


@dataclass
class Stack:
    home: Path
    db: Database
    psp: Psp
    payers: int = 0

    def kill(self, name: str) -> None:
        found = client.status(self.home)
        pids = {state.name: state.pid for state in found.services}
        pid = found.supervisor.pid if name == "supervisor" and found.supervisor else pids[name]
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    async def healthy(self) -> bool:
        return (await asyncio.to_thread(client.status, self.home)).healthy

    async def pay(self) -> str:
        """One payment, asked for under its key until somebody answers."""
        self.payers += 1
        payer = f"payer-{self.payers}"
        draft = transaction.Draft(
            amount=Money(5_000, "USD"), rail="stripe", debit=payer, credit="shop", key=f"order-{self.payers}"
        )

        async def ask() -> str | None:
            async with self.db.unit() as unit:
                await account.open(unit, name=payer, type="customer", asset="USD")
                return (await transaction.create(unit, draft)).transaction_id

        return await persist(ask) or ""


async def persist(ask, *, within_s: float = 40):
    """What a client does while a dependency is away: the same question again."""
    until = time.monotonic() + within_s
    while True:
        try:
            return await ask()
        except Unavailable:
            assert time.monotonic() < until, "the stack did not come back"
            await asyncio.sleep(RETRY_S)


@pytest.fixture(scope="module")
async def stack() -> AsyncIterator[Stack]:
    """`pasys up`, once for all tests of this file; each of them leaves it working."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="pasys-t") as folder:
        for name in ("DATABASE_URL", "NATS_URL", "REDIS_URL", "STRIPE_API_KEY", "STRIPE_API_BASE"):
            patch.delenv(name, raising=False)
        patch.delenv("PASYS_TEST_PROGRAMS", raising=False)
        home = Path(folder) / "home"
        home.mkdir()
        (home / "pasys.toml").write_text(SETTINGS, encoding="utf-8")
        await asyncio.to_thread(client.up, home)
        settings = config.load(home)
        key = settings.require("stripe_api_key")
        http = httpx.Client(
            base_url=settings.require("stripe_api_base"), headers={"Authorization": f"Bearer {key}"}, timeout=10
        )
        db = Database(settings)
        async with db.unit() as unit:
            await account.open(unit, name="shop", type="merchant", asset="USD")
        yield Stack(home, db, Psp(http))
        await db.close()
        http.close()
        await asyncio.to_thread(client.down, home, destroy=True)


@pytest.mark.parametrize("victim", VICTIMS)
async def test_kill_9_of_a_part_of_the_stack(stack: Stack, victim: str) -> None:
    """Payments are asked for before, while and after it is away; it comes back, and everything is final and right."""
    paid = [await stack.pay() for _ in range(REFUNDED)]
    await eventually(lambda: succeeded(stack.db, paid))
    asked = [asyncio.create_task(refund(stack.db, transaction_id)) for transaction_id in paid]
    paid += [await stack.pay() for _ in range(PAYMENTS // 2)]
    stack.kill(victim)
    if victim == "supervisor":
        await asyncio.to_thread(client.up, stack.home)
    paid += [await stack.pay() for _ in range(PAYMENTS // 2)]
    await asyncio.gather(*asked)
    await eventually(stack.healthy, within_s=30)
    await persist(lambda: nothing_unfinished(stack.db, within_s=60))
    assert await succeeded(stack.db, paid[REFUNDED:])
    assert await persist(lambda: violations(stack.db, stack.psp)) == []
    async with stack.db.unit() as unit:
        assert await unit.value("select count(*) from transaction") == stack.payers
        assert await unit.value("select count(*) from refund where status = 'completed'") % REFUNDED == 0


async def refund(db: Database, transaction_id: str) -> None:
    """A part of it back, asked for once somebody answers. A commit whose answer was lost is seen by its row."""

    async def ask() -> None:
        async with db.unit() as unit:
            if await unit.value("select count(*) from refund where transaction_id = %(id)s", id=transaction_id):
                return
        await ask_one_refund(db, transaction_id, 2_000)

    await persist(ask)


async def succeeded(db: Database, transaction_ids: list[str]) -> bool:
    async def ask() -> bool:
        async with db.unit() as unit:
            count = await unit.value(
                "select count(*) from transaction where id = any (%(ids)s::text[]) and status = 'succeeded'",
                ids=transaction_ids,
            )
        return count == len(transaction_ids)

    return await persist(ask)
