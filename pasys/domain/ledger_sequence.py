"""Where the order of a batch can matter, transfers are judged one by one, and a chain that fails leaves no trace."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import numpy as np

from pasys.domain.ledger import (
    CREDITS_MUST_NOT_EXCEED_DEBITS,
    DEBITS_MUST_NOT_EXCEED_CREDITS,
    Hold,
    Kind,
    Result,
    Transfer,
)
from pasys.domain.ledger_batch import Accounts, Batch, Books
from pasys.domain.ledger_columns import Bools
from pasys.money import MINOR_MAX


class Work:
    """The arrays that a judgement fills in: each transfer's rule, and what it does to pending and posted sums."""

    def __init__(self, batch: Batch, books: Books) -> None:
        n = len(batch)
        self.debit_at, self.debit_found = books.accounts.position(batch.debit)
        self.credit_at, self.credit_found = books.accounts.position(batch.credit)
        self.rule = np.zeros(n, np.int64)
        self.pending_delta = np.where(batch.kind == Kind.PENDING, batch.amount, 0)
        self.posted_delta = np.where(batch.kind == Kind.DIRECT, batch.amount, 0)
        self.hard = np.zeros(n, np.bool_)


def hold_rule(transfer: Transfer, hold: Hold | None, now: datetime) -> Result:
    """What a hold says to being posted or voided, before anything else of the batch is considered."""
    if hold is None:
        return Result.HOLD_NOT_FOUND
    if hold.archived:
        return Result.HOLD_RESOLVED if hold.asset == transfer.asset else Result.HOLD_MISMATCH
    void = transfer.kind is Kind.VOID
    if (transfer.debit, transfer.credit, transfer.asset) != (hold.debit, hold.credit, hold.asset):
        return Result.HOLD_MISMATCH
    if void and transfer.amount_minor != hold.amount_minor:
        return Result.HOLD_MISMATCH
    if not hold.open:
        return Result.HOLD_RESOLVED
    if not void and hold.expired(now):
        return Result.HOLD_EXPIRED
    return Result.EXCEEDS_HOLD if transfer.amount_minor > hold.amount_minor else Result.ACCEPTED


def release(transfer: Transfer, hold: Hold) -> tuple[int, int]:
    """What pending and posted sums change by: a post or void ends the whole hold, and a post moves what it asks for."""
    return -hold.amount_minor, transfer.amount_minor if transfer.kind is Kind.POST else 0


def smallest(*rules: Result) -> Result:
    """The broken rule that answers."""
    return min((rule for rule in rules if rule), default=Result.ACCEPTED)


def fail_chain(batch: Batch, work: Work, members: range) -> None:
    """The first refused member keeps its own rule; every other new one is refused because of it."""
    cause = next(i for i in members if work.rule[i])
    for i in members:
        if i != cause and batch.new[i]:
            work.rule[i] = Result.LINKED_FAILED


class Counters:
    """One account's sums in the middle of a batch. Python integers: they cannot overflow."""

    __slots__ = ("credits_pending", "credits_posted", "debits_pending", "debits_posted", "flags")

    def __init__(
        self, flags: int, debits_pending: int, debits_posted: int, credits_pending: int, credits_posted: int
    ) -> None:
        self.flags = flags
        self.debits_pending, self.debits_posted = debits_pending, debits_posted
        self.credits_pending, self.credits_posted = credits_pending, credits_posted

    @classmethod
    def at(cls, accounts: Accounts, at: int) -> Counters:
        sums = (accounts.debits_pending, accounts.debits_posted, accounts.credits_pending, accounts.credits_posted)
        return cls(int(accounts.flags[at]), *[int(column[at]) for column in sums])

    def debit_rule(self, amount_minor: int) -> Result:
        debits = self.debits_posted + self.debits_pending + amount_minor
        if self.flags & DEBITS_MUST_NOT_EXCEED_CREDITS and debits > self.credits_posted:
            return Result.EXCEEDS_CREDITS
        return Result.EXCEEDS_RANGE if debits > MINOR_MAX else Result.ACCEPTED

    def credit_rule(self, amount_minor: int) -> Result:
        credits = self.credits_posted + self.credits_pending + amount_minor
        if self.flags & CREDITS_MUST_NOT_EXCEED_DEBITS and credits > self.debits_posted:
            return Result.EXCEEDS_DEBITS
        return Result.EXCEEDS_RANGE if credits > MINOR_MAX else Result.ACCEPTED

    def move_debits(self, pending: int, posted: int) -> None:
        self.debits_pending += pending
        self.debits_posted += posted

    def move_credits(self, pending: int, posted: int) -> None:
        self.credits_pending += pending
        self.credits_posted += posted


