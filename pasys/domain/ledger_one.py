"""A transfer that comes alone is judged in plain integers: it has no order to consider, and arrays of one cost more
than everything else that happens to it. The rules are those of ledger_rules.py, asked in the order of their numbers.
"""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime

import numpy as np

from pasys.domain.ledger import CLOSED, FROZEN, Hold, Kind, Result, Transfer
from pasys.domain.ledger_batch import Accounts, Books, Changes, Verdict
from pasys.domain.ledger_columns import Columns
from pasys.domain.ledger_sequence import Counters, hold_rule, release, smallest


def judge_one(columns: Columns, books: Books) -> Verdict:
    """The answer to a batch of one transfer, and the rows that follow from it."""
    transfer = columns[0]
    known = books.earlier.get(transfer.id)
    if known is not None:
        again = known.repeated_by(transfer)
        return _verdict(known.result if again else Result.ID_CONFLICT, known.seq if again else 0, replayed=again)
    debit, credit = _side(transfer.debit, books.accounts), _side(transfer.credit, books.accounts)
    hold = None if transfer.pending_id is None else books.holds.get(transfer.pending_id)
    rule = rule_of(transfer, debit, credit, hold, books.now)
    if rule or debit is None or credit is None:
        return _verdict(rule, books.last_seq + 1, recorded=True)
    move(transfer, debit, credit, hold)
    return _verdict(rule, books.last_seq + 1, recorded=True, sides=(debit, credit))


class Side(Counters):
    """The account on one side of a transfer, as it is before and then behind it."""

    __slots__ = ("foreign", "number", "status", "version")

    def __init__(self, number: int, foreign: bool, flags: int, status: int, version: int, *sums: int) -> None:
        """`sums` in the order of Accounts."""
        super().__init__(flags, *sums)
        self.number, self.foreign, self.status, self.version = number, foreign, status, version

    @property
    def balance(self) -> int:
        return self.credits_posted - self.debits_posted

    def changes(self) -> tuple[int, ...]:
        """In the order of Changes."""
        sums = (self.debits_pending, self.debits_posted, self.credits_pending, self.credits_posted)
        return (self.number, self.version, *sums)


def _side(number: int, accounts: Accounts) -> Side | None:
    """None where there is no such account."""
    numbers = accounts.number.tolist()
    if number not in numbers:
        return None
    at = numbers.index(number)
    return Side(*[getattr(accounts, field.name)[at].item() for field in fields(accounts)])


def rule_of(transfer: Transfer, debit: Side | None, credit: Side | None, hold: Hold | None, now: datetime) -> Result:
    """The rule that refuses a transfer, if any."""
    if transfer.amount_minor <= 0:
        return Result.AMOUNT_NOT_POSITIVE
    if transfer.debit == transfer.credit:
        return Result.SAME_ACCOUNT
    if debit is None:
        return Result.DEBIT_ACCOUNT_NOT_FOUND
    if credit is None:
        return Result.CREDIT_ACCOUNT_NOT_FOUND
    if debit.foreign or credit.foreign:
        return Result.WRONG_ASSET
    if transfer.pending_id is not None:
        return hold_rule(transfer, hold, now)
    if not transfer.purpose.finishing:
        if FROZEN in (debit.status, credit.status):
            return Result.ACCOUNT_FROZEN
        if CLOSED in (debit.status, credit.status):
            return Result.ACCOUNT_CLOSED
    return smallest(debit.debit_rule(transfer.amount_minor), credit.credit_rule(transfer.amount_minor))


def move(transfer: Transfer, debit: Side, credit: Side, hold: Hold | None) -> None:
    """Both sides as they are behind a transfer that is not refused."""
    if hold is not None:
        pending, posted = release(transfer, hold)
    else:
        pending, posted = (0, transfer.amount_minor) if transfer.kind is Kind.DIRECT else (transfer.amount_minor, 0)
    debit.move_debits(pending, posted)
    credit.move_credits(pending, posted)
    debit.version, credit.version = debit.version + 1, credit.version + 1


def _verdict(
    rule: Result, seq: int, *, replayed: bool = False, recorded: bool = False, sides: tuple[Side, ...] = ()
) -> Verdict:
    versions, balances = [side.version for side in sides] or (0, 0), [side.balance for side in sides] or (0, 0)
    numbers = np.array([rule, seq, *versions, *balances], np.int64)[:, None]
    flags = np.array([replayed, recorded], np.bool_)[:, None]
    rows = np.array(sorted(side.changes() for side in sides), np.int64).reshape(-1, 6)
    return Verdict(
        result=numbers[0],
        replayed=flags[0],
        seq=numbers[1],
        recorded=flags[1],
        debit_version=numbers[2],
        credit_version=numbers[3],
        debit_balance=numbers[4],
        credit_balance=numbers[5],
        changed=Changes(*rows.T),
    )
