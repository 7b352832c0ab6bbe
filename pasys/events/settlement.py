"""What becomes true between a transaction and its PSP."""

from __future__ import annotations

from datetime import datetime

from pasys.events.base import Event, fact


@fact("settlement.requested", about="transaction_id")
class SettlementRequested(Event, frozen=True, kw_only=True):
    """The attempts are on record and the PSP may be asked. Asked again under the same keys, it charges once."""

    transaction_id: str
    psp: str
    amount_minor: int
    payment_method: str | None
    customer: str
    requested_at: datetime
    again: bool = False
    psp_reference: str | None = None


@fact("settlement.succeeded", about="transaction_id")
class SettlementSucceeded(Event, frozen=True, kw_only=True):
    """The PSP has captured the money. A fee of None is not known yet."""

    transaction_id: str
    psp: str
    psp_reference: str
    charge_reference: str
    captured_minor: int
    fee_minor: int | None
    auth_code: str | None
    processor_code: str | None
    authorise_ms: int
    capture_ms: int


@fact("settlement.failed", about="transaction_id")
class SettlementFailed(Event, frozen=True, kw_only=True):
    """The PSP said no; nothing was captured."""

    transaction_id: str
    psp: str
    step: str
    reason: str
    processor_code: str | None
    psp_reference: str | None
    latency_ms: int


@fact("settlement.unknown", about="transaction_id")
class SettlementUnknown(Event, frozen=True, kw_only=True):
    """The PSP did not say what happened. It is asked again until it does."""

    transaction_id: str
    psp: str
    step: str
    reason: str
    latency_ms: int
    psp_reference: str | None = None


@fact("psp.notified", about="notice_id")
class PspNotified(Event, frozen=True, kw_only=True):
    """A PSP's webhook was verified and stored, for the first time."""

    notice_id: str
    psp: str
    type: str
    object_id: str
    transaction_id: str | None
    refund_id: str | None