class Sequencer:
    """Walks through the hard transfers of a batch in order, with the counters of the tight accounts at hand.

    A hard transfer may touch accounts that are not tight: their limits cannot bind, so they have no counters here.
    """

    def __init__(self, batch: Batch, books: Books, work: Work, tight: Bools | None) -> None:
        self.batch, self.books, self.work = batch, books, work
        positions = [] if tight is None else np.flatnonzero(tight).tolist()
        self.counters = {at: Counters.at(books.accounts, at) for at in positions}
        self.begun: dict[UUID, Hold] = {}
        self.resolved: set[UUID] = set()

    def run(self) -> None:
        ends = np.append(self.batch.chain_starts[1:], len(self.batch))
        hard = np.flatnonzero(self.work.hard[self.batch.chain_starts])
        for first, end in zip(self.batch.chain_starts[hard].tolist(), ends[hard].tolist(), strict=True):
            self._run_chain(range(first, end))

    def _run_chain(self, members: range) -> None:
        taken: list[int] = []
        for i in members:
            self.work.rule[i] = self._rule(i)
            if self.work.rule[i]:
                break
            if self.batch.new[i]:
                self._take(i)
                taken.append(i)
        else:
            return
        for i in reversed(taken):
            self._give_back(i)
        fail_chain(self.batch, self.work, members)

    def _rule(self, i: int) -> int:
        """The rule that refuses this transfer now, after everything before it."""
        known, transfer = int(self.work.rule[i]), self.batch.columns[i]
        if known or i in self.batch.fixed:
            return known
        if i in self.batch.copies:
            return int(self.work.rule[self.batch.copies[i]])
        if transfer.pending_id is not None:
            return self._finish_rule(i, transfer, transfer.pending_id)
        debit = self.counters.get(int(self.work.debit_at[i]))
        credit = self.counters.get(int(self.work.credit_at[i]))
        return smallest(
            debit.debit_rule(transfer.amount_minor) if debit else Result.ACCEPTED,
            credit.credit_rule(transfer.amount_minor) if credit else Result.ACCEPTED,
        )

    def _finish_rule(self, i: int, transfer: Transfer, hold_id: UUID) -> Result:
        hold = self.begun.get(hold_id) or self.books.holds.get(hold_id)
        rule = hold_rule(transfer, hold, self.books.now)
        if rule in (Result.ACCEPTED, Result.HOLD_EXPIRED, Result.EXCEEDS_HOLD) and hold_id in self.resolved:
            return Result.HOLD_RESOLVED
        if hold is not None:
            self.work.pending_delta[i], self.work.posted_delta[i] = release(transfer, hold)
        return rule

    def _take(self, i: int) -> None:
        transfer = self.batch.columns[i]
        self._move(i, 1)
        if transfer.kind is Kind.PENDING:
            self.begun[transfer.id] = Hold(
                id=transfer.id,
                debit=transfer.debit,
                credit=transfer.credit,
                amount_minor=transfer.amount_minor,
                asset=transfer.asset,
                expires_at=transfer.expires_at,
            )
        elif transfer.pending_id is not None:
            self.resolved.add(transfer.pending_id)

    def _give_back(self, i: int) -> None:
        transfer = self.batch.columns[i]
        self._move(i, -1)
        self.begun.pop(transfer.id, None)
        if transfer.pending_id is not None:
            self.resolved.discard(transfer.pending_id)

    def _move(self, i: int, sign: int) -> None:
        pending, posted = sign * int(self.work.pending_delta[i]), sign * int(self.work.posted_delta[i])
        debit = self.counters.get(int(self.work.debit_at[i]))
        if debit is not None:
            debit.move_debits(pending, posted)
        credit = self.counters.get(int(self.work.credit_at[i]))
        if credit is not None:
            credit.move_credits(pending, posted)
