"""What a PSP was asked to do and has not said stays unknown until it is asked again and answers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pasys.db import Unit, queries
from pasys.errors import InvalidInput
from pasys.money import Money
from pasys.service import refund_unknown, settlement

SQL = queries("unknown")
LISTING_MAX = 10_000


@dataclass(frozen=True, slots=True)
class UnknownRow:
    """A step whose outcome nobody has told. `id` is the transaction's, or the refund's where a refund was sent.

    It was asked `asked` times; `ask_after` is when the next time comes by itself, None where only an operator asks.
    """

    id: str
    transaction_id: str
    status: str
    step: str
    psp: str
    amount: Money
    reason: str | None
    asked: int
    since: datetime
    ask_after: datetime | None


async def listing(unit: Unit, *, limit: int = 50) -> list[UnknownRow]:
    """What is unknown, longest first."""
    if not 1 <= limit <= LISTING_MAX:
        raise InvalidInput(field="limit", reason=f"it is 1 to {LISTING_MAX}")
    return [
        UnknownRow(
            id=row.id,
            transaction_id=row.transaction_id,
            status=row.status,
            step=row.step,
            psp=row.psp,
            amount=Money(row.amount_minor, row.asset),
            reason=row.reason,
            asked=row.asked,
            since=row.since,
            ask_after=row.ask_after,
        )
        for row in await unit.rows(SQL["listing"], limit=limit)
    ]


async def ask_again(unit: Unit, entity_id: str) -> None:
    """Let the resolver ask the PSP at its next tick, about a transaction or a refund (rf_…). Raises NothingToResolve,
    TransactionNotFound, RefundNotFound."""
    if entity_id.startswith("rf_"):
        await refund_unknown.ask_again(unit, entity_id)
    else:
        await settlement.ask_again(unit, entity_id)
