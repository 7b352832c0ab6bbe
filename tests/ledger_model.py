"""The ledger's rules in their plainest form: one transfer at a time, every rule asked, the smallest number answers.

The oracle of the property tests. It shares the words (Transfer, Result) with the ledger, and none of its code.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from pasys.domain.ledger import FINISHING, Kind, Result, Transfer

LARGEST = 2**62


@dataclass
class ModelAccount:
    asset: str
    flags: int = 0
    status: str = "active"
    version: int = 0
    debits_pending: int = 0
    debits_posted: int = 0
    credits_pending: int = 0
    credits_posted: int = 0

    @property
    def balance(self) -> int:
        return self.credits_posted - self.debits_posted


@dataclass
class ModelRow:
    transfer: Transfer
    result: Result
    seq: int
    sides: tuple[int, int, int, int] = (0, 0, 0, 0)
    at: datetime | None = None


@dataclass
class Model:
    """One asset's books. `others` are those of other assets; `taken` says which asset has an id."""

    asset: str
    accounts: dict[int, ModelAccount] = field(default_factory=dict)
    journal: list[ModelRow] = field(default_factory=list)
    holds: dict[UUID, Transfer] = field(default_factory=dict)
    others: list[Model] = field(default_factory=list)
    taken: dict[UUID, str] = field(default_factory=dict)
    _row_of: dict[UUID, ModelRow] = field(default_factory=dict)

    def post(self, batch: list[Transfer], now: datetime) -> list[tuple[Result, bool, int]]:
        answers: list[tuple[Result, bool, int]] = []
        chain: list[Transfer] = []
        for transfer in batch:
            chain.append(transfer)
            if not transfer.linked:
                answers += self._chain(chain, now)
                chain = []
        assert not chain
        return answers

    def _chain(self, chain: list[Transfer], now: datetime) -> list[tuple[Result, bool, int]]:
        if len(chain) == 1:
            return [self._one(chain[0], now)]
        before = {number: replace(one) for number, one in self.accounts.items()}, dict(self.holds)
        length = len(self.journal)
        answers = []
        for i, transfer in enumerate(chain):
            answers.append(self._one(transfer, now))
            if answers[-1][0] is not Result.ACCEPTED:
                self.accounts, self.holds = before
                for row in self.journal[length:]:
                    del self._row_of[row.transfer.id]
                del self.journal[length:]
                return [self._failed(other, now, answers[-1][0] if i == j else None) for j, other in enumerate(chain)]
        return answers

    def _failed(self, transfer: Transfer, now: datetime, own: Result | None) -> tuple[Result, bool, int]:
        """The answer of one member of a chain that fails: its own rule where it is the cause."""
        known = self._known(transfer)
        if known is not None:
            return known
        row = self._write(transfer, own or Result.LINKED_FAILED, (0, 0, 0, 0), now)
        return row.result, False, row.seq

    def _one(self, transfer: Transfer, now: datetime) -> tuple[Result, bool, int]:
        known = self._known(transfer)
        if known is not None:
            return known
        result = min(self._broken(transfer, now), default=Result.ACCEPTED)
        sides = self._move(transfer) if result is Result.ACCEPTED else (0, 0, 0, 0)
        row = self._write(transfer, result, sides, now)
        return result, False, row.seq

    def _known(self, transfer: Transfer) -> tuple[Result, bool, int] | None:
        row = self._row_of.get(transfer.id)
        if row is not None and _fields(row.transfer) == _fields(transfer) and _same_time(transfer, row):
            return row.result, True, row.seq
        if row is not None or self.taken.get(transfer.id, self.asset) != self.asset:
            return Result.ID_CONFLICT, False, 0
        return None

    def _write(self, transfer: Transfer, result: Result, sides: Any, now: datetime) -> ModelRow:
        row = ModelRow(transfer, result, len(self.journal) + 1, sides, now)
        self.journal.append(row)
        self._row_of[transfer.id] = row
        return row

    def _broken(self, t: Transfer, now: datetime) -> list[Result]:
        broken = []
        debit, credit = self.accounts.get(t.debit), self.accounts.get(t.credit)
        if t.amount_minor <= 0:
            broken.append(Result.AMOUNT_NOT_POSITIVE)
        if t.debit == t.credit:
            broken.append(Result.SAME_ACCOUNT)
        if debit is None:
            broken.append(Result.DEBIT_ACCOUNT_NOT_FOUND)
        if credit is None:
            broken.append(Result.CREDIT_ACCOUNT_NOT_FOUND)
        if debit is None or credit is None:
            return broken
        if debit.asset != self.asset or credit.asset != self.asset:
            broken.append(Result.WRONG_ASSET)
        if t.kind in (Kind.POST, Kind.VOID):
            return broken + self._broken_hold(t, now)
        if t.purpose not in FINISHING and "frozen" in (debit.status, credit.status):
            broken.append(Result.ACCOUNT_FROZEN)
        if t.purpose not in FINISHING and "closed" in (debit.status, credit.status):
            broken.append(Result.ACCOUNT_CLOSED)
        debits = debit.debits_posted + debit.debits_pending + t.amount_minor
        credits = credit.credits_posted + credit.credits_pending + t.amount_minor
        if debit.flags & 1 and debits > debit.credits_posted:
            broken.append(Result.EXCEEDS_CREDITS)
        if credit.flags & 2 and credits > credit.debits_posted:
            broken.append(Result.EXCEEDS_DEBITS)
        if max(debits, credits) > LARGEST:
            broken.append(Result.EXCEEDS_RANGE)
        return broken

    def _broken_hold(self, t: Transfer, now: datetime) -> list[Result]:
        assert t.pending_id is not None
        hold = self._hold(t.pending_id)
        if hold is None:
            elsewhere = any(other._hold(t.pending_id) for other in self.others)
            return [Result.HOLD_MISMATCH if elsewhere else Result.HOLD_NOT_FOUND]
        broken = []
        if (t.debit, t.credit) != (hold.debit, hold.credit):
            broken.append(Result.HOLD_MISMATCH)
        if t.kind is Kind.VOID and t.amount_minor != hold.amount_minor:
            broken.append(Result.HOLD_MISMATCH)
        if hold.id not in self.holds:
            broken.append(Result.HOLD_RESOLVED)
        if t.kind is Kind.POST and hold.expires_at is not None and hold.expires_at <= now:
            broken.append(Result.HOLD_EXPIRED)
        if t.amount_minor > hold.amount_minor:
            broken.append(Result.EXCEEDS_HOLD)
        return broken

    def _hold(self, id: UUID) -> Transfer | None:
        """A hold that was begun, whatever became of it."""
        row = self._row_of.get(id)
        begun = row is not None and row.result is Result.ACCEPTED and row.transfer.kind is Kind.PENDING
        return row.transfer if row is not None and begun else None

    def change(self, number: int, wanted: str | int) -> str | None:
        """Freeze ("frozen"), unfreeze ("active"), close ("closed") or limit (flags) an account; the name of the error
        where that is refused."""
        one = self.accounts[number]
        if isinstance(wanted, int):
            over_debits = wanted & 1 and one.debits_posted + one.debits_pending > one.credits_posted
            over_credits = wanted & 2 and one.credits_posted + one.credits_pending > one.debits_posted
            if over_debits or over_credits:
                return "LimitExceeded"
            one.flags = wanted
            return None
        if wanted == "closed" and (one.balance or one.debits_pending or one.credits_pending):
            return "AccountNotEmpty"
        if one.status not in {"frozen": ["active"], "active": ["frozen"], "closed": ["active", "frozen"]}[wanted]:
            return "IllegalTransition"
        one.status = wanted
        return None

    def _move(self, t: Transfer) -> tuple[int, int, int, int]:
        debit, credit = self.accounts[t.debit], self.accounts[t.credit]
        pending, posted = 0, 0
        if t.kind is Kind.DIRECT:
            posted = t.amount_minor
        elif t.kind is Kind.PENDING:
            pending = t.amount_minor
            self.holds[t.id] = t
        else:
            assert t.pending_id is not None
            pending = -self.holds.pop(t.pending_id).amount_minor
            posted = t.amount_minor if t.kind is Kind.POST else 0
        debit.debits_pending += pending
        debit.debits_posted += posted
        credit.credits_pending += pending
        credit.credits_posted += posted
        debit.version += 1
        credit.version += 1
        return debit.version, credit.version, debit.balance, credit.balance


def _fields(t: Transfer) -> tuple[Any, ...]:
    return (t.debit, t.credit, t.amount_minor, t.kind, t.purpose, t.pending_id, t.corrects, t.reference)


def _same_time(asked: Transfer, row: ModelRow) -> bool:
    return asked.effective_at is None or asked.effective_at == (row.transfer.effective_at or row.at)
