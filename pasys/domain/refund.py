"""How much of a payment may still go back, who has to say yes, and which account it comes from.

requested ──▶ awaiting_approval ──▶ approved ──▶ reserved ──▶ sent ──▶ completed
    └─ automatic ───────────────────────▲           │           └──▶ declined ──▶ released
                  awaiting_approval ──▶ rejected    └──▶ declined ──▶ released
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from pasys.domain.transaction import BOOK, Kind
from pasys.domain.transaction import Status as TransactionStatus
from pasys.errors import (
    IllegalTransition,
    InvalidInput,
    InvalidSettings,
    PasysError,
    RefundNotPossible,
    RefundTooLarge,
)
from pasys.money import Money, parse


class Status(StrEnum):
    REQUESTED = "requested"
    AWAITING_APPROVAL = "awaiting_approval"
    APPROVED = "approved"
    REJECTED = "rejected"
    RESERVED = "reserved"
    SENT = "sent"
    COMPLETED = "completed"
    DECLINED = "declined"
    RELEASED = "released"


MOVES: dict[Status, frozenset[Status]] = {
    Status.REQUESTED: frozenset({Status.AWAITING_APPROVAL, Status.APPROVED}),
    Status.AWAITING_APPROVAL: frozenset({Status.APPROVED, Status.REJECTED}),
    Status.APPROVED: frozenset({Status.RESERVED, Status.DECLINED}),
    Status.RESERVED: frozenset({Status.SENT}),
    Status.SENT: frozenset({Status.COMPLETED, Status.DECLINED}),
    Status.DECLINED: frozenset({Status.RELEASED}),
    Status.COMPLETED: frozenset(),
    Status.REJECTED: frozenset(),
    Status.RELEASED: frozenset(),
}
FINAL = frozenset({Status.COMPLETED, Status.REJECTED, Status.RELEASED})


def check_move(refund_id: str, was: Status, wanted: Status) -> None:
    """Raises IllegalTransition for a move that the picture above does not have."""
    if wanted not in MOVES[was]:
        raise IllegalTransition(entity_id=refund_id, status=was.value, wanted=wanted.value)


@dataclass(frozen=True, slots=True)
class Payment:
    """A transaction, as far as giving it back is concerned."""

    id: str
    kind: Kind
    rail: str
    status: TransactionStatus
    captured: Money
    refunding: Money
    refunded: Money

    @property
    def refundable(self) -> Money:
        """What was captured and is neither back nor promised to another refund."""
        return self.captured - self.refunding - self.refunded


def promise(payment: Payment, asked: Money | None) -> Money:
    """The amount that a refund may promise: what was asked, or all that is left. Raises the rule that refuses it."""
    if payment.rail == BOOK or payment.captured.minor == 0:
        raise RefundNotPossible(transaction_id=payment.id, status=payment.status.value)
    if asked is not None and (asked.asset != payment.captured.asset or asked.minor < 1):
        raise InvalidInput(field="amount", reason=f"{asked} is no amount of {payment.captured.asset} to give back")
    amount = payment.refundable if asked is None else asked
    if amount.minor == 0 or payment.refundable < amount:
        asked_for = asked if asked is not None else payment.captured
        raise RefundTooLarge(transaction_id=payment.id, refundable=payment.refundable, asked=asked_for)
    return amount


def needs_approval(amount: Money, limits: Mapping[str, str]) -> bool:
    """True where a second person has to agree. `limits` is decimal text in major units, by asset; 0 is every refund."""
    limit = limits.get(amount.asset)
    if limit is None or limit == "0":
        return limit is not None
    try:
        return parse(limit, amount.asset) < amount
    except PasysError as error:
        raise InvalidSettings(source=f"refund_approval_above.{amount.asset}", reason=str(error)) from None
