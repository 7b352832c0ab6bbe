"""What a transaction may be, and what it may become.

    initialized ──▶ pending ──▶ succeeded ⇄ refunding ──▶ refunded
          │            ├──────▶ failed ─────────▲
          └─▶ cancelled ◀┤      succeeded ─▶ fraud
                       └──────▶ fraud ──────────┘

The database statement that moves a transaction names the status that it moves from, so an illegal move changes no row.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum

from pasys.errors import IllegalTransition, InvalidInput


class Kind(StrEnum):
    PAYMENT = "payment"
    TRANSFER = "transfer"
    DEPOSIT = "deposit"
    WITHDRAWAL = "withdrawal"


class Status(StrEnum):
    INITIALIZED = "initialized"
    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    FRAUD = "fraud"
    REFUNDING = "refunding"
    CANCELLED = "cancelled"
    REFUNDED = "refunded"


BOOK = "book"

MOVES: dict[Status, frozenset[Status]] = {
    Status.INITIALIZED: frozenset({Status.PENDING, Status.SUCCEEDED, Status.CANCELLED}),
    Status.PENDING: frozenset({Status.SUCCEEDED, Status.FAILED, Status.FRAUD, Status.CANCELLED}),
    Status.SUCCEEDED: frozenset({Status.REFUNDING, Status.FRAUD}),
    Status.FAILED: frozenset({Status.REFUNDING}),
    Status.FRAUD: frozenset({Status.REFUNDING}),
    Status.REFUNDING: frozenset({Status.REFUNDED, Status.SUCCEEDED, Status.FAILED, Status.FRAUD}),
    Status.CANCELLED: frozenset({Status.REFUNDING}),
    Status.REFUNDED: frozenset(),
}

# Nothing more happens to these by itself; a refund may still be asked for.
RESTING = frozenset({Status.SUCCEEDED, Status.FAILED, Status.FRAUD, Status.CANCELLED, Status.REFUNDED})

# Why a transaction failed: a closed list, whatever words a PSP has for it.
FAILURES = frozenset(
    {
        "declined",
        "insufficient_funds",
        "card_lost_or_stolen",
        "card_expired",
        "card_number_invalid",
        "security_code_wrong",
        "authentication_required",
        "payment_method_invalid",
        "amount_not_accepted",
        "currency_not_accepted",
        "processing_error",
        "authorisation_expired",
        "duplicate",
        "suspected_fraud",
        "not_found_at_psp",
        "hold_expired",
    }
)


def check_move(entity_id: str, was: Status, wanted: Status) -> None:
    """Raises IllegalTransition for a move that the picture above does not have."""
    if wanted not in MOVES[was]:
        raise IllegalTransition(entity_id=entity_id, status=was.value, wanted=wanted.value)


def infer_kind(*, debit_type: str | None, credit_type: str | None, rail: str) -> Kind:
    """The kind of a transaction that did not say: from its accounts' types and its rail.

    No payer is a deposit, no payee a withdrawal; money that reaches a merchant is a payment; a PSP that funds anybody
    else's account is a deposit's rail, and between two accounts the rest is a transfer.
    """
    if debit_type is None and credit_type is None:
        raise InvalidInput(field="accounts", reason="name the account that pays, the one that receives, or both")
    if debit_type is None:
        return Kind.DEPOSIT
    if credit_type is None:
        return Kind.WITHDRAWAL
    return Kind.PAYMENT if credit_type == "merchant" or rail != BOOK else Kind.TRANSFER


def check_shape(kind: Kind, *, debit: bool, credit: bool, rail: str) -> None:
    """Raises InvalidInput where a kind lacks one of its accounts, has one too many, or does not go by that rail."""
    wants = {Kind.DEPOSIT: (False, True), Kind.WITHDRAWAL: (True, False)}.get(kind, (True, True))
    for field, has, want in (("from", debit, wants[0]), ("to", credit, wants[1])):
        if has != want:
            raise InvalidInput(field=field, reason=f"a {kind} {'needs' if want else 'takes no'} such account")
    if rail != BOOK and kind in (Kind.TRANSFER, Kind.WITHDRAWAL):
        raise InvalidInput(field="rail", reason=f"a {kind} goes by book, not by {rail}")


def request_key(*, id: str, request_timestamp: str, debit: str, credit: str, amount: str) -> str:
    """The idempotency key of a request in the form of older systems: the SHA-256, in hexadecimal, of its parts as
    they were sent, one after the other. The same request, sent again, has the same key."""
    return hashlib.sha256("".join((id, request_timestamp, debit, credit, amount)).encode()).hexdigest()
