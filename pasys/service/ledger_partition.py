"""The journal's partitions keep themselves: the next one is there before it is needed, a closed one gets its indexes.

A partition is closed when its last seq is posted. The open one of each asset has no index on accounts, because that
would cost half of all posting; it is read as a whole by those who ask for an account's history, the others by index.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pasys.db import Unit, queries

SQL = queries("ledger_partition")
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
        found.append(Partition(row.name, asset, int(bounds["first"]), last_seq, closed, row.indexes == 2))
    return sorted(found, key=lambda one: (one.asset, one.first_seq))


async def keep(unit: Unit) -> bool:
    """Make the partitions that are missing ahead, and index one closed partition; True where there was anything to do.

    Indexing locks only its partition, where nobody writes any more. Two keepers do not do the same work twice.
    """
    if not await unit.value(SQL["keeper"]):
        return False
    done = False
    for row in await unit.rows(SQL["short"]):
        await unit.rows(SQL["add"], asset=row.code)
        done = True
    for one in await partitions(unit):
        if one.closed and not one.indexed:
            await unit.rows(SQL["index"], leaf=one.name)
            return True
    return done
