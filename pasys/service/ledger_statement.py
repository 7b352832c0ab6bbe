"""A statement shows an account's movements in a period, page by page, with what was there before and after each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pasys.db import Unit, queries
from pasys.domain.ledger import Purpose
from pasys.errors import HistoryMissing, InvalidInput
from pasys.money import Money
from pasys.service import ledger_moment
from pasys.service.ledger_moment import Moment

SQL = queries("ledger_history")
_TICK = timedelta(microseconds=1)  # the database's: nothing is between two of them
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class StatementLine:
    """One movement on an account: `amount` is signed from the account's own side, `balance` what it left behind."""

    at: datetime
    seq: int
    transfer_id: Any
    purpose: Purpose
    counterparty: str | None
    amount: Money
    balance: Money
    reference: str | None


@dataclass(frozen=True, slots=True)
class Statement:
    """The movements of a period, or a page of them. `truncated`: there are more lines than were asked for, `closing` is
    not yet that of the period, and the next page is that after the row `next`."""

    account: str
    asset: str
    opening: Money
    lines: list[StatementLine]
    closing: Money
    truncated: bool
    next: int | None


@dataclass(frozen=True, slots=True)
class _Page:
    """Where a page begins: behind the row `after` among those at a time; all that was before amounts to `opening`."""

    at: datetime
    after: int
    low: int
    opening: int


async def page(
    unit: Unit,
    account: Any,
    sign: int,
    *,
    since: datetime | None,
    until: datetime | None,
    by: str,
    limit: int,
    after: int | None,
) -> Statement:
    """A page of an account's movements in [since, until), those behind the row `after`. `account` is its row.

    `sign` is -1 where the account's normal side is the debit. Raises HistoryMissing, InvalidInput.
    """
    now = await ledger_moment.present(unit, account.asset)
    end = None if until is None else await ledger_moment.find(unit, account.asset, _before(until), who=account.name)
    start = await _start(unit, account, now, since=since, by=by, after=after)
    high = now.last_seq if end is None else min(end.seq, now.last_seq)
    values = {"asset": account.asset, "account": account.id, "low": start.low, "high": high, "limit": limit + 1}
    if by == "effective":
        values |= {"at": start.at, "after": start.after, "until": until or _LAST, "last_seq": now.last_seq}
    rows = await unit.rows(SQL[f"lines_by_{by}"], **values)
    if not rows and not start.opening and until is not None and until <= account.opened_at:
        raise HistoryMissing(account=account.name, at=until.isoformat())
    return _statement(account, sign, start.opening, rows, limit)


async def _start(unit: Unit, account: Any, now: Moment, *, since: datetime | None, by: str, after: int | None) -> _Page:
    if after is not None:
        return await _behind(unit, account, now, after, by)
    if since is not None:
        moment = await ledger_moment.find(unit, account.asset, _before(since), who=account.name)
        opening, _ = await ledger_moment.balance(unit, account.id, moment, by)
        return _Page(since, 0, moment.seq, opening)
    opening, _ = await ledger_moment.balance(unit, account.id, now, "recorded")
    if by == "effective":
        opening -= await ledger_moment.kept(unit, account.id, now)
    return _Page(_FIRST, 0, now.seq, opening)


async def _behind(unit: Unit, account: Any, now: Moment, after: int, by: str) -> _Page:
    """The page behind a row."""
    place: dict[str, Any] = {"asset": account.asset, "account": account.id}
    line = await unit.row(SQL["line"], seq=after, **place)
    if line is None:
        if after <= now.archived_seq:
            raise await ledger_moment.archived(unit, account.asset, who=account.name, seq=after)
        raise InvalidInput(field="after", reason=f"row {after} of {account.asset} moves nothing on {account.name}")
    if by == "recorded":
        place |= {"archived_seq": now.archived_seq}
        return _Page(line.recorded_at, after, after, await unit.value(SQL["balance"], seq=after, **place) or 0)
    # Rows of one time may stand on both sides of where the journal begins, and rows of any time behind it.
    tick, lenient = line.effective_at - _TICK, {"who": account.name, "strict": False}
    before = await ledger_moment.find(unit, account.asset, tick, **lenient)
    moment = await ledger_moment.find(unit, account.asset, line.effective_at, **lenient)
    moment = replace(moment, seq=min(max(after, before.seq), moment.seq))
    opening, _ = await ledger_moment.balance(unit, account.id, moment, by, after=after)
    return _Page(moment.at, after, before.seq, opening)


def _before(at: datetime) -> datetime:
    return at if at == _FIRST else at - _TICK


def _statement(account: Any, sign: int, opening: int, rows: list[Any], limit: int) -> Statement:
    running = opening
    lines: list[StatementLine] = []
    for row in rows[:limit]:
        running += row.change
        lines.append(
            StatementLine(
                at=row.at,
                seq=row.seq,
                transfer_id=row.id,
                purpose=Purpose(row.code),
                counterparty=row.counterparty,
                amount=Money(sign * row.change, account.asset),
                balance=Money(sign * running, account.asset),
                reference=row.reference,
            )
        )
    truncated = len(rows) > limit
    return Statement(
        account=account.name,
        asset=account.asset,
        opening=Money(sign * opening, account.asset),
        lines=lines,
        closing=Money(sign * running, account.asset),
        truncated=truncated,
        next=lines[-1].seq if truncated else None,
    )
