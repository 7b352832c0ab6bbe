"""What the books say, now or at any time: balances, journal rows, statements, open holds, the trial balance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from pasys.db import Unit, queries
from pasys.domain.account import Balance, balance, clearing, debit_normal
from pasys.domain.ledger import Hold, Kind, Purpose, Result
from pasys.errors import AccountNotFound, HistoryArchived, HistoryMissing, InvalidInput
from pasys.ids import account_id
from pasys.money import Money, asset_of
from pasys.service import ledger_moment, ledger_statement
from pasys.service.ledger_moment import By, Moment
from pasys.service.ledger_statement import Statement, StatementLine

__all__ = ["By", "Statement", "StatementLine", "TransferRow", "TrialRow"]  # with the verbs below

SQL = queries("ledger")
HISTORY = queries("ledger_history")
LIMIT_MAX = 10_000


@dataclass(frozen=True, slots=True)
class TransferRow:
    """A row of the journal. The balances are credits minus debits, after this transfer."""

    asset: str
    seq: int
    id: UUID
    kind: Kind
    purpose: Purpose
    result: Result
    debit: int
    credit: int
    debit_name: str | None
    credit_name: str | None
    amount: Money
    pending_id: UUID | None
    corrects: UUID | None
    debit_version: int
    credit_version: int
    debit_balance: int
    credit_balance: int
    effective_at: datetime
    recorded_at: datetime
    reference: str | None


@dataclass(frozen=True, slots=True)
class ArchivedRow:
    """A row of the journal that is in an archive."""

    id: UUID
    asset: str
    seq: int
    file: str


@dataclass(frozen=True, slots=True)
class TrialRow:
    """All accounts of one type, or one system account (then `name` is its name). The nets of an asset sum to zero.

    `open_since` and `age` are those of a clearing account that has not returned to zero.
    """

    asset: str
    type: str
    name: str | None
    accounts: int
    debits: Money
    credits: Money
    net: Money
    open_since: datetime | None
    age: timedelta | None


async def balances(unit: Unit, numbers: Sequence[int]) -> dict[int, Balance]:
    """The balances of accounts by number. Raises AccountNotFound."""
    found = {row.id: _balance(row) for row in await unit.rows(SQL["accounts"], numbers=list(numbers))}
    for number in numbers:
        if number not in found:
            raise AccountNotFound(account=account_id(number))
    return found


async def transfers(
    unit: Unit, *, asset: str, account: int | None = None, after_seq: int | None = None, limit: int = 100
) -> list[TransferRow]:
    """Journal rows of an asset in commit order, all or one account's, after a seq, or else from where it begins.

    Raises HistoryArchived for a seq behind which rows are archived.
    """
    code = asset_of(asset).code
    await ledger_moment.stay(unit)
    archived_seq = await unit.value(HISTORY["archived_seq"], asset=code) or 0
    if after_seq is not None and after_seq < archived_seq:
        raise await ledger_moment.archived(unit, code, who=f"the books of {code}", seq=after_seq + 1)
    values = {"asset": code, "after_seq": after_seq or 0, "limit": _limit(limit)}
    if account is None:
        return [_transfer_row(row) for row in await unit.rows(SQL["transfers"], **values)]
    return [_transfer_row(row) for row in await unit.rows(SQL["transfers_of_account"], account=account, **values)]


async def transfers_by_id(unit: Unit, ids: Sequence[UUID]) -> list[TransferRow]:
    """Journal rows by id: the lines of a transaction or refund. Ids that the journal does not have are left out."""
    return [_transfer_row(row) for row in await unit.rows(SQL["transfers_by_id"], ids=list(ids))]


async def archived_by_id(unit: Unit, ids: Sequence[UUID]) -> list[ArchivedRow]:
    """Of these ids, those whose rows are archived: transfers_by_id leaves them out."""
    await ledger_moment.stay(unit)
    return [ArchivedRow(*row) for row in await unit.rows(SQL["archived_by_id"], ids=list(ids))]


async def require_rows(unit: Unit, ids: Sequence[UUID]) -> None:
    """Raises HistoryArchived where the row of any of these ids is in an archive."""
    if not ids:
        return
    for row in await archived_by_id(unit, ids):
        raise HistoryArchived(account=f"transfer {row.id}", at=f"row {row.seq} of {row.asset}", file=row.file)


async def holds(unit: Unit, ids: Sequence[UUID]) -> dict[UUID, Hold]:
    """Those of these holds that are still open. `hold.expired(unit.now)` says whether one may still be posted."""
    return {row.id: _hold(row) for row in await unit.rows(SQL["holds"], ids=list(ids))}


async def expired_holds(unit: Unit, limit: int = 100) -> list[Hold]:
    """Open holds that are past their deadline and wait to be voided, the oldest first."""
    return [_hold(row) for row in await unit.rows(SQL["expired_holds"], now=unit.now, limit=_limit(limit))]


async def balance_at(unit: Unit, account: int, at: datetime, *, by: By = "effective") -> Money:
    """What was posted on an account at a time: by when transfers counted, or by when the books had them.

    Raises AccountNotFound, and HistoryMissing for a time before the account existed, or whose rows are archived.
    """
    clock = ledger_moment.check(by)
    row = await _account(unit, account)
    moment = await ledger_moment.find(unit, row.asset, at, who=row.name)
    minor, found = await ledger_moment.balance(unit, account, moment, clock)
    if not found and at < row.opened_at:
        raise HistoryMissing(account=row.name, at=at.isoformat())
    return Money(_sign(row) * minor, row.asset)


async def statement(
    unit: Unit,
    account: int,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    by: By = "effective",
    limit: int = 1_000,
    after: int | None = None,
) -> Statement:
    """An account's movements in [since, until), with the balance before, after, and after each.

    `after` is the row that the page before ended with (its `next`). Without `since` it begins where the journal does.
    Raises AccountNotFound, InvalidInput, and HistoryMissing for a period that ends before the account existed, or whose
    rows are archived.
    """
    clock, row = ledger_moment.check(by), await _account(unit, account)
    return await ledger_statement.page(
        unit, row, _sign(row), since=since, until=until, by=clock, limit=_limit(limit), after=after
    )


async def trial_balance(unit: Unit, *, at: datetime | None = None, by: By = "effective") -> list[TrialRow]:
    """Debits and credits by asset and type, system accounts by name; per asset the debits equal the credits.

    With `at`, as of a time: by when transfers counted, or by when the books had them. How long a clearing account had
    been open is always said by the books. Raises HistoryMissing where an asset's rows of that time are archived.
    """
    clock = ledger_moment.check(by)
    assets = [code for (code,) in await unit.rows(SQL["assets"])]
    if at is not None:
        found = [await ledger_moment.find(unit, asset, at, who=f"the books of {asset}") for asset in assets]
        return [made for moment in found for made in await _trial_balance_at(unit, moment, clock)]
    ends = {asset: await ledger_moment.present(unit, asset) for asset in assets}
    rows = await unit.rows(HISTORY["trial_balance"])
    return [await _trial_row(unit, row, replace(ends[row.asset], seq=ends[row.asset].last_seq)) for row in rows]


async def _trial_balance_at(unit: Unit, moment: Moment, by: str) -> list[TrialRow]:
    """One asset's, added up from whichever end is nearer."""
    from_now = moment.last_seq - moment.seq <= moment.seq - moment.archived_seq
    values = {"asset": moment.asset, "at": moment.at, "seq": moment.seq, "dated": by == "effective"}
    if from_now:
        rows = await unit.rows(HISTORY["trial_balance_from_now"], **values)
    else:
        rows = await unit.rows(HISTORY["trial_balance_from_then"], archived_seq=moment.archived_seq, **values)
    return [await _trial_row(unit, row, moment) for row in rows]


