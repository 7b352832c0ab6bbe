"""The journal's partitions keep themselves: the next one is there before it is needed, a closed one gets its indexes.

A partition is closed when its last seq is posted. The open one of each asset has no index on accounts, because that
would cost half of all posting; it is read as a whole by those who ask for an account's history, the others by index.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from psycopg.errors import LockNotAvailable

from pasys.db import Unit, queries
from pasys.errors import JournalBusy

SQL = queries("ledger_partition")
INDEXES = 4  # of a closed partition, beside its key: ledger_partition_index
_BOUNDS = re.compile(r"FROM \('(?P<asset>.+)', '(?P<first>\d+)'\) TO \('.+', '(?P<end>\d+)'\)")


@dataclass(frozen=True, slots=True)
class Partition:
    """One range of one asset's journal. `indexed`: an account's history in it is found by index."""

    name: str
    asset: str
    first_seq: int
    last_seq: int
    closed: bool
    indexed: bool


async def partitions(unit: Unit) -> list[Partition]:
    """All partitions of the journal, by asset and place."""
    found = []
    for row in await unit.rows(SQL["partitions"]):
        bounds = _BOUNDS.search(row.bounds)
        assert bounds is not None, f"{row.name} is no partition of the journal"
        asset, last_seq = bounds["asset"].replace("''", "'"), int(bounds["end"]) - 1
        closed = last_seq <= row.heads.get(asset, 0)
        found.append(Partition(row.name, asset, int(bounds["first"]), last_seq, closed, row.indexes == INDEXES))
    return sorted(found, key=lambda one: (one.asset, one.first_seq))


async def keep(unit: Unit) -> bool:
    """The next step of what the journal needs: a partition ahead, or an index of a closed one. False: it needs nothing.

    One step a unit, so call it again while it is true. A new partition takes the asset's lock, and an index only its
    partition's, where nobody writes any more: the two must not come together, or posting would wait for the index. Two
    keepers do not do the same work twice, and what one left undone the next one does. Raises JournalBusy where somebody
    works on the journal's table, such as ANALYZE: there is time, and nobody who posts has to wait behind us.
    """
    if not await unit.value(SQL["keeper"]):
        return False
    asset = await unit.value(SQL["short"])
    if asset is not None:
        await _add(unit, asset)
        return True
    for one in await partitions(unit):
        if one.closed and not one.indexed:
            await unit.rows(SQL["index"], leaf=one.name)
            return True
    return False


async def _add(unit: Unit, asset: str) -> None:
    await unit.rows(SQL["lock"], asset=asset)
    await unit.rows(SQL["patience"])
    try:
        await unit.rows(SQL["add"], asset=asset)
    except LockNotAvailable:
        raise JournalBusy(asset=asset) from None
