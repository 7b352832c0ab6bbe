"""What a PSP's answer does to a transaction, whatever has happened to it meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pasys.domain import posting
from pasys.domain.ledger import Hold, Transfer
from pasys.domain.transaction import Kind, Status

SUSPECTED_FRAUD = "suspected_fraud"


class Arrival(StrEnum):
    """Where captured money goes."""

    EXPECTED = "expected"  # the hold becomes money, and the merchant gets it
    FLAGGED = "flagged"  # flagged while the PSP was asked: it stays with the payer and goes back
    LATE = "late"  # the transaction had ended without it: recorded as it happened, and sent back
    OVERDUE = "overdue"  # the hold has expired, the transaction has not ended: recorded, and the merchant gets it
    KNOWN = "known"  # it was captured before; nothing to do


@dataclass(frozen=True, slots=True)
class Pending:
    """A transaction, as far as an answer of the PSP is concerned. `payee` is None for a deposit.

    `hold` can still be posted; `lapsed` is past its deadline, and only waits to be released.
    """

    id: str
    kind: Kind
    status: Status
    asset: str
    amount_minor: int
    captured_minor: int
    flagged: bool
    hold: Hold | None
    payer: int
    payee: int | None
    receivable: int
    lapsed: Hold | None = None


def arrival(payment: Pending) -> Arrival:
    """What a capture means for a transaction in this state."""
    if payment.captured_minor > 0 or payment.status in (Status.SUCCEEDED, Status.REFUNDING, Status.REFUNDED):
        return Arrival.KNOWN
    if payment.status is not Status.PENDING:
        return Arrival.LATE
    if payment.hold is None:
        return Arrival.LATE if payment.flagged else Arrival.OVERDUE
    return Arrival.FLAGGED if payment.flagged else Arrival.EXPECTED


def settled(payment: Pending, captured_minor: int) -> list[Transfer]:
    """The transfers that record a capture: all that was captured, by the hold as far as it goes."""
    how = arrival(payment)
    if how is Arrival.KNOWN:
        return []
    payee = payment.payee if how in (Arrival.EXPECTED, Arrival.OVERDUE) else None
    if how not in (Arrival.EXPECTED, Arrival.FLAGGED):
        released = [] if payment.lapsed is None else posting.void(hold=payment.lapsed)
        return released + _beyond_the_hold(payment, captured_minor, payee)
    hold = payment.hold
    assert hold is not None, "it is expected, or was flagged, with its hold"
    held_minor = min(captured_minor, hold.amount_minor)
    if payee is None:
        posted = posting.capture(hold=hold, captured_minor=held_minor)
    else:
        posted = posting.settlement(hold=hold, merchant=payee, captured_minor=held_minor)
    beyond_minor = captured_minor - held_minor
    return posted + (_beyond_the_hold(payment, beyond_minor, payee) if beyond_minor else [])


def _beyond_the_hold(payment: Pending, amount_minor: int, payee: int | None) -> list[Transfer]:
    return posting.late_capture(
        receivable=payment.receivable,
        customer=payment.payer,
        amount_minor=amount_minor,
        asset=payment.asset,
        reference=payment.id,
        merchant=payee,
    )


def status_after(payment: Pending) -> Status:
    """The status of a transaction once its capture is recorded."""
    how = arrival(payment)
    if how in (Arrival.EXPECTED, Arrival.OVERDUE):
        return Status.SUCCEEDED
    return Status.FRAUD if payment.status is Status.PENDING else payment.status
