"""What becomes true of a transaction."""

from __future__ import annotations

from datetime import datetime

from pasys.events.base import Event, fact


@fact("transaction.created", about="transaction_id")
class TransactionCreated(Event, frozen=True, kw_only=True):
    """The money is held, and the transaction waits for its verdict. Announced for PSP rails only: a book transfer is
    final when it is created, and announces only that it succeeded."""

    transaction_id: str
    kind: str
    rail: str
    amount_minor: int
    account_id: str
    payment_method: str | None
    created_at: datetime


@fact("transaction.succeeded", about="transaction_id", final=True)
class TransactionSucceeded(Event, frozen=True, kw_only=True):
    """Posted on both sides."""

    transaction_id: str
    kind: str
    rail: str
    amount_minor: int
    fee_minor: int = 0


@fact("transaction.failed", about="transaction_id", final=True)
class TransactionFailed(Event, frozen=True, kw_only=True):
    """The hold is released; nobody was charged."""

    transaction_id: str
    reason: str


@fact("transaction.cancelled", about="transaction_id", final=True)
class TransactionCancelled(Event, frozen=True, kw_only=True):
    """Withdrawn before anything was captured; the hold is released."""

    transaction_id: str


@fact("transaction.flagged", about="transaction_id", final=True)
class TransactionFlagged(Event, frozen=True, kw_only=True):
    """Blocked as fraud: the hold is released, or what was captured is on its way back."""

    transaction_id: str
    reason: str
    captured: bool


@fact("transaction.refunded", about="transaction_id", final=True)
class TransactionRefunded(Event, frozen=True, kw_only=True):
    """A refund has completed; so much of the transaction has gone back in all."""

    transaction_id: str
    refund_id: str
    amount_minor: int
    refunded_minor: int
