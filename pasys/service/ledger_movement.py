"""An account's movements from the newest backwards, as the books have them, each with the balance it left behind."""

from __future__ import annotations

from datetime import datetime

from pasys.db import Unit, queries
from pasys.domain.account import debit_normal
from pasys.domain.ledger import Purpose
from pasys.errors import InvalidInput
from pasys.money import Money
from pasys.service.account import AccountRow
from pasys.service.ledger_history import LIMIT_MAX, StatementLine

SQL = queries("ledger_movement")


async def heads(unit: Unit) -> dict[str, int]:
    """The seq of the last transfer of each asset that has accounts."""
    return {row.code: row.last_seq for row in await unit.rows(SQL["heads"])}


async def latest(
    unit: Unit, account: AccountRow, *, at: datetime | None = None, before: int | None = None, limit: int = 100
) -> list[StatementLine]:
    """Movements in falling order of seq: the newest ones, those up to a time, or those before a seq.

    A line's `at` is when the books had it. Raises InvalidInput for a limit that is none.
    """
    if not 1 <= limit <= LIMIT_MAX:
        raise InvalidInput(field="limit", reason=f"1 to {LIMIT_MAX}")
    seq = before - 1 if before is not None else (await heads(unit)).get(account.asset, 0)
    if at is not None:
        seq = min(seq, await unit.value(SQL["seq_at"], asset=account.asset, at=at))
    rows = await unit.rows(SQL["movements"], asset=account.asset, account=account.number, seq=seq, limit=limit)
    sign = -1 if debit_normal(account.name, account.type) else 1
    return [
        StatementLine(
            at=row.at,
            seq=row.seq,
            transfer_id=row.id,
            purpose=Purpose(row.code),
            counterparty=row.counterparty,
            amount=Money(sign * row.change, account.asset),
            balance=Money(sign * row.balance, account.asset),
            reference=row.reference,
        )
        for row in rows
    ]
