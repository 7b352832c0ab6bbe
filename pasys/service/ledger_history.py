"""What the books say, now or at any time: balances, journal rows, statements, open holds, the trial balance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from pasys.db import Unit, queries
from pasys.domain.account import Balance, balance, clearing, debit_normal
from pasys.domain.ledger import Hold, Kind, Purpose, Result
from pasys.errors import AccountNotFound, HistoryMissing, InvalidInput
from pasys.ids import account_id
from pasys.money import Money, asset_of

SQL = queries("ledger")
LIMIT_MAX = 10_000
By = Literal["effective", "recorded"]


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
class StatementLine:
    """One movement on an account: `amount` is signed from the account's own side, `balance` what it left behind."""

    at: datetime
    seq: int
    transfer_id: UUID
    purpose: Purpose
    counterparty: str | None
    amount: Money
    balance: Money
    reference: str | None


@dataclass(frozen=True, slots=True)
class Statement:
    """The movements of a period. `truncated`: there are more lines than were asked for, and `closing` is not yet that
    of the period."""

    account: str
    asset: str
    opening: Money
    lines: list[StatementLine]
    closing: Money
    truncated: bool


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
    """Journal rows of an asset in commit order, all or one account's, after a seq."""
    values = {"asset": asset_of(asset).code, "after_seq": after_seq or 0, "limit": _limit(limit)}
    if account is None:
        return [_transfer_row(row) for row in await unit.rows(SQL["transfers"], **values)]
    return [_transfer_row(row) for row in await unit.rows(SQL["transfers_of_account"], account=account, **values)]


async def transfers_by_id(unit: Unit, ids: Sequence[UUID]) -> list[TransferRow]:
    """Journal rows by id: the lines of a transaction or refund. Ids that the journal does not have are left out."""
    return [_transfer_row(row) for row in await unit.rows(SQL["transfers_by_id"], ids=list(ids))]


async def holds(unit: Unit, ids: Sequence[UUID]) -> dict[UUID, Hold]:
    """Those of these holds that are still open. `hold.expired(unit.now)` says whether one may still be posted."""
    return {row.id: _hold(row) for row in await unit.rows(SQL["holds"], ids=list(ids))}


async def expired_holds(unit: Unit, limit: int = 100) -> list[Hold]:
    """Open holds that are past their deadline and wait to be voided, the oldest first."""
    return [_hold(row) for row in await unit.rows(SQL["expired_holds"], now=unit.now, limit=_limit(limit))]


async def balance_at(unit: Unit, account: int, at: datetime, *, by: By = "effective") -> Money:
    """What was posted on an account at a time: by when transfers counted, or by when the books had them.

    Raises AccountNotFound, and HistoryMissing for a time before the account existed.
    """
    row = await _account(unit, account)
    found = await unit.row(SQL["balance_at"], account=account, asset=row.asset, at=at, by=_by(by))
    assert found is not None
    if not found.found and at < row.opened_at:
        raise HistoryMissing(account=row.name, at=at.isoformat())
    return Money(_sign(row) * found.balance, row.asset)


async def statement(
    unit: Unit,
    account: int,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    by: By = "effective",
    limit: int = 1_000,
) -> Statement:
    """An account's movements in [since, until), with the balance before, after, and after each.

    Raises AccountNotFound, and HistoryMissing for a period that ends before the account existed.
    """
    row = await _account(unit, account)
    values = {"account": account, "asset": row.asset, "by": _by(by)}
    lines = await unit.rows(SQL["statement"], since=since, until=until, limit=_limit(limit) + 1, **values)
    opening = 0
    if since is not None:
        just_before = await unit.row(SQL["balance_at"], at=since - timedelta(microseconds=1), **values)
        assert just_before is not None, "it always answers"
        opening = just_before.balance
    if not lines and not opening and until is not None and until <= row.opened_at:
        raise HistoryMissing(account=row.name, at=until.isoformat())
    sign, running = _sign(row), opening
    shown: list[StatementLine] = []
    for line in lines[:limit]:
        running += line.change
        shown.append(
            StatementLine(
                at=line.at,
                seq=line.seq,
                transfer_id=line.id,
                purpose=Purpose(line.code),
                counterparty=line.counterparty,
                amount=Money(sign * line.change, row.asset),
                balance=Money(sign * running, row.asset),
                reference=line.reference,
            )
        )
    truncated = len(lines) > limit
    return Statement(
        row.name, row.asset, Money(sign * opening, row.asset), shown, Money(sign * running, row.asset), truncated
    )


async def trial_balance(unit: Unit, *, at: datetime | None = None, by: By = "effective") -> list[TrialRow]:
    """Debits and credits by asset and type, system accounts by name; per asset the debits equal the credits.

    With `at`, as of a time: by when transfers counted, or by when the books had them.
    """
    if at is None:
        return [await _trial_row(unit, row, unit.now) for row in await unit.rows(SQL["trial_balance"])]
    rows = await unit.rows(SQL["trial_balance_at"], at=at, by=_by(by))
    return [await _trial_row(unit, row, None) for row in rows]


async def _trial_row(unit: Unit, row: Any, now: datetime | None) -> TrialRow:
    """`now` is None for a time in the past: how long an account had been open then is not looked up."""
    debits, credits = int(row.debits), int(row.credits)
    since = None
    if now is not None and debits != credits and row.name is not None and clearing(row.name, row.type):
        since = await unit.value(SQL["open_since"], account=row.id)
    return TrialRow(
        asset=row.asset,
        type=row.type,
        name=row.name,
        accounts=row.accounts,
        debits=Money(debits, row.asset),
        credits=Money(credits, row.asset),
        net=Money(debits - credits, row.asset),
        open_since=since,
        age=None if since is None or now is None else now - since,
    )


async def _account(unit: Unit, number: int) -> Any:
    row = await unit.row(SQL["accounts"], numbers=[number])
    if row is None:
        raise AccountNotFound(account=account_id(number))
    return row


def _sign(row: Any) -> int:
    return -1 if debit_normal(row.name, row.type) else 1


def _by(by: str) -> str:
    if by not in ("effective", "recorded"):
        raise InvalidInput(field="by", reason=f"{by!r} is not one of effective, recorded")
    return by


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
