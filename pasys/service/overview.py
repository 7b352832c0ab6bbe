"""The whole system in a few figures: how payments fare, what is in flight, what waits for a person, the sums."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta

from pasys import ids
from pasys.db import Unit, queries
from pasys.money import Money
from pasys.service import ledger

SQL = queries("overview")
LATELY = timedelta(minutes=5)
HOUR = timedelta(hours=1)
MINUTES = 60


@dataclass(frozen=True, slots=True)
class InFlight:
    transactions: int
    amount: Money


@dataclass(frozen=True, slots=True)
class Waiting:
    """How many of each wait for a person's decision."""

    reviews: int
    approvals: int
    unknown: int
    breaks: int


@dataclass(frozen=True, slots=True)
class Hour:
    """The last 60 minutes, oldest first; the last is the minute that runs. `failed` are those of the minute that have
    failed since."""

    created: list[int]
    failed: list[int]


@dataclass(frozen=True, slots=True)
class Overview:
    """As of `at`. `rate` is transactions a second over the last five minutes, and `success` the part of those that
    ended well among those that ended; `p95_ms` is how long a PSP's took to settle. Both are None where none did.
    `off` has the assets whose debits and credits differ, with debits less credits: it is empty, or something is wrong.
    """

    at: datetime
    rate: float
    success: float | None
    p95_ms: float | None
    in_flight: list[InFlight]
    waiting: Waiting
    assets: int
    off: list[Money]


async def overview(unit: Unit) -> Overview:
    """The figures of this moment."""
    lately = await unit.row(SQL["lately"], first=_first(unit.now - LATELY))
    waiting = await unit.row(SQL["waiting"])
    assert lately is not None and waiting is not None, "an aggregate answers with a row"
    ended = lately.succeeded + lately.failed
    nets: dict[str, int] = defaultdict(int)
    for row in await ledger.trial_balance(unit):
        nets[row.asset] += row.net.minor
    return Overview(
        at=unit.now,
        rate=lately.created / LATELY.total_seconds(),
        success=lately.succeeded / ended if ended else None,
        p95_ms=lately.p95_ms,
        in_flight=[
            InFlight(row.transactions, Money(row.amount_minor, row.asset)) for row in await unit.rows(SQL["in_flight"])
        ],
        waiting=Waiting(*waiting),
        assets=len(nets),
        off=[Money(net, asset) for asset, net in sorted(nets.items()) if net],
    )


async def hour(unit: Unit) -> Hour:
    """How the transactions of the last 60 minutes fared."""
    last = unit.now.replace(second=0, microsecond=0)
    minutes = [last - timedelta(minutes=age) for age in reversed(range(MINUTES))]
    found = {row.minute: row for row in await unit.rows(SQL["minutes"], first=_first(minutes[0]))}
    rows = [found.get(minute) for minute in minutes]
    return Hour([row.created if row else 0 for row in rows], [row.failed if row else 0 for row in rows])


def _first(at: datetime) -> str:
    return ids.earliest("tx", int(at.timestamp() * 1000))
