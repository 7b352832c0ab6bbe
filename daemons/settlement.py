"""Settlement: a cleared transaction is authorised and captured at its PSP, once, and the PSP's word is passed on.

fraud.cleared -> prepare -> settlement.requested
settlement.requested -> send -> settlement.failed | settlement.succeeded | settlement.unknown
psp.notified -> notice -> refund.sent | settlement.requested
every resolve_every_s -> resolve -> settlement.requested
every 5 s -> gate -> fraud.cleared | fraud.review
"""

from __future__ import annotations

import time

from pasys.adapters import Authorised, Captured, Declined, Payment, Psp
from pasys.daemon import Daemon
from pasys.db import Unit
from pasys.errors import AmountNotKept, PspUnavailable, Rejected
from pasys.events import (
    FraudCleared,
    FraudReview,
    PspNotified,
    RefundSent,
    SettlementFailed,
    SettlementRequested,
    SettlementSucceeded,
    SettlementUnknown,
)
from pasys.money import Money
from pasys.service import fraud, refund_unknown, settlement


def refused(event: SettlementRequested, no: Rejected) -> SettlementFailed:
    """What the adapter's own rules refuse (an amount that the PSP cannot express) never reached the PSP."""
    return _failed(event, "authorise", Declined("amount_not_accepted", no.code), 0)


daemon = Daemon("settlement", refused=refused)


@daemon.on
async def prepare(events: list[FraudCleared], unit: Unit) -> list[SettlementRequested]:
    """Put both attempts on record before anybody is asked."""
    return await settlement.prepare(unit, events)


@daemon.on
async def send(event: SettlementRequested, psp: Psp) -> SettlementSucceeded | SettlementFailed | SettlementUnknown:
    """Authorise, then capture, each under its own key: asked again, the PSP does each of them once."""
    payment = Payment(
        transaction_id=event.transaction_id,
        amount=Money(event.amount_minor, event.asset),
        payment_method=event.payment_method,
        customer=event.customer,
        requested_at=event.requested_at,
    )
    clock = _Clock()
    step = "authorise"
    authorised: Authorised | None = None
    try:
        answer = await psp.authorise(payment)
        authorise_ms = clock.lap_ms()
        if isinstance(answer, Declined):
            return _failed(event, "authorise", answer, authorise_ms)
        step, authorised = "capture", answer
        captured = await psp.capture(payment, authorised)
        capture_ms = clock.lap_ms()
        if isinstance(captured, Captured) and (captured.amount.minor < 1 or captured.amount.asset != event.asset):
            raise PspUnavailable(psp=event.psp, reason=f"it says that it captured {captured.amount}")  # no such answer
        if isinstance(captured, Declined):
            return _failed(event, "capture", captured, capture_ms)
    except (PspUnavailable, AmountNotKept, Rejected) as silence:  # it may have taken money; this is no answer
        if isinstance(silence, Rejected) and authorised is None:
            raise  # the adapter's own rules, before it asked: `refused` knows the words
        return SettlementUnknown(
            transaction_id=event.transaction_id,
            psp=event.psp,
            step=step,
            reason=str(silence),
            latency_ms=clock.lap_ms(),
            psp_reference=authorised.psp_reference if authorised else None,
            asset=event.asset,
        )
    return SettlementSucceeded(
        transaction_id=event.transaction_id,
        psp=event.psp,
        psp_reference=captured.psp_reference,
        charge_reference=captured.charge_reference,
        captured_minor=captured.amount.minor,
        fee_minor=captured.fee.minor if captured.fee and captured.fee.asset == event.asset else None,
        auth_code=authorised.auth_code,
        processor_code=authorised.processor_code,
        authorise_ms=authorise_ms,
        capture_ms=capture_ms,
        asset=event.asset,
    )


@daemon.on
async def notice(events: list[PspNotified], unit: Unit) -> list[SettlementRequested | RefundSent]:
    """A webhook leads to the same place as asking, for payments and for refunds."""
    return [*await settlement.notice(unit, events), *await refund_unknown.notice(unit, events)]


@daemon.every("resolve_every_s")
async def resolve(unit: Unit) -> list[SettlementRequested]:
    """Unknown is a state, never a guess: ask until the PSP tells."""
    return await settlement.resolve(unit)


@daemon.every(5)
async def gate(unit: Unit) -> list[FraudCleared | FraudReview]:
    """What the configuration says about payments that wait for a fraud daemon that is away."""
    return await fraud.overdue(unit)


class _Clock:
    """Milliseconds since the last lap."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    def lap_ms(self) -> int:
        now = time.monotonic()
        since, self._since = self._since, now
        return round((now - since) * 1000)


def _failed(event: SettlementRequested, step: str, declined: Declined, latency_ms: int) -> SettlementFailed:
    return SettlementFailed(
        transaction_id=event.transaction_id,
        psp=event.psp,
        step=step,
        reason=declined.reason,
        processor_code=declined.processor_code,
        psp_reference=declined.psp_reference,
        latency_ms=latency_ms,
        asset=event.asset,
    )
