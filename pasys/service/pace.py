"""How transactions get on: how many are under way, how many succeeded, and how soon."""

from __future__ import annotations

from dataclasses import dataclass

from pasys.db import Unit, queries

SQL = queries("transaction")


@dataclass(frozen=True, slots=True)
class Pace:
    """`p50_ms` and `p99_ms` are from creation to the final status, as the rows have it."""

    under_way: int
    succeeded: int
    p50_ms: float
    p99_ms: float


async def pace(unit: Unit) -> Pace:
    """The pace of everything in the books: created to final, as the rows have it. Deposits by book do not count."""
    row = await unit.row(SQL["pace"])
    assert row is not None, "an aggregate always answers"
    return Pace(row.under_way, row.succeeded, round(row.p50_ms or 0.0, 1), round(row.p99_ms or 0.0, 1))


async def under_way(unit: Unit) -> int:
    """How many transactions are not final yet."""
    return await unit.value(SQL["under_way"])
