"""A line of a PSP's statement agrees with the books, or differs from them in a way that has a name and an amount.

Amounts are signed from our point of view: a difference is what the statement says beyond the books, so a positive one
means that the PSP owes us more than we thought. A difference of `fee` is the exception: it is what the PSP kept beyond
what the books say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from pasys.domain.account import receivable
from pasys.errors import NoCorrection
from pasys.money import Money

FEES, SUSPENSE, BANK = "fees:psp", "suspense", "bank:main"


class BreakKind(StrEnum):
    AMOUNT = "amount"
    CURRENCY = "currency"
    STATUS = "status"
    FEE = "fee"
    MISSING_IN_LEDGER = "missing_in_ledger"
    MISSING_AT_PSP = "missing_at_psp"
    DUPLICATE = "duplicate"
    LATE = "late"  # the counterpart came after a correction for its absence was posted


class BreakStatus(StrEnum):
    OPEN = "open"
    RESOLVED = "resolved"


class RunStatus(StrEnum):
    READING = "reading"
    COMPLETED = "completed"
    FAILED = "failed"


class Resolution(StrEnum):
    """How a break was closed."""

    ENTRY = "corrective entry"
    ACCEPTED = "accepted"
    CORRECTED = "corrected"  # the two sides agree by now
    LATE_LINE = "late line"


class Nature(StrEnum):
    """What a line is about. Adapters have three words for it; whatever else they say, the books do not expect."""

    CHARGE = "charge"
    REFUND = "refund"
    PAYOUT = "payout"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line as the PSP listed it; its second occurrence is the same line, listed again."""

    line_id: str
    occurrence: int = 1
    type: str
    asset: str
    amount_minor: int
    fee_minor: int
    status: str
    created_at: datetime
    source_id: str | None = None

    @property
    def net_minor(self) -> int:
        return self.amount_minor - self.fee_minor

    @property
    def nature(self) -> Nature:
        return nature(self.type)

    def facts(self) -> dict[str, Any]:
        """The line as evidence."""
        return {
            "line_id": self.line_id,
            "occurrence": self.occurrence,
            "type": self.type,
            "asset": self.asset,
            "amount_minor": self.amount_minor,
            "fee_minor": self.fee_minor,
            "status": self.status,
            "source_id": self.source_id,
            "created_at": self.created_at.isoformat(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What the books say that the PSP should list. `fee_minor` is None where the PSP has not told its fee.

    `booked` is False for an entity that moved no money; `settling` says that it still may. `line_id` is the line that
    stands for the entity already, and `reference` the PSP's own id of it.
    """

    entity_id: str
    asset: str
    amount_minor: int
    fee_minor: int | None
    status: str
    booked: bool = True
    settling: bool = False
    line_id: str | None = None
    reference: str | None = None

    @property
    def net_minor(self) -> int:
        return self.amount_minor - (self.fee_minor or 0)

    def facts(self) -> dict[str, Any]:
        """Our side as evidence."""
        return {
            "entity_id": self.entity_id,
            "asset": self.asset,
            "amount_minor": self.amount_minor if self.booked else 0,
            "fee_minor": self.fee_minor,
            "status": self.status,
            "reference": self.reference,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Corrected:
    """What corrective entries have added to the books for one line: to its amount, to its fee, for its absence."""

    amount_minor: int = 0
    fee_minor: int = 0
    absence_minor: int = 0


@dataclass(frozen=True, slots=True)
class Difference:
    kind: BreakKind
    expected: dict[str, Any]
    found: dict[str, Any]
    difference_minor: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A corrective entry: the names of two system accounts and an amount."""

    debit: str
    credit: str
    amount_minor: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """One fact of a break, as either side has it; None where it has none. Amounts are Money."""

    fact: str
    books: Any
    statement: Any


NOTHING = Corrected()
FACTS = ("entity_id", "line_id", "type", "asset", "amount_minor", "fee_minor", "status", "reference", "source_id")


def nature(line_type: str) -> Nature:
    return Nature(line_type) if line_type in set(Nature) else Nature.OTHER


def compare(expected: Expected | None, line: Line, corrected: Corrected = NOTHING) -> list[Difference]:
    """Every way in which a line and our side of it differ; none where they agree. None expects no such line."""

    def differs(kind: BreakKind, difference_minor: int, **more: int) -> Difference:
        ours = {} if expected is None else expected.facts()
        return Difference(
            kind, ours | {name: value for name, value in more.items() if value}, line.facts(), difference_minor
        )

    if line.occurrence > 1:
        return [differs(BreakKind.DUPLICATE, line.net_minor)]
    if expected is None or is_second(expected, line):
        kind = BreakKind.MISSING_IN_LEDGER if expected is None else BreakKind.DUPLICATE
        beyond = line.net_minor - corrected.absence_minor
        return [differs(kind, beyond, corrected_minor=corrected.absence_minor)] if beyond else []
    if not expected.booked:
        return [differs(BreakKind.STATUS, line.net_minor)]
    if expected.asset != line.asset:
        return [differs(BreakKind.CURRENCY, 0)]
    found = []
    if corrected.absence_minor:
        found.append(differs(BreakKind.LATE, -corrected.absence_minor, corrected_minor=corrected.absence_minor))
    if beyond := line.amount_minor - expected.amount_minor - corrected.amount_minor:
        found.append(differs(BreakKind.AMOUNT, beyond, corrected_minor=corrected.amount_minor))
    if expected.fee_minor is not None and (beyond := line.fee_minor - expected.fee_minor - corrected.fee_minor):
        found.append(differs(BreakKind.FEE, beyond, corrected_fee_minor=corrected.fee_minor))
    return found


def is_second(expected: Expected, line: Line) -> bool:
    """True for a line beside the one that stands for the entity: the same charge was made twice."""
    if expected.line_id is not None and expected.line_id != line.line_id:
        return True
    references = (expected.reference, line.source_id)
    return expected.booked and None not in references and expected.reference != line.source_id


def told_fee_minor(expected: Expected, line: Line) -> int:
    """The fee that the statement tells for the first time; 0 where there is none, or it was known before."""
    telling = expected.fee_minor is None and expected.booked and expected.asset == line.asset
    return line.fee_minor if telling and line.occurrence == 1 and not is_second(expected, line) else 0


def captured_otherwise(asked: Expected, *, captured_minor: int, reference: str) -> Difference | None:
    """The difference between what a PSP was asked to capture and what it says that it has captured; None for none.

    The books have what was captured, as its statement will. Whose the difference is, a person finds out.
    """
    if captured_minor == asked.amount_minor:
        return None
    found = {"type": "capture", "asset": asked.asset, "amount_minor": captured_minor, "source_id": reference}
    return Difference(BreakKind.AMOUNT, asked.facts(), found, captured_minor - asked.amount_minor)


def missing_at_psp(expected: Expected) -> Difference:
    """The difference of something that the books have and the statement has not."""
    return Difference(BreakKind.MISSING_AT_PSP, expected.facts(), {}, -expected.net_minor)


def correction(break_id: str, kind: str, difference_minor: int, *, psp: str, found: dict[str, Any]) -> Entry:
    """The entry that makes the books say what the statement says. Raises NoCorrection where no entry can."""
    if kind == BreakKind.DUPLICATE and found.get("occurrence", 1) > 1:
        raise NoCorrection(break_id=break_id, kind=kind, reason="a line that is listed twice moved its money once")
    if kind == BreakKind.CURRENCY:
        raise NoCorrection(break_id=break_id, kind=kind, reason="amounts in two currencies have no difference")
    if kind == BreakKind.STATUS:
        raise NoCorrection(break_id=break_id, kind=kind, reason="the transaction or refund itself has to be put right")
    if difference_minor == 0:
        raise NoCorrection(break_id=break_id, kind=kind, reason="the difference is zero")
    if found.get("type") == "capture" and "line_id" not in found:
        raise NoCorrection(
            break_id=break_id, kind=kind, reason="the books have what was captured, and not what was asked"
        )
    owed = receivable(psp)
    debit, credit = (FEES, owed) if kind == BreakKind.FEE else (owed, SUSPENSE)
    if difference_minor < 0:
        debit, credit = credit, debit
    return Entry(debit, credit, abs(difference_minor))


def side_by_side(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[Evidence]:
    """Both sides of a break, fact by fact, in the order in which one reads them."""
    present = expected.keys() | found.keys()
    facts = [fact for fact in FACTS if fact in present] + sorted(present - set(FACTS))
    names = {fact: fact.removesuffix("_minor").replace("_", " ") for fact in facts}
    return [Evidence(names[fact], _told(expected, fact), _told(found, fact)) for fact in facts]


def _told(facts: Mapping[str, Any], fact: str) -> Any:
    value = facts.get(fact)
    return Money(value, facts["asset"]) if fact.endswith("_minor") and value is not None else value


def payout(psp: str, amount_minor: int) -> Entry:
    """What a payout's line says happened: money left for our bank or, where a payout failed, came back."""
    owed = receivable(psp)
    debit, credit = (BANK, owed) if amount_minor < 0 else (owed, BANK)
    return Entry(debit, credit, abs(amount_minor))
