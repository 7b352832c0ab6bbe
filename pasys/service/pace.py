"""How transactions get on, and what the server beneath them does: for benches and for those who watch."""

from __future__ import annotations

from dataclasses import dataclass

from pasys.db import Unit, queries
from pasys.driver import as_owner

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


# The server ----------------------------------------------------------------------------------------------------------

SERVER = queries("pace")
FACTS = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers", "wal_writer_delay")


async def wal_bytes(unit: Unit) -> int:
    """How much write-ahead log the server has written in its life."""
    return int(await unit.value(SERVER["wal_bytes"]))


async def checkpoint(unit: Unit) -> None:
    """Write out what is in memory, so that a measurement does not pay for the one before it."""
    async with as_owner(unit.driver):
        await unit.rows(SERVER["checkpoint"])


async def lag(unit: Unit) -> int:
    """Transfers that some account row does not show yet."""
    return int(await unit.value(SERVER["lag"]))


async def server_facts(unit: Unit) -> dict[str, str]:
    """The settings that durability and speed depend on, as the server itself says them."""
    rows = await unit.rows(SERVER["settings"], names=list(FACTS))
    return {row.name: row.setting for row in rows}


async def account_numbers(unit: Unit, *, type: str, asset: str) -> list[int]:
    """The numbers of all accounts of a type, in order."""
    return [row.id for row in await unit.rows(SERVER["account_numbers"], type=type, asset=asset)]
