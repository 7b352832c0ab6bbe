"""Refunds as rows, for every face: one, many by filter, history."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select

from pasys.db import Unit, queries
from pasys.domain.refund import Status
from pasys.errors import InvalidInput, RefundNotFound
from pasys.money import Money
from pasys.schema import refund as table
from pasys.service.transaction_query import HistoryRow

SQL = queries("refund")
LISTING_MAX = 10_000
_UNKNOWN = (table.c.status == Status.SENT, table.c.outcome == "unknown")  # of what was sent, which an index knows


@dataclass(frozen=True, slots=True)
class RefundRow:
    """A refund as it stands. `outcome` is unknown while the PSP has not said what happened."""

    id: str
    transaction_id: str
    status: str
    outcome: str | None
    amount: Money
    automatic: bool
    reason: str | None
    decline_reason: str | None
    requested_by: str
    decided_by: str | None
    psp_reference: str | None
    created_at: datetime
    final_at: datetime | None


async def get(unit: Unit, refund_id: str) -> RefundRow:
    """One refund. Raises RefundNotFound."""
    rows = await unit.execute(select(table).where(table.c.id == refund_id))
    if not rows:
        raise RefundNotFound(refund_id=refund_id)
    return _row(rows[0])


async def listing(
    unit: Unit,
    *,
    status: str | None = None,
    transaction: str | None = None,
    automatic: bool | None = None,
    unknown: bool = False,
    after: str | None = None,
    limit: int = 50,
) -> list[RefundRow]:
    """Refunds, newest first; `after` is the last id of the page before, `unknown` leaves those that a PSP has not told.

    Raises InvalidInput for a status that is none.
    """
    if not 1 <= limit <= LISTING_MAX:
        raise InvalidInput(field="limit", reason=f"it is 1 to {LISTING_MAX}")
    chosen = select(table).order_by(table.c.id.desc()).limit(limit)
    if status is not None:
        if status not in [str(item) for item in Status]:
            raise InvalidInput(field="status", reason=f"{status!r} is none of {', '.join(Status)}")
        chosen = chosen.where(table.c.status == status)
    if transaction is not None:
        chosen = chosen.where(table.c.transaction_id == transaction)
    if automatic is not None:
        chosen = chosen.where(table.c.automatic == automatic)
    if unknown:
        chosen = chosen.where(*_UNKNOWN)
    if after is not None:
        chosen = chosen.where(table.c.id < after)
    return [_row(row) for row in await unit.execute(chosen)]


async def waiting(unit: Unit, *, limit: int = 50) -> list[RefundRow]:
    """Refunds that a second person has to decide, longest first."""
    if not 1 <= limit <= LISTING_MAX:
        raise InvalidInput(field="limit", reason=f"it is 1 to {LISTING_MAX}")
    chosen = select(table).where(table.c.status == Status.AWAITING_APPROVAL).order_by(table.c.id).limit(limit)
    return [_row(row) for row in await unit.execute(chosen)]


async def unknown_count(unit: Unit) -> int:
    """How many have an outcome that the PSP has not told."""
    row = await unit.one(select(func.count().label("count")).select_from(table).where(*_UNKNOWN))
    assert row is not None
    return row["count"]


async def history(unit: Unit, refund_id: str) -> list[HistoryRow]:
    """How a refund came to be what it is, oldest first."""
    return [HistoryRow(*row) for row in await unit.rows(SQL["history"], id=refund_id)]


def _row(row: Any) -> RefundRow:
    return RefundRow(
        id=row["id"],
        transaction_id=row["transaction_id"],
        status=row["status"],
        outcome=row["outcome"],
        amount=Money(row["amount_minor"], row["asset"]),
        automatic=row["automatic"],
        reason=row["reason"],
        decline_reason=row["decline_reason"],
        requested_by=row["requested_by"],
        decided_by=row["decided_by"],
        psp_reference=row["psp_reference"],
        created_at=row["created_at"],
        final_at=row["final_at"],
    )
