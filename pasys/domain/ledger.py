"""A transfer moves an amount of one asset from a debit account to a credit account; a refusal names the rule it broke.

The rules themselves are in ledger_rules.py, which judges a batch of transfers with the answers that they would get one
after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from uuid import UUID

import msgspec

from pasys.ids import uuid7

DEBITS_MUST_NOT_EXCEED_CREDITS = 1
CREDITS_MUST_NOT_EXCEED_DEBITS = 2
ACTIVE, FROZEN, CLOSED = 0, 1, 2
_INT64 = 1 << 63


class Kind(IntEnum):
    """How a transfer moves money: at once, or as a hold that is later posted (in whole or in part) or voided."""

    DIRECT = 0
    PENDING = 1
    POST = 2
    VOID = 3


class Purpose(IntEnum):
    """What a transfer is for (transfer.code). The numbers are in the journal for ever: add, never renumber."""

    HOLD = 1
    PAYMENT = 2
    FEE = 3
    INCOME = 4
    LATE_CAPTURE = 5
    REFUND_RESERVE = 10
    REFUND_COMPLETE = 11
    REFUND_RELEASE = 12
    REFUND_RETURN = 13
    DEPOSIT = 20
    WITHDRAWAL = 21
    BOOK = 22
    REVERSAL = 23
    PAYOUT = 30
    CORRECTION = 31

    @property
    def finishing(self) -> bool:
        """True where the transfer finishes, or records, what has begun: it passes a frozen or closed account."""
        return self in FINISHING


# A reversal is not among them: it undoes what is complete, by a new decision.
FINISHING = frozenset(
    {
        Purpose.PAYMENT,
        Purpose.FEE,
        Purpose.INCOME,
        Purpose.LATE_CAPTURE,
        Purpose.REFUND_RESERVE,
        Purpose.REFUND_COMPLETE,
        Purpose.REFUND_RELEASE,
        Purpose.REFUND_RETURN,
        Purpose.PAYOUT,
        Purpose.CORRECTION,
    }
)


class Result(IntEnum):
    """Accepted, or the rule that refused. Where several are broken, the one with the smallest number answers.

    The journal keeps these numbers for ever: add, never renumber. A conflict alone is never recorded, because the id
    already stands for another transfer.
    """

    ACCEPTED = 0
    ID_CONFLICT = 1
    LINKED_FAILED = 2
    AMOUNT_NOT_POSITIVE = 10
    SAME_ACCOUNT = 11
    DEBIT_ACCOUNT_NOT_FOUND = 12
    CREDIT_ACCOUNT_NOT_FOUND = 13
    WRONG_ASSET = 14
    ACCOUNT_FROZEN = 20
    ACCOUNT_CLOSED = 21
    HOLD_NOT_FOUND = 30
    HOLD_MISMATCH = 31
    HOLD_RESOLVED = 32
    HOLD_EXPIRED = 33
    EXCEEDS_HOLD = 34
    EXCEEDS_CREDITS = 40
    EXCEEDS_DEBITS = 41
    EXCEEDS_RANGE = 42

    @property
    def rule(self) -> str:
        """The rule's name, as it is shown and stored in errors: exceeds_credits."""
        return self.name.lower()


class Transfer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One movement, as its caller asks for it. Its id is its idempotency key.

    POST and VOID name the hold in `pending_id` and repeat the hold's accounts; VOID repeats its whole amount, POST
    takes all or part of it and releases the rest. `linked` chains a transfer with the next: all of a chain, or none.
    """

    debit: int
    credit: int
    amount_minor: int
    asset: str
    purpose: Purpose
    kind: Kind = Kind.DIRECT
    id: UUID = msgspec.field(default_factory=uuid7)
    pending_id: UUID | None = None
    corrects: UUID | None = None
    expires_at: datetime | None = None
    effective_at: datetime | None = None
    reference: str | None = None
    linked: bool = False

    def __post_init__(self) -> None:
        assert -_INT64 <= self.amount_minor < _INT64, "an amount is a signed 64-bit integer"
        assert (self.kind >= Kind.POST) == (self.pending_id is not None), "only a post or void names a hold"
        assert self.expires_at is None or self.kind is Kind.PENDING, "only a hold expires"


class Posted(msgspec.Struct, frozen=True, gc=False):
    """What became of a transfer. `seq` is its place in the asset's journal, or 0: a conflict is not recorded."""

    result: Result
    replayed: bool
    seq: int

    @property
    def accepted(self) -> bool:
        return self.result is Result.ACCEPTED


class Hold(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A pending transfer, as far as posting or voiding it is concerned.

    Of an `archived` one no more is known than that it was resolved: its sides and its amount are in a file.
    """

    id: UUID
    debit: int
    credit: int
    amount_minor: int
    asset: str
    expires_at: datetime | None = None
    reference: str | None = None
    open: bool = True
    archived: bool = False

    def expired(self, now: datetime) -> bool:
        """True from its deadline on. A hold without a deadline never expires."""
        return self.expires_at is not None and self.expires_at <= now


@dataclass(frozen=True, slots=True)
class Recorded:
    """A transfer that the journal has, with the answer that it got."""

    transfer: Transfer
    result: Result
    seq: int

    def repeated_by(self, asked: Transfer) -> bool:
        return same(asked, self.transfer)


def same(asked: Transfer, recorded: Transfer) -> bool:
    """True where a repeated id asks for what is recorded. A time that the caller left open repeats any time; the hold's
    deadline and the chain are how it was asked, not what was done."""
    return (
        asked.debit == recorded.debit
        and asked.credit == recorded.credit
        and asked.amount_minor == recorded.amount_minor
        and asked.asset == recorded.asset
        and asked.kind == recorded.kind
        and asked.purpose == recorded.purpose
        and asked.pending_id == recorded.pending_id
        and asked.corrects == recorded.corrects
        and asked.reference == recorded.reference
        and (asked.effective_at is None or asked.effective_at == recorded.effective_at)
    )