async def _trial_row(unit: Unit, row: Any, moment: Moment) -> TrialRow:
    debits, credits = int(row.debits), int(row.credits)
    since = None
    if debits != credits and row.name is not None and clearing(row.name, row.type):
        place = {"asset": row.asset, "seq": moment.seq, "archived_seq": moment.archived_seq}
        since = await unit.value(HISTORY["open_since"], account=row.id, **place)
    return TrialRow(
        asset=row.asset,
        type=row.type,
        name=row.name,
        accounts=row.accounts,
        debits=Money(debits, row.asset),
        credits=Money(credits, row.asset),
        net=Money(debits - credits, row.asset),
        open_since=since,
        age=None if since is None else moment.at - since,
    )


async def _account(unit: Unit, number: int) -> Any:
    row = await unit.row(SQL["accounts"], numbers=[number])
    if row is None:
        raise AccountNotFound(account=account_id(number))
    return row


def _sign(row: Any) -> int:
    return -1 if debit_normal(row.name, row.type) else 1


def _limit(limit: int) -> int:
    if not 1 <= limit <= LIMIT_MAX:
        raise InvalidInput(field="limit", reason=f"1 to {LIMIT_MAX}")
    return limit


def _balance(row: Any) -> Balance:
    return balance(
        row.name,
        row.type,
        row.asset,
        debits_pending=row.debits_pending,
        debits_posted=row.debits_posted,
        credits_pending=row.credits_pending,
        credits_posted=row.credits_posted,
    )


def _hold(row: Any) -> Hold:
    return Hold(
        id=row.id,
        debit=row.debit,
        credit=row.credit,
        amount_minor=row.amount,
        asset=row.asset,
        expires_at=row.expires_at,
        reference=row.reference,
    )


def _transfer_row(row: Any) -> TransferRow:
    return TransferRow(
        asset=row.asset,
        seq=row.seq,
        id=row.id,
        kind=Kind(row.kind),
        purpose=Purpose(row.code),
        result=Result(row.result),
        debit=row.debit,
        credit=row.credit,
        debit_name=row.debit_name,
        credit_name=row.credit_name,
        amount=Money(row.amount, row.asset),
        pending_id=row.pending_id,
        corrects=row.corrects,
        debit_version=row.debit_version,
        credit_version=row.credit_version,
        debit_balance=row.debit_balance,
        credit_balance=row.credit_balance,
        effective_at=row.effective_at,
        recorded_at=row.recorded_at,
        reference=row.reference,
    )
