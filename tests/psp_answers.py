"""What a PSP says, handed straight to the verbs: payments and refunds step by step, without daemons."""

from __future__ import annotations

from pasys import ids
from pasys.db import Database
from pasys.events import (
    FraudCleared,
    RefundCompleted,
    RefundDeclined,
    RefundUnknown,
    SettlementFailed,
    SettlementSucceeded,
)
from pasys.service import refund, refund_query, refund_unknown, settlement, transaction_query
from pasys.service.refund_query import RefundRow
from pasys.service.transaction_query import TransactionRow


async def clear(db: Database, transaction_id: str) -> None:
    """The verdict is good: settlement begins."""
    async with db.unit() as unit:
        row = await transaction_query.get(unit, transaction_id)
        cleared = FraudCleared(
            transaction_id=transaction_id, decision_id=ids.new("dec"), score=0.0, asset=row.amount.asset
        )
        assert len(await settlement.prepare(unit, [cleared])) == 1


async def capture(db: Database, transaction_id: str, *, fee_minor: int | None = 320) -> TransactionRow:
    """Cleared, authorised, captured in full, posted."""
    await clear(db, transaction_id)
    async with db.unit() as unit:
        row = await transaction_query.get(unit, transaction_id)
        said = SettlementSucceeded(
            transaction_id=transaction_id,
            psp=row.rail,
            psp_reference="pi_1",
            charge_reference="ch_1",
            captured_minor=row.amount.minor,
            fee_minor=fee_minor,
            auth_code="A1",
            processor_code="ok",
            authorise_ms=12,
            capture_ms=34,
            asset=row.amount.asset,
        )
        unit.emit(*await settlement.succeed(unit, [said]))
    return await transaction_row(db, transaction_id)


async def decline(db: Database, transaction_id: str, reason: str = "declined") -> TransactionRow:
    """Cleared, and refused by the PSP."""
    await clear(db, transaction_id)
    async with db.unit() as unit:
        row = await transaction_query.get(unit, transaction_id)
        said = SettlementFailed(
            transaction_id=transaction_id,
            psp=row.rail,
            step="authorise",
            reason=reason,
            processor_code="generic_decline",
            psp_reference="pi_1",
            latency_ms=12,
            asset=row.amount.asset,
        )
        unit.emit(*await settlement.fail(unit, [said]))
    return await transaction_row(db, transaction_id)


async def send_refund(db: Database, refund_id: str) -> None:
    """Reserved in the books, and asked of the PSP."""
    async with db.unit() as unit:
        assert await refund.reserve(unit, refund_id) is not None
    async with db.unit() as unit:
        assert await refund.send(unit, refund_id) is not None


async def complete_refund(db: Database, refund_id: str) -> RefundRow:
    """The PSP has paid it back."""
    row = await refund_row(db, refund_id)
    said = RefundCompleted(
        refund_id=refund_id,
        transaction_id=row.transaction_id,
        psp_reference="re_1",
        latency_ms=5,
        asset=row.amount.asset,
    )
    async with db.unit() as unit:
        await refund.complete(unit, said)
    return await refund_row(db, refund_id)


async def decline_refund(db: Database, refund_id: str, reason: str = "declined") -> RefundRow:
    """The PSP, or a rule before it was asked, has refused it."""
    row = await refund_row(db, refund_id)
    said = RefundDeclined(refund_id=refund_id, transaction_id=row.transaction_id, reason=reason, asset=row.amount.asset)
    async with db.unit() as unit:
        await refund.decline(unit, said)
    return await refund_row(db, refund_id)


async def doubt_refund(db: Database, refund_id: str) -> RefundRow:
    """The PSP has not said what happened."""
    row = await refund_row(db, refund_id)
    said = RefundUnknown(
        refund_id=refund_id,
        transaction_id=row.transaction_id,
        reason="no answer",
        latency_ms=5,
        asset=row.amount.asset,
    )
    async with db.unit() as unit:
        await refund_unknown.doubt(unit, said)
    return await refund_row(db, refund_id)


async def transaction_row(db: Database, transaction_id: str) -> TransactionRow:
    async with db.unit() as unit:
        return await transaction_query.get(unit, transaction_id)


async def refund_row(db: Database, refund_id: str) -> RefundRow:
    async with db.unit() as unit:
        return await refund_query.get(unit, refund_id)
