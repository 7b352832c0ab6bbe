"""The outside world, as pasys would like it to be. One Protocol per kind of door; the things behind are entry points.

A door either answers, or raises Unavailable: then the outcome is unknown, and asking again under the same key is safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import entry_points
from typing import Protocol

from pasys.config import Settings
from pasys.domain.fraud import Scored, Velocity
from pasys.errors import UnknownRail
from pasys.events import StatementLine, TransactionCreated
from pasys.money import Money

PSP_GROUP = "pasys.psp"
SCORER_GROUP = "pasys.scorer"


@dataclass(frozen=True, slots=True)
class Payment:
    """What a PSP is asked to take. `requested_at` tells how long ago the keys were first used."""

    transaction_id: str
    amount: Money
    payment_method: str | None
    customer: str
    requested_at: datetime

    def key(self, step: str) -> str:
        """The idempotency key of one step."""
        return f"{self.transaction_id}:{step}"


@dataclass(frozen=True, slots=True)
class Authorised:
    """The PSP has reserved the payer's money."""

    psp_reference: str
    auth_code: str | None
    processor_code: str | None


@dataclass(frozen=True, slots=True)
class Captured:
    """The PSP has taken the money. `fee` is None where the PSP has not said it yet."""

    psp_reference: str
    charge_reference: str
    amount: Money
    fee: Money | None


@dataclass(frozen=True, slots=True)
class Declined:
    """The PSP said no, for good: `reason` from domain.transaction.FAILURES, `processor_code` in the PSP's own word."""

    reason: str
    processor_code: str | None = None
    psp_reference: str | None = None


@dataclass(frozen=True, slots=True)
class Repayment:
    """What a PSP is asked to give back."""

    refund_id: str
    transaction_id: str
    psp_reference: str
    amount: Money
    requested_at: datetime

    @property
    def key(self) -> str:
        return f"{self.refund_id}:refund"


@dataclass(frozen=True, slots=True)
class Refunded:
    """The PSP has sent the money back."""

    psp_reference: str


@dataclass(frozen=True, slots=True)
class Page:
    """Lines of a statement, newest first or oldest first; no cursor means that it was the last page."""

    lines: list[StatementLine]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class Notice:
    """A webhook whose signature verified. The ids are ours, from the object's metadata, where it has them."""

    event_id: str
    type: str
    object_id: str
    asset: str
    transaction_id: str | None
    refund_id: str | None


class Psp(Protocol):
    """A payment service provider. Every call is safe to repeat: the same key never moves money twice."""

    name: str
    keeps_statement: bool  # False where a line that the statement lacks means nothing

    def check(self, amount: Money) -> None:
        """Raises AmountNotSendable for an amount that this PSP cannot express."""
        ...

    async def authorise(self, payment: Payment) -> Authorised | Declined:
        """Reserve the payer's money, once per transaction. Raises PspUnavailable: the outcome is unknown."""
        ...

    async def capture(self, payment: Payment, authorised: Authorised) -> Captured | Declined:
        """Take what was reserved, once per transaction. Raises PspUnavailable: the outcome is unknown."""
        ...

    async def refund(self, repayment: Repayment) -> Refunded | Declined:
        """Give money back, once per refund. Raises PspUnavailable: the outcome is unknown."""
        ...

    async def statement(self, *, since: datetime, until: datetime, cursor: str | None) -> Page:
        """A page of the balance's lines with since <= created_at < until. Raises PspUnavailable."""
        ...

    def verify(self, payload: bytes, signature: str | None) -> Notice | None:
        """A webhook, verified; None for one that says nothing to us. Raises BadSignature."""
        ...

    async def close(self) -> None: ...


class Counters(Protocol):
    """Velocity counters: fast, rebuildable, never the truth. Counting the same payment twice counts it once."""

    async def count_payments(self, events: Sequence[TransactionCreated]) -> dict[str, Velocity]:
        """Count payments; by transaction id, what their accounts have done. Raises VelocityUnavailable."""
        ...

    async def count_decline(self, transaction_id: str) -> None:
        """Count a PSP's refusal, at the time of the payment that it refused. Raises VelocityUnavailable."""
        ...


class Scorer(Protocol):
    """A model that scores payments. None is installed by default: then the rules decide alone."""

    async def score(self, events: Sequence[TransactionCreated], seen: dict[str, Velocity]) -> dict[str, Scored]: ...


WORLD: frozenset[type] = frozenset({Psp, Counters, Scorer})


def installed_psps() -> list[str]:
    """The rails that an adapter answers for."""
    return sorted(entry.name for entry in entry_points(group=PSP_GROUP))


def open_psp(name: str, settings: Settings) -> Psp:
    """Import and open exactly one adapter. Raises UnknownRail."""
    found = tuple(entry_points(group=PSP_GROUP, name=name))
    if not found:
        raise UnknownRail(rail=name, installed=", ".join(installed_psps()))
    return found[0].load()(settings)


def open_scorer(settings: Settings) -> Scorer | None:
    """The installed model, the first by name; None where there is none."""
    found = sorted(entry_points(group=SCORER_GROUP), key=lambda entry: entry.name)
    return found[0].load()(settings) if found else None
