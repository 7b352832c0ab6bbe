"""A row of an import file is either a payment that can be asked for, or it is refused by line, field and reason.

What a row says about accounts that nobody has opened yet is decided here too: who pays is a customer, and who receives
a payment is a merchant.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import lru_cache
from typing import NamedTuple

from pasys.domain.account import check_name, reserved
from pasys.domain.transaction import BOOK, Kind, check_shape
from pasys.errors import InvalidInput, Rejected, UnknownRail
from pasys.money import Money, asset_of, parse

COLUMNS = ("key", "kind", "from", "to", "amount", "asset", "rail", "payment_method", "effective_at")
MANDATORY = ("amount", "asset")
KEY_MAX = 255
AMOUNTS_MAX = NAMES_MAX = 100_000  # that are remembered while a file is read
NEAR = 0.85  # how alike a column's name and a known one are, before it is taken for a slip of the pen
_KINDS = {kind.value: kind for kind in Kind}
_FIELD_OF = {"invalid_amount": "amount", "unknown_asset": "asset", "unknown_rail": "rail"}


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the columns stand. What is no column of ours goes into the metadata, under its own name."""

    width: int
    place: dict[str, int]
    others: tuple[tuple[str, int], ...]


class Row(NamedTuple):
    """A row that can be asked for. `line` is the line of the file on which it begins."""

    line: int
    key: str | None
    kind: Kind | None
    debit: str | None
    credit: str | None
    amount: Money
    rail: str
    payment_method: str | None
    effective_at: datetime | None
    metadata: dict[str, str] | None


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be asked for, and why: the field, the rule's name and a sentence."""

    line: int
    key: str | None
    field: str
    rule: str
    message: str


def read_header(names: Sequence[str]) -> Layout:
    """The layout of a file. Raises InvalidInput, which names the column."""
    columns = [name.strip().lower() for name in names]
    for place, name in enumerate(columns):
        if not name:
            raise InvalidInput(field="header", reason=f"column {place + 1} has no name")
        if columns.index(name) != place:
            raise InvalidInput(field=name, reason="the column stands twice in the header")
        near = [] if name in COLUMNS else get_close_matches(name, COLUMNS, n=1, cutoff=NEAR)
        if near:
            raise InvalidInput(field=name, reason=f"there is no such column; {near[0]} is meant")
    place = {name: columns.index(name) for name in COLUMNS if name in columns}
    for name in MANDATORY:
        if name not in place:
            raise InvalidInput(field=name, reason=f"the header lacks this column; it has {', '.join(columns)}")
    if "from" not in place and "to" not in place:
        raise InvalidInput(field="from", reason="the header names neither who pays (from) nor who receives (to)")
    others = tuple((names[at].strip(), at) for at, name in enumerate(columns) if name not in COLUMNS)
    return Layout(len(columns), place, others)


def reader(layout: Layout, rails: Collection[str]) -> Callable[[int, Sequence[str]], Row]:
    """What turns the cells of a line into a Row. It raises InvalidInput, InvalidAmount, UnknownAsset, UnknownRail."""
    at = layout.place.get
    places = [at(name, layout.width) for name in COLUMNS]  # an absent column reads the empty cell behind the last
    key_at, kind_at, from_at, to_at, amount_at, asset_at, rail_at, method_at, effective_at_at = places
    width, others = layout.width, layout.others

    judged = _Judged(rails)
    amounts: dict[tuple[str, str], Money] = {}  # most files say the same few again and again

    def read(line: int, cells: Sequence[str]) -> Row:
        if len(cells) != width:
            raise InvalidInput(field="row", reason=f"it has {len(cells)} fields; the header names {width}")
        cell = [*map(str.strip, cells), ""]
        debit, credit, key = cell[from_at] or None, cell[to_at] or None, cell[key_at] or None
        if key is not None and len(key) > KEY_MAX:
            raise InvalidInput(field="key", reason=f"it has {len(key)} characters; {KEY_MAX} are the most")
        kind, rail, asset = judged[cell[kind_at], cell[rail_at], cell[asset_at], debit is None, credit is None]
        if debit == credit:
            raise InvalidInput(field="to", reason=f"{credit} would pay itself")
        amount = amounts.get((cell[amount_at], asset))
        if amount is None:
            amount = parse(cell[amount_at], asset)
            if len(amounts) < AMOUNTS_MAX:
                amounts[cell[amount_at], asset] = amount
        method, effective_at = cell[method_at] or None, _moment(cell[effective_at_at])
        metadata = {name: cell[at] for name, at in others if cell[at]} or None if others else None
        return Row(line, key, kind, debit, credit, amount, rail, method, effective_at, metadata)

    return read


class _Judged(dict[tuple[str, str, str, bool, bool], tuple[Kind | None, str, str]]):
    """What a row's kind, rail and asset say, with whether it names a payer and a payee: judged once for all alike."""

    def __init__(self, rails: Collection[str]) -> None:
        self._rails = rails

    def __missing__(self, said: tuple[str, str, str, bool, bool]) -> tuple[Kind | None, str, str]:
        kind, rail = _kind(said[0]), said[1] or BOOK
        _check(kind, rail, self._rails, debit=not said[3], credit=not said[4])
        self[said] = kind, rail, asset_of(said[2]).code
        return self[said]


def _check(kind: Kind | None, rail: str, rails: Collection[str], *, debit: bool, credit: bool) -> None:
    if rail not in rails:
        raise UnknownRail(rail=rail, installed=", ".join(sorted(set(rails) - {BOOK})))
    if kind is not None:
        check_shape(kind, debit=debit, credit=credit, rail=rail)
    elif not debit and not credit:
        reason = "name the account that pays (from), the one that receives (to), or both"
        raise InvalidInput(field="from", reason=reason)


def _kind(text: str) -> Kind | None:
    kind = _KINDS.get(text)
    if kind is None and text:
        raise InvalidInput(field="kind", reason=f"{text!r} is none of {', '.join(_KINDS)}")
    return kind


def _moment(text: str) -> datetime | None:
    """A time; one without a zone is UTC, because a file means the same everywhere."""
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        reason = f"{text!r} is no time; write 2026-01-31 or 2026-01-31T12:00:00Z"
        raise InvalidInput(field="effective_at", reason=reason) from None


def bad_row(line: int, key: str | None, no: Rejected) -> BadRow:
    """What is wrong with a row, as it is shown."""
    field = no.facts.get("field") or _FIELD_OF.get(no.code, "row")
    return BadRow(line, key, str(field), no.code, str(no))


def accounts_of(row: Row) -> list[tuple[str, str]]:
    """The accounts that a row needs, as (name, type): who pays is a customer, who receives a payment a merchant.

    Public ids and the system's own names are left out: nobody opens those. Raises InvalidInput for what cannot be a
    name.
    """
    payment = row.kind is Kind.PAYMENT or (row.kind is None and row.rail != BOOK and row.debit is not None)
    found = []
    if row.debit is not None and _opened(row.debit, "customer", "from"):
        found.append((row.debit, "customer"))
    receiver = "merchant" if payment else "customer"
    if row.credit is not None and _opened(row.credit, receiver, "to"):
        found.append((row.credit, receiver))
    return found


@lru_cache(maxsize=NAMES_MAX)
def _opened(name: str, account_type: str, field: str) -> bool:
    """Whether this is the name of an account that somebody opens. Raises InvalidInput."""
    if name.startswith("acc_") or reserved(name):
        return False
    try:
        check_name(name, account_type)
    except InvalidInput as no:
        raise InvalidInput(field=field, reason=f"{name!r} is no account's name: {no.facts['reason']}") from None
    return True
