"""What the rules look at besides the payment itself is behind one door: the velocity counters and, if any, a model.

The door has a file of its own because whoever only reads or makes decisions needs no Redis client.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import namedtuple_row

from pasys import ids
from pasys.adapters import Scorer, open_scorer
from pasys.adapters.velocity import Past, RedisCounters
from pasys.config import Settings
from pasys.db import Database, queries
from pasys.domain.fraud import CARD_DECLINES, Scored, Velocity
from pasys.events import TransactionCreated

SQL = queries("fraud")
HISTORY_PORTION = 5_000
CLOCKS_APART_S = 60  # an id is made by a process, a time by a unit


@dataclass(frozen=True, slots=True)
class Watch:
    """The velocity counters and, where one is installed, the model that scores payments."""

    counters: RedisCounters
    scorer: Scorer | None

    async def count_payments(self, events: Sequence[TransactionCreated]) -> dict[str, Velocity]:
        return await self.counters.count_payments(events)

    async def count_decline(self, transaction_id: str) -> None:
        await self.counters.count_decline(transaction_id)

    async def scores(self, events: Sequence[TransactionCreated], velocities: dict[str, Velocity]) -> dict[str, Scored]:
        return await self.scorer.score(events, velocities) if self.scorer is not None else {}

    async def close(self) -> None:
        await self.counters.close()


async def open_counters(settings: Settings, db: Database) -> Watch:
    """The counters behind REDIS_URL, which fill themselves from the books when Redis has lost them."""
    counters = RedisCounters(settings.require("redis_url"), prefix=settings.redis_prefix, books=_Books(db))
    return Watch(counters, open_scorer(settings))


class _Books:
    """What the counters are filled from; each look opens a unit of its own."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def history(self, since: datetime) -> AsyncIterator[list[Past]]:
        earliest = ids.earliest("tx", int((since.timestamp() - CLOCKS_APART_S) * 1_000))
        values = {"earliest": earliest, "since": since, "declines": sorted(CARD_DECLINES)}
        async with (
            self._db.unit(actor="daemon:fraud") as unit,
            unit.driver.cursor(name="history", row_factory=namedtuple_row) as cursor,
        ):
            await cursor.execute(SQL["history"].encode(), values)
            while rows := await cursor.fetchmany(HISTORY_PORTION):
                yield list(map(_past, rows))

    async def payment(self, transaction_id: str) -> Past | None:
        async with self._db.unit(actor="daemon:fraud") as unit:
            row = await unit.row(SQL["payment"], id=transaction_id)
        return _past(row) if row is not None else None


def _past(row: Any) -> Past:
    return Past(ids.account_id(row.account), row.transaction_id, row.created_at, row.amount_minor, row.declined)
