"""The verdicts on a payment."""

from __future__ import annotations

import msgspec

from pasys.events.base import Event, fact


@fact("fraud.cleared", about="transaction_id")
class FraudCleared(Event, frozen=True, kw_only=True):
    """The payment may be settled."""

    transaction_id: str
    decision_id: str
    score: float
    reasons: list[str] = msgspec.field(default_factory=list)
    rules_version: int = 0
    model_version: str | None = None


@fact("fraud.review", about="transaction_id", final=True)
class FraudReview(Event, frozen=True, kw_only=True):
    """A person has to decide; the money stays held."""

    transaction_id: str
    decision_id: str
    score: float
    reasons: list[str] = msgspec.field(default_factory=list)
    rules_version: int = 0
    model_version: str | None = None


@fact("fraud.flagged", about="transaction_id")
class FraudFlagged(Event, frozen=True, kw_only=True):
    """The payment is fraud, by rule or by a reviewer."""

    transaction_id: str
    decision_id: str
    score: float
    reasons: list[str] = msgspec.field(default_factory=list)
    rules_version: int = 0
    model_version: str | None = None
