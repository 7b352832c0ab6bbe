"""A time is a place in the journal: recorded times never go back within an asset, and each row knows its balances.

So an account's balance at a time is that of its last row up to there, found by index where the partition is closed. By
the time that counts, it is that and the few rows that are dated otherwise than they were recorded.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pasys.db import Unit, queries
from pasys.errors import HistoryArchived, InvalidInput

SQL = queries("ledger_history")
SEQ_MAX = 2**63 - 1
By = Literal["effective", "recorded"]


@dataclass(frozen=True, slots=True)
class Moment:
    """Where an asset's journal stood at a time: `seq` is the last row that was recorded by then, archived_seq where
    none was that is still here. `last_seq` is where it stands now: what was recorded since is left out."""

    asset: str
    at: datetime
    seq: int
    last_seq: int
    archived_seq: int


async def stay(unit: Unit) -> None:
    """Nothing is archived from here until the unit ends, so that its questions are all about one journal."""
    await unit.rows(SQL["stay"])


async def find(unit: Unit, asset: str, at: datetime, *, who: str, strict: bool = True) -> Moment:
    """The moment of a time. Where the journal begins later, raises HistoryArchived, which names the file; if not
    `strict`, it is where the journal begins."""
    await stay(unit)
    row = await unit.row(SQL["moment"], asset=asset, at=at)
    assert row is not None, f"{asset} has accounts, and so a row"
    if row.archived and strict:
        raise await archived(unit, asset, who=who, at=at)
    return Moment(asset, at, row.seq, row.last_seq, row.archived_seq)


async def present(unit: Unit, asset: str) -> Moment:
    """An asset's journal up to where it begins, and where it stands now."""
    await stay(unit)
    row = await unit.row(SQL["present"], asset=asset)
    assert row is not None, f"{asset} has accounts, and so a row"
    return Moment(asset, unit.now, row.seq, row.last_seq, row.archived_seq)


async def archived(
    unit: Unit, asset: str, *, who: str, at: datetime | None = None, seq: int | None = None
) -> HistoryArchived:
    """The error for what is asked of archived rows: those of a time, or from a seq on."""
    file = await unit.value(SQL["archived_file"], asset=asset, at=at, seq=seq)
    return HistoryArchived(account=who, at=f"row {seq}" if at is None else at.isoformat(), file=file)


async def balance(unit: Unit, account: int, moment: Moment, by: str, *, after: int = SEQ_MAX) -> tuple[int, bool]:
    """Credits minus debits posted on an account at a moment, and whether it had any transfer by then.

    Of what counts at the very time of the moment, the rows up to `after` are taken.
    """
    place: dict[str, Any] = {"asset": moment.asset, "account": account, "seq": moment.seq}
    found = await unit.value(SQL["balance"], archived_seq=moment.archived_seq, **place)
    if by == "recorded":
        return found or 0, found is not None
    dated = await unit.row(SQL["dated"], at=moment.at, last_seq=moment.last_seq, after=after, **place)
    assert dated is not None, "it always answers"
    return (found or 0) + dated.change, found is not None or dated.found


async def kept(unit: Unit, account: int, moment: Moment) -> int:
    """What counts of an account's archived rows that were kept, because they were dated ahead."""
    return await unit.value(SQL["kept"], asset=moment.asset, account=account, archived_seq=moment.archived_seq)


def check(by: str) -> str:
    """Raises InvalidInput for a clock that there is not."""
    if by not in ("effective", "recorded"):
        raise InvalidInput(field="by", reason=f"{by!r} is not one of effective, recorded")
    return by
