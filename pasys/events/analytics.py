"""What reports and training are told of a finished payment."""

from __future__ import annotations

from pasys.events.base import Event, fact


@fact("analytics.recorded", about="transaction_id", final=True)
class AnalyticsRecorded(Event, frozen=True, kw_only=True):
    """Flat facts of a finished payment, for reports and training."""

    transaction_id: str
    kind: str
    rail: str
    status: str
    amount_minor: int
    fee_minor: int
    reason: str | None
    seconds_to_final: float
