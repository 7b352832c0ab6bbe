"""What tests of the fraud check share: counters as the daemon opens them, payments, and their verdicts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from redis.asyncio import Redis

import daemons.fraud
from pasys.config import Settings
from pasys.db import Database
from pasys.domain.fraud import WINDOWS_S, Facts, Velocity
from pasys.events import SettlementFailed, TransactionCreated
from pasys.money import parse
from pasys.service import transaction
from pasys.service.fraud_watch import Watch, open_counters
from pasys.service.transaction import Draft
from tests.support import open_accounts

QUIET = Velocity(dict.fromkeys(WINDOWS_S, (1, 1250)), dict.fromkeys(WINDOWS_S, 0))


def velocity(*, payments: int = 1, sum_minor: int = 1_250, declines: int = 0) -> Velocity:
    return Velocity(dict.fromkeys(WINDOWS_S, (payments, sum_minor)), dict.fromkeys(WINDOWS_S, declines))


def facts(amount: str = "12.50", asset: str = "USD", *, method: str | None = "pm_card_visa") -> Facts:
    return Facts(asset, parse(amount, asset).minor, "alice", method)


@pytest.fixture
async def door(settings: Settings, db: Database) -> AsyncIterator[Watch]:
    """The counters as the daemon opens them."""
    opened = await open_counters(settings, db)
    yield opened
    await opened.close()


@pytest.fixture
async def people(db: Database) -> None:
    """alice and bob pay a shop."""
    async with db.unit() as unit:
        await open_accounts(unit)


async def pay(
    db: Database, *amounts: str, payer: str = "alice", asset: str = "USD", at: datetime | None = None
) -> list:
    """Create payments by PSP; what was announced of them."""
    announced: list[Any] = []
    for amount in amounts:
        draft = Draft(amount=parse(amount, "USD"), rail="instant", debit=payer, credit="shop")
        async with db.unit(now=at and at + timedelta(milliseconds=len(announced))) as unit:
            await transaction.create(unit, draft)
            announced += [event for event in unit._emitted if isinstance(event, TransactionCreated)]
    return announced


async def judge(db: Database, door: Watch, events: Sequence[TransactionCreated]) -> list[Any]:
    """What the worker does: read the world, then judge in one unit."""
    seen = await daemons.fraud.Seen.read(door, list(events))
    async with db.unit(actor="daemon:fraud") as unit:
        return await daemons.fraud.judge(list(events), unit, seen)


def declined(event: TransactionCreated, reason: str = "declined") -> SettlementFailed:
    return SettlementFailed(
        transaction_id=event.transaction_id,
        psp="instant",
        step="authorise",
        reason=reason,
        processor_code=None,
        psp_reference=None,
        latency_ms=1,
        asset=event.asset,
    )


async def wipe(settings: Settings) -> None:
    """Redis loses everything of this test."""
    redis = Redis.from_url(settings.require("redis_url"))
    keys = await redis.keys(f"{{{settings.redis_prefix}:*")
    assert keys
    await redis.delete(*keys)
    await redis.aclose()


async def one(db: Database, sql: str, **values: Any) -> Any:
    async with db.unit() as unit:
        return await unit.value(sql, **values)


async def review_one(db: Database, door: Watch) -> str:
    events = await pay(db, "6000.00")
    await judge(db, door, events)
    return events[0].transaction_id
