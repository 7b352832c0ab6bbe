"""A row of an import file is either a payment that can be asked for, or it is refused by line, field and reason.

What a row says about accounts that nobody has opened yet is decided here too: who pays is a customer, and who receives
a payment is a merchant.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
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
class Rows:
    """Rows as columns, a field of Row each: a row by itself costs more than all that is found out about it.

    `asset` has the codes of the amounts' assets.
    """

    line: Sequence[int]
    key: Sequence[str | None]
    kind: Sequence[Kind | None]
    debit: Sequence[str | None]
    credit: Sequence[str | None]
    amount: Sequence[Money]
    rail: Sequence[str]
    payment_method: Sequence[str | None]
    effective_at: Sequence[datetime | None]
    metadata: Sequence[dict[str, str] | None]
    asset: Sequence[str]

    def __len__(self) -> int:
        return len(self.line)

    def __getitem__(self, at: int) -> Row:
        return Row(*[getattr(self, name)[at] for name in Row._fields])


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


def reader(layout: Layout, rails: Collection[str]) -> Callable[[Sequence[int], Sequence[Sequence[str]]], Rows]:
    """What turns lines, of which it takes numbers and cells, into Rows.

    It raises InvalidInput, InvalidAmount, UnknownAsset or UnknownRail where one of them is wrong, and says what is
    where there is but one.
    """
    judged, amounts = _Judged(rails), _Amounts()

    def read(lines: Sequence[int], cells: Sequence[Sequence[str]]) -> Rows:
        for count in {*map(len, cells)} - {layout.width}:
            raise InvalidInput(field="row", reason=f"it has {count} fields; the header names {layout.width}")
        none, absent = [[]] * layout.width, [""] * len(lines)
        columns = [[*map(str.strip, column)] for column in zip(*cells, strict=True)] or none
        said = {name: columns[layout.place[name]] if name in layout.place else absent for name in COLUMNS}
        long = max(map(len, said["key"]), default=0)
        if long > KEY_MAX:
            raise InvalidInput(field="key", reason=f"it has {long} characters; {KEY_MAX} are the most")
        debit, credit = _optional(said["from"]), _optional(said["to"])
        named = [name is None for name in debit], [name is None for name in credit]
        verdicts = [judged[one] for one in zip(said["kind"], said["rail"], said["asset"], *named, strict=True)]
        asset = [verdict[2] for verdict in verdicts]
        for name in [name for name, other in zip(debit, credit, strict=True) if name == other][:1]:
            raise InvalidInput(field="to", reason=f"{name} would pay itself")
        return Rows(
            line=lines,
            key=_optional(said["key"]),
            kind=[verdict[0] for verdict in verdicts],
            debit=debit,
            credit=credit,
            amount=[amounts[one] for one in zip(said["amount"], asset, strict=True)],
            rail=[verdict[1] for verdict in verdicts],
            payment_method=_optional(said["payment_method"]),
            effective_at=[*map(_moment, said["effective_at"])] if any(said["effective_at"]) else [None] * len(lines),
            metadata=_metadata({name: columns[at] for name, at in layout.others}, len(lines)),
            asset=asset,
        )

    return read


def _optional(texts: list[str]) -> list[str | None]:
    return [text or None for text in texts]


def _metadata(columns: Mapping[str, list[str]], count: int) -> list[dict[str, str] | None]:
    if not columns:
        return [None] * count
    return [
        {name: text for name, text in zip(columns, texts, strict=True) if text} or None
        for texts in zip(*columns.values(), strict=True)
    ]


class _Amounts(dict[tuple[str, str], Money]):
    """Amounts by text and asset: most files say the same few again and again."""

    def __missing__(self, said: tuple[str, str]) -> Money:
        amount = parse(*said)
        if len(self) < AMOUNTS_MAX:
            self[said] = amount
        return amount


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


def accounts_of(rows: Rows, known: Mapping[tuple[str, str], str]) -> dict[tuple[str, str], str]:
    """The accounts that rows need and `known` lacks, or has as another type, by (name, asset): who pays is a customer,
    and who receives a payment a merchant; who sells also buys.

    Public ids and the system's own names are left out: nobody opens those. Raises InvalidInput where one cannot be a
    name.
    """
    sides = zip(rows.kind, rows.rail, rows.debit, rows.credit, rows.asset, strict=True)
    paid = {(credit, asset) for kind, rail, debit, credit, asset in sides if _pays(kind, rail, debit)}
    payers = {one for one in zip(rows.debit, rows.asset, strict=True) if one not in known}
    others = {one for one in zip(rows.credit, rows.asset, strict=True) if one not in known} - paid
    merchants = {(name, asset) for name, asset in paid if name and known.get((name, asset)) != "merchant"}
    found: dict[tuple[str, str], str] = {}
    roles = ((payers, "customer", "from"), (others, "customer", "to"), (merchants, "merchant", "to"))
    for wanted, account_type, field in roles:
        for name, asset in wanted:
            if name is not None and _opened(name, account_type, field):
                found[name, asset] = account_type
    return found


def _pays(kind: Kind | None, rail: str, debit: str | None) -> bool:
    return kind is Kind.PAYMENT or (kind is None and rail != BOOK and debit is not None)


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
