"""An account has a name, one asset, a type that decides its limits, and a status that decides what it may start."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pasys.domain.ledger import CREDITS_MUST_NOT_EXCEED_DEBITS, DEBITS_MUST_NOT_EXCEED_CREDITS
from pasys.errors import IllegalTransition, InvalidInput
from pasys.money import Money

TYPES = ("customer", "merchant", "provider", "system")
STATUSES = ("active", "frozen", "closed")
NAME_MAX = 64
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,63}")
_RESERVED = re.compile(r"(?:psp|fees|bank|external|refunds|escrow|fx):.*|suspense(?::.*)?", re.IGNORECASE)
# What the system owns, or what others owe to it: its balance is debits minus credits.
_DEBIT_NORMAL = re.compile(r"psp:[^:]+:receivable|fees:psp|bank:.*|external:deposits")
# What only passes through, and must return to zero.
_CLEARING = re.compile(r"psp:[^:]+:receivable|refunds:in_flight|suspense(?::.*)?|fx:.*")
_MOVES = {"frozen": ("active",), "active": ("frozen",), "closed": ("active", "frozen")}


@dataclass(frozen=True, slots=True)
class Balance:
    """What an account holds, signed so that its normal side is positive.

    `posted` is what has been posted, `pending` what is held for it (positive) or against it (negative), `available`
    what is posted less all that is held against it.
    """

    asset: str
    available: Money
    posted: Money
    pending: Money


def check_name(name: str, account_type: str) -> None:
    """Raises InvalidInput where an account of this type cannot have this name."""
    if _NAME.fullmatch(name) is None:
        raise InvalidInput(
            field="name", reason=f"1 to {NAME_MAX} letters, digits and . _ : @ -, beginning with a letter or digit"
        )
    if name.lower().startswith("acc_"):
        raise InvalidInput(field="name", reason="names that begin with acc_ would read as account ids")
    if account_type != "system" and reserved(name):
        raise InvalidInput(field="name", reason=f"{name} is one of the system's own names")


def check_one_of(field: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raises InvalidInput for a word that means nothing: it is never ignored, and never read as a default."""
    if value not in allowed:
        raise InvalidInput(field=field, reason=f"{value!r} is not one of {', '.join(allowed)}")


def reserved(name: str) -> bool:
    return _RESERVED.fullmatch(name) is not None


def debit_normal(name: str, account_type: str) -> bool:
    return account_type == "system" and _DEBIT_NORMAL.fullmatch(name) is not None


def clearing(name: str, account_type: str) -> bool:
    return account_type == "system" and _CLEARING.fullmatch(name) is not None


def limits(account_type: str, *, debit_limit: bool | None, credit_limit: bool | None) -> int:
    """The flags of a new account: customers and providers cannot overdraw unless somebody says so."""
    debit = account_type in ("customer", "provider") if debit_limit is None else debit_limit
    return flags(debit_limit=debit, credit_limit=bool(credit_limit))


def flags(*, debit_limit: bool, credit_limit: bool) -> int:
    return debit_limit * DEBITS_MUST_NOT_EXCEED_CREDITS | credit_limit * CREDITS_MUST_NOT_EXCEED_DEBITS


def check_move(account: str, *, status: str, wanted: str) -> None:
    """Raises IllegalTransition unless an account with this status may get the other."""
    if status not in _MOVES[wanted]:
        raise IllegalTransition(entity_id=account, status=status, wanted=wanted)


def balance(
    name: str,
    account_type: str,
    asset: str,
    *,
    debits_pending: int,
    debits_posted: int,
    credits_pending: int,
    credits_posted: int,
) -> Balance:
    """The balance that four counters amount to."""
    posted, pending, against = credits_posted - debits_posted, credits_pending - debits_pending, debits_pending
    if debit_normal(name, account_type):
        posted, pending, against = -posted, -pending, credits_pending
    return Balance(asset, Money(posted - against, asset), Money(posted, asset), Money(pending, asset))


def receivable(psp: str) -> str:
    """The name of the account of what a PSP owes us."""
    return f"psp:{psp}:receivable"
