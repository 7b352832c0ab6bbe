"""Transactions as rows, for every face: one, many by filter, history, attempts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, CompoundSelect, Select, false, select, union_all

from pasys import ids
from pasys.db import Unit, queries
from pasys.domain.transaction import Kind, Status
from pasys.errors import InvalidInput, TransactionNotFound
from pasys.money import Money, asset_of
from pasys.schema import account as account_table
from pasys.schema import transaction as table

SQL = queries("transaction")
LISTING_MAX = 10_000
_debit, _credit = account_table.alias("debit"), account_table.alias("credit")


@dataclass(frozen=True, slots=True)
class TransactionRow:
    """A transaction as it stands. `review` says that a person has to decide whether it is fraud."""

    id: str
    kind: str
    rail: str
    status: str
    outcome: str | None
    review: bool
    amount: Money
    debit: str
    credit: str
    reason: str | None
    captured_minor: int
    fee_minor: int
    refunding_minor: int
    refunded_minor: int
    payment_method: str | None
    psp_reference: str | None
    charge_reference: str | None
    parent_id: str | None
    batch_id: str | None
    actor: str
    metadata: Mapping[str, Any] | None
    settling_at: datetime | None
    effective_at: datetime
    created_at: datetime
    final_at: datetime | None

    @property
    def refundable(self) -> Money:
        """What was captured and is neither back nor promised to a refund."""
        return Money(self.captured_minor - self.refunding_minor - self.refunded_minor, self.amount.asset)


@dataclass(frozen=True, slots=True)
class HistoryRow:
    from_status: str | None
    to_status: str
    at: datetime
    reason: str | None
    event_id: str | None
    actor: str | None


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One step at a PSP: what was asked, and what it said."""

    entity_id: str
    step: str
    psp: str
    asset: str
    amount_minor: int
    outcome: str
    psp_reference: str | None
    auth_code: str | None
    processor_code: str | None
    reason: str | None
    latency_ms: int | None
    asked: int
    requested_at: datetime
    finished_at: datetime | None


async def get(unit: Unit, transaction_id: str) -> TransactionRow:
    """One transaction. Raises TransactionNotFound."""
    rows = await unit.execute(_selected().where(table.c.id == transaction_id))
    if not rows:
        raise TransactionNotFound(transaction_id=transaction_id)
    return _row(rows[0])


async def listing(
    unit: Unit,
    *,
    status: str | None = None,
    kind: str | None = None,
    rail: str | None = None,
    asset: str | None = None,
    account: str | None = None,
    batch: str | None = None,
    outcome: str | None = None,
    review: bool | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    above: Money | None = None,
    below: Money | None = None,
    after: str | None = None,
    limit: int = 50,
) -> list[TransactionRow]:
    """Transactions, newest first; `after` is the last id of the page before. Raises InvalidInput for unknown values.

    `above` and `below` are bounds of the amount, in the asset that they are of; the bound itself is left out.
    """
    if not 1 <= limit <= LISTING_MAX:
        raise InvalidInput(field="limit", reason=f"it is 1 to {LISTING_MAX}")
    where: list[ColumnElement[bool]] = []
    for column, value, known in (
        (table.c.status, status, Status),
        (table.c.kind, kind, Kind),
        (table.c.outcome, outcome, ("unknown",)),
    ):
        if value is not None:
            if value not in [str(item) for item in known]:
                raise InvalidInput(field=column.name, reason=f"{value!r} is none of {', '.join(map(str, known))}")
            where.append(column == value)
    if asset is not None:
        where.append(table.c.asset == asset_of(asset).code)
    for column, value in ((table.c.rail, rail), (table.c.batch_id, batch), (table.c.review, review)):
        if value is not None:
            where.append(column == value)
    if since is not None:
        where.append(table.c.created_at >= since)
    if until is not None:
        where.append(table.c.created_at < until)
    if above is not None:
        where += [table.c.asset == above.asset, table.c.amount_minor > above.minor]
    if below is not None:
        where += [table.c.asset == below.asset, table.c.amount_minor < below.minor]
    if after is not None:
        where.append(table.c.id < after)
    if account is not None:
        where = [table.c.id.in_(_newest(await _numbers(unit, account), where, limit))]
    chosen = _selected().where(*where).order_by(table.c.id.desc()).limit(limit)
    return [_row(row) for row in await unit.execute(chosen)]


async def _numbers(unit: Unit, account: str) -> list[int]:
    """The numbers of an account: one by its id, one in each asset by its name."""
    number = ids.account_number(account)
    if number is not None:
        return [number]
    return [row["id"] for row in await unit.execute(select(account_table.c.id).where(account_table.c.name == account))]


def _newest(numbers: Sequence[int], where: Sequence[ColumnElement[bool]], limit: int) -> CompoundSelect[str]:
    """The ids of the newest on either side of these accounts, each side by itself, as there is an index for each. Asked
    for both at once, the server reads all transactions, however few are theirs."""
    sides = [side == number for number in numbers for side in (table.c.debit_account, table.c.credit_account)]
    chosen = [
        select(table.c.id).where(side, *where).order_by(table.c.id.desc()).limit(limit).subquery().select()
        for side in sides or [false()]
    ]
    return union_all(*chosen)


async def history(unit: Unit, transaction_id: str) -> list[HistoryRow]:
    """How a transaction came to be what it is, oldest first."""
    return [HistoryRow(*row) for row in await unit.rows(SQL["history"], id=transaction_id)]


async def attempts(unit: Unit, transaction_id: str) -> list[AttemptRow]:
    """Every step at a PSP, for a transaction and its refunds."""
    return [AttemptRow(*row) for row in await unit.rows(SQL["attempts"], id=transaction_id)]


def _selected() -> Select[Any]:
    joined = table.join(_debit, _debit.c.id == table.c.debit_account).join(
        _credit, _credit.c.id == table.c.credit_account
    )
    return select(table, _debit.c.name.label("debit"), _credit.c.name.label("credit")).select_from(joined)


def _row(row: Any) -> TransactionRow:
    return TransactionRow(
        id=row["id"],
        kind=row["kind"],
        rail=row["rail"],
        status=row["status"],
        outcome=row["outcome"],
        review=row["review"],
        amount=Money(row["amount_minor"], row["asset"]),
        debit=row["debit"],
        credit=row["credit"],
        reason=row["reason"],
        captured_minor=row["captured_minor"],
        fee_minor=row["fee_minor"],
        refunding_minor=row["refunding_minor"],
        refunded_minor=row["refunded_minor"],
        payment_method=row["payment_method"],
        psp_reference=row["psp_reference"],
        charge_reference=row["charge_reference"],
        parent_id=row["parent_id"],
        batch_id=row["batch_id"],
        actor=row["actor"],
        metadata=row["metadata"],
        settling_at=row["settling_at"],
        effective_at=row["effective_at"],
        created_at=row["created_at"],
        final_at=row["final_at"],
    )
