"""What becomes true of a refund."""

from __future__ import annotations

from datetime import datetime

from pasys.events.base import Event, fact


@fact("refund.requested", about="refund_id", final=True)
class RefundRequested(Event, frozen=True, kw_only=True):
    """Somebody, or a rule, wants money to go back; so much of the payment is promised to this refund."""

    refund_id: str
    transaction_id: str
    amount_minor: int
    automatic: bool


@fact("refund.approved", about="refund_id")
class RefundApproved(Event, frozen=True, kw_only=True):
    """Someone with the authority to give money back has said yes."""

    refund_id: str
    transaction_id: str


@fact("refund.rejected", about="refund_id", final=True)
class RefundRejected(Event, frozen=True, kw_only=True):
    """A second person said no; the promise is taken back."""

    refund_id: str
    transaction_id: str
    reason: str


@fact("refund.reserved", about="refund_id")
class RefundReserved(Event, frozen=True, kw_only=True):
    """The merchant can no longer spend this money. It has not left yet."""

    refund_id: str
    transaction_id: str
    amount_minor: int


@fact("refund.sent", about="refund_id")
class RefundSent(Event, frozen=True, kw_only=True):
    """The attempt is on record and the PSP may be asked, as often as needed, under the same key."""

    refund_id: str
    transaction_id: str
    psp: str
    psp_reference: str
    amount_minor: int
    sent_at: datetime
    again: bool = False


@fact("refund.completed", about="refund_id")
class RefundCompleted(Event, frozen=True, kw_only=True):
    """The PSP has confirmed that the money left."""

    refund_id: str
    transaction_id: str
    psp_reference: str
    latency_ms: int


@fact("refund.declined", about="refund_id")
class RefundDeclined(Event, frozen=True, kw_only=True):
    """The money did not leave: the PSP, or a rule before it was asked, said no."""

    refund_id: str
    transaction_id: str
    reason: str
    latency_ms: int = 0


@fact("refund.unknown", about="refund_id")
class RefundUnknown(Event, frozen=True, kw_only=True):
    """The PSP did not say what happened. The refund stays sent and is asked about until it does."""

    refund_id: str
    transaction_id: str
    reason: str
    latency_ms: int


@fact("refund.released", about="refund_id", final=True)
class RefundReleased(Event, frozen=True, kw_only=True):
    """What was reserved is the merchant's again."""

    refund_id: str
    transaction_id: str
