"""Every fact that travels on the bus: past tense, frozen, versioned. The docstring says what is now true.

A subject is `<noun>.<past participle>`, and on the wire `.<ASSET>` follows as the shard key. Money travels as whole
minor units beside its asset. An event whose declaration says `final=True` has no consumer inside pasys.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, ClassVar, TypeVar

import msgspec

from pasys.errors import UnreadableEvent

CATALOG: dict[str, type[Event]] = {}


class Event(msgspec.Struct, frozen=True, kw_only=True):
    subject: ClassVar[str]
    version: ClassVar[int]
    final: ClassVar[bool]
    about: ClassVar[str]

    asset: str

    @property
    def entity_id(self) -> str:
        """The id of what the event is about; events of one entity share a lane."""
        return getattr(self, self.about)


E = TypeVar("E", bound=Event)


def fact(subject: str, *, about: str, version: int = 1, final: bool = False) -> Callable[[type[E]], type[E]]:
    """Declare a fact, the subject it is announced on, and the field that says whom it is about."""

    def declare(cls: type[E]) -> type[E]:
        assert subject not in CATALOG, f"{subject} is already declared"
        assert about in cls.__struct_fields__, f"{subject} is about {about}, which it does not carry"
        cls.subject, cls.version, cls.final, cls.about = subject, version, final, about
        CATALOG[subject] = cls
        return cls

    return declare


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """What every message carries around its fact.

    `causation_id` is the event that was being handled when this one was announced; `correlation_id` is the entity that
    the whole story is about (a transaction, a run); `trace_id` joins logs and spans of one request.
    """

    id: str
    subject: str
    version: int
    time: datetime
    correlation_id: str
    causation_id: str | None = None
    trace_id: str | None = None
    actor: str | None = None
    data: msgspec.Raw


class Announcement(msgspec.Struct, frozen=True):
    """An event as it stands in the outbox and goes on the wire: its subject has the asset at the end."""

    event_id: str
    subject: str
    body: bytes


_encoder = msgspec.json.Encoder()
_envelopes = msgspec.json.Decoder(Envelope)
_decoders: dict[str, msgspec.json.Decoder[Any]] = {}


def encode(
    event: Event,
    *,
    id: str,
    time: datetime,
    correlation_id: str,
    causation_id: str | None = None,
    trace_id: str | None = None,
    actor: str | None = None,
) -> bytes:
    """The message of an event: JSON of its envelope."""
    return _encoder.encode(
        Envelope(
            id=id,
            subject=event.subject,
            version=event.version,
            time=time,
            correlation_id=correlation_id,
            causation_id=causation_id,
            trace_id=trace_id,
            actor=actor,
            data=msgspec.Raw(_encoder.encode(event)),
        )
    )


def decode(body: bytes, *, subject: str = "?") -> tuple[Envelope, Event]:
    """Envelope and event of a message. Raises UnreadableEvent for what no version of pasys has written."""
    try:
        envelope = _envelopes.decode(body)
        kind = CATALOG.get(envelope.subject)
        if kind is None:
            raise UnreadableEvent(subject=subject, reason=f"there is no event {envelope.subject}")
        if envelope.version > kind.version:
            raise UnreadableEvent(subject=subject, reason=f"version {envelope.version} is newer than {kind.version}")
        decoder = _decoders.get(envelope.subject)
        if decoder is None:
            decoder = _decoders[envelope.subject] = msgspec.json.Decoder(kind)
        return envelope, decoder.decode(envelope.data)
    except msgspec.MsgspecError as error:
        raise UnreadableEvent(subject=subject, reason=str(error)) from None


# Accounts ------------------------------------------------------------------------------------------------------------


@fact("account.opened", about="account_id", final=True)
class AccountOpened(Event, frozen=True, kw_only=True):
    """The account exists and can be paid into."""

    account_id: str
    name: str
    type: str


@fact("account.changed", about="account_id", final=True)
class AccountChanged(Event, frozen=True, kw_only=True):
    """The account's status is now this one, for every new transfer."""

    account_id: str
    name: str
    status: str


# Transactions --------------------------------------------------------------------------------------------------------


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


# Fraud ---------------------------------------------------------------------------------------------------------------


@fact("fraud.cleared", about="transaction_id")
class FraudCleared(Event, frozen=True, kw_only=True):
    """The payment may be settled."""

    transaction_id: str
    decision_id: str
    score: float
    reasons: list[str] = []
    rules_version: int = 0
    model_version: str | None = None


@fact("fraud.review", about="transaction_id", final=True)
class FraudReview(Event, frozen=True, kw_only=True):
    """A person has to decide; the money stays held."""

    transaction_id: str
    decision_id: str
    score: float
    reasons: list[str] = []
    rules_version: int = 0
    model_version: str | None = None


@fact("fraud.flagged", about="transaction_id")
class FraudFlagged(Event, frozen=True, kw_only=True):
    """The payment is fraud, by rule or by a reviewer."""

    transaction_id: str
    decision_id: str
    score: float
    reasons: list[str] = []
    rules_version: int = 0
    model_version: str | None = None


# Settlement ----------------------------------------------------------------------------------------------------------


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


# Refunds -------------------------------------------------------------------------------------------------------------


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


# Reconciliation ------------------------------------------------------------------------------------------------------


@fact("reconciliation.requested", about="run_id")
class ReconciliationRequested(Event, frozen=True, kw_only=True):
    """The next page of the PSP's statement is wanted."""

    run_id: str
    psp: str
    since: datetime
    until: datetime
    cursor: str | None = None


class StatementLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a PSP's statement, in ledger minor units; `amount_minor` is signed from our point of view."""

    line_id: str
    type: str
    asset: str
    amount_minor: int
    fee_minor: int
    source_id: str | None
    transaction_id: str | None
    refund_id: str | None
    status: str
    created_at: datetime
    description: str = ""


@fact("reconciliation.fetched", about="run_id")
class ReconciliationFetched(Event, frozen=True, kw_only=True):
    """A page of the PSP's statement, as it was read. No cursor means that it was the last; `whole` that what the
    statement does not list has not happened."""

    run_id: str
    psp: str
    since: datetime
    until: datetime
    lines: list[StatementLine]
    cursor: str | None
    whole: bool = True


@fact("reconciliation.unavailable", about="run_id")
class ReconciliationUnavailable(Event, frozen=True, kw_only=True):
    """The PSP's statement could not be read; the run ends without a watermark."""

    run_id: str
    psp: str
    reason: str


@fact("reconciliation.matched", about="run_id", final=True)
class ReconciliationMatched(Event, frozen=True, kw_only=True):
    """A run is complete: so many lines agree with the books, so many breaks are open."""

    run_id: str
    psp: str
    matched: int
    breaks: int


@fact("reconciliation.mismatched", about="break_id", final=True)
class ReconciliationMismatched(Event, frozen=True, kw_only=True):
    """One line and the books disagree, as the break's evidence shows."""

    break_id: str
    run_id: str
    kind: str
    difference_minor: int


@fact("reconciliation.resolved", about="break_id", final=True)
class ReconciliationResolved(Event, frozen=True, kw_only=True):
    """A break is closed: by a corrective entry, by the late line, or by a person's word."""

    break_id: str
    run_id: str
    resolution: str


# Reports -------------------------------------------------------------------------------------------------------------


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
