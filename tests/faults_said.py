"""Events that a test announces by itself, as often as it likes, and what became of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pasys import ids
from pasys.db import Database
from pasys.events import Event, FraudCleared, FraudFlagged, PspNotified, SettlementFailed, SettlementSucceeded, encode
from pasys.money import parse
from pasys.service import transaction, transaction_query
from tests.support import eventually


async def announce(db: Database, *said: Event) -> None:
    """Put events into the outbox; the daemons that run relay them."""
    async with db.unit() as unit:
        unit.emit(*said)


def cleared(transaction_id: str) -> FraudCleared:
    return FraudCleared(transaction_id=transaction_id, decision_id=ids.new("fd"), score=0.0, asset="USD")


def flagged(transaction_id: str) -> FraudFlagged:
    return FraudFlagged(transaction_id=transaction_id, decision_id=ids.new("fd"), score=1.0, asset="USD")


def captured(transaction_id: str, amount_minor: int) -> SettlementSucceeded:
    return SettlementSucceeded(
        transaction_id=transaction_id,
        psp="instant",
        psp_reference=f"pi_{transaction_id}",
        charge_reference=f"ch_{transaction_id}",
        captured_minor=amount_minor,
        fee_minor=None,
        auth_code=None,
        processor_code=None,
        authorise_ms=1,
        capture_ms=1,
        asset="USD",
    )


def declined(transaction_id: str) -> SettlementFailed:
    return SettlementFailed(
        transaction_id=transaction_id,
        psp="instant",
        step="authorise",
        reason="declined",
        processor_code="generic_decline",
        psp_reference=None,
        latency_ms=1,
        asset="USD",
    )


def noticed(transaction_id: str) -> PspNotified:
    """A webhook of the PSP that speaks of a payment."""
    return PspNotified(
        notice_id=ids.new("ntc"),
        psp="instant",
        type="payment_intent.succeeded",
        object_id=f"pi_{transaction_id}",
        transaction_id=transaction_id,
        refund_id=None,
        asset="USD",
    )


def message(event: SettlementSucceeded | SettlementFailed, event_id: str) -> bytes:
    """An event as it goes on the wire, under an id of the test's choice."""
    return encode(event, id=event_id, time=datetime.now(UTC), correlation_id=event.transaction_id)


def instant(amount: str, *, key: str | None = None) -> transaction.Draft:
    """alice pays shop by the rail that says yes at once."""
    return transaction.Draft(amount=parse(amount, "USD"), rail="instant", debit="alice", credit="shop", key=key)


async def handled(db: Database, handler: str, count: int, *, within_s: float = 15) -> None:
    """Waits until a handler has had so many events."""

    async def look() -> bool:
        async with db.unit() as unit:
            had = await unit.value("select count(*) from inbox where handler = %(handler)s", handler=handler)
        return had >= count

    await eventually(look, within_s=within_s)


async def moves_of(db: Database, transaction_id: str) -> list[Any]:
    async with db.unit() as unit:
        return await transaction_query.history(unit, transaction_id)


async def settling(db: Database, transaction_id: str) -> None:
    """Waits until the PSP is being asked."""

    async def look() -> bool:
        async with db.unit() as unit:
            return (await transaction_query.get(unit, transaction_id)).settling_at is not None

    await eventually(look)
