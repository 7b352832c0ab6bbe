"""A batch is judged as if its transfers came one after the other, though most of them are judged all at once.

An account with a limit is *tight* where its funds at the start do not cover all that the batch asks of it. Elsewhere no
order of events can break the limit: credits only help, posting and voiding only release. So only what touches a tight
account, shares a hold with another transfer of the batch, or is chained to such a transfer is judged one by one
(ledger_sequence.py); the rest is arrays. What comes alone needs neither (ledger_one.py). `tests/ledger_model.py` is the
plain form of the same rules.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from pasys.domain.ledger import (
    CLOSED,
    CREDITS_MUST_NOT_EXCEED_DEBITS,
    DEBITS_MUST_NOT_EXCEED_CREDITS,
    FROZEN,
    Kind,
    Result,
)
from pasys.domain.ledger_batch import Accounts, Batch, Books, Changes, Verdict
from pasys.domain.ledger_columns import Bools, Columns, Int64s
from pasys.domain.ledger_one import judge_one
from pasys.domain.ledger_sequence import Sequencer, Work, fail_chain, hold_rule, release
from pasys.money import MINOR_MAX


def judge(columns: Columns, books: Books) -> Verdict:
    """The answers to a batch, and the rows that follow from them."""
    return judge_one(columns, books) if len(columns) == 1 else judge_together(columns, books)


def judge_together(columns: Columns, books: Books) -> Verdict:
    """The same for a batch of any size."""
    batch = Batch(columns, books.earlier)
    work = Work(batch, books)
    _judge_alone(batch, books.accounts, work)
    _judge_holds(batch, books, work)
    tight = _tight(batch, books.accounts, work)
    if tight is not None:
        work.hard |= (tight[work.debit_at] | tight[work.credit_at]) & (work.rule == 0) & batch.new
    _judge_chains(batch, work)
    if work.hard.any():
        Sequencer(batch, books, work, tight).run()
    for i, first in batch.copies.items():
        work.rule[i] = work.rule[first]
    return _verdict(batch, books, work)


def _judge_alone(batch: Batch, accounts: Accounts, work: Work) -> None:
    """The rules that need nothing but the transfer and its accounts. What is written later takes precedence."""
    rule, debit, credit = work.rule, work.debit_at, work.credit_at
    if len(accounts):
        if accounts.status.any():
            starts = batch.starts_something
            status = accounts.status
            rule[starts & ((status[debit] == CLOSED) | (status[credit] == CLOSED))] = Result.ACCOUNT_CLOSED
            rule[starts & ((status[debit] == FROZEN) | (status[credit] == FROZEN))] = Result.ACCOUNT_FROZEN
        if accounts.foreign.any():
            rule[accounts.foreign[debit] | accounts.foreign[credit]] = Result.WRONG_ASSET
    rule[~work.credit_found] = Result.CREDIT_ACCOUNT_NOT_FOUND
    rule[~work.debit_found] = Result.DEBIT_ACCOUNT_NOT_FOUND
    rule[batch.debit == batch.credit] = Result.SAME_ACCOUNT
    rule[batch.amount <= 0] = Result.AMOUNT_NOT_POSITIVE
    for i in batch.fixed:
        rule[i] = batch.fixed_result(i)
    for i in batch.copies:
        rule[i] = Result.ACCEPTED


def _judge_holds(batch: Batch, books: Books, work: Work) -> None:
    """Posts and voids. Those that meet their hold, or each other, inside the batch are left to the sequence."""
    if batch.columns.kind is None:
        return
    finishing = np.flatnonzero(~batch.starts_money & batch.new & (work.rule == 0)).tolist()
    if not finishing:
        return
    begun = {id: i for i, id in batch.ids((batch.kind == Kind.PENDING) & batch.new).items()}
    named = batch.hold_ids(finishing)
    uses = Counter(named.values())
    for i, hold_id in named.items():
        if hold_id in begun or uses[hold_id] > 1:
            work.hard[i] = True
            if hold_id in begun:
                work.hard[begun[hold_id]] = True
            continue
        hold, transfer = books.holds.get(hold_id), batch.columns[i]
        work.rule[i] = hold_rule(transfer, hold, books.now)
        if hold is not None:
            work.pending_delta[i], work.posted_delta[i] = release(transfer, hold)


def _tight(batch: Batch, accounts: Accounts, work: Work) -> Bools | None:
    """The accounts whose limit could bind inside this batch, or None where no limit can."""
    if not len(accounts):
        return None
    # Sums are exact in 64 bits only while nothing comes near the end of the range; beyond, every account is watched.
    debits = accounts.debits_posted + accounts.debits_pending
    credits = accounts.credits_posted + accounts.credits_pending
    positive = np.maximum(batch.amount, 0)
    asked_in_all = (int((positive >> 32).sum()) << 32) + int((positive & 0xFFFF_FFFF).sum())  # in halves: no overflow
    if asked_in_all + int(max(debits.max(), credits.max())) >= MINOR_MAX:
        return np.ones(len(accounts), np.bool_)
    debit_limited = (accounts.flags & DEBITS_MUST_NOT_EXCEED_CREDITS) != 0
    credit_limited = (accounts.flags & CREDITS_MUST_NOT_EXCEED_DEBITS) != 0
    asked = np.where((work.rule == 0) & batch.new & batch.starts_money, batch.amount, 0)
    tight = np.zeros(len(accounts), np.bool_)
    if debit_limited.any():
        tight |= debit_limited & (accounts.credits_posted - debits < _sums(work.debit_at, asked, len(accounts)))
    if credit_limited.any():
        tight |= credit_limited & (accounts.debits_posted - credits < _sums(work.credit_at, asked, len(accounts)))
    return tight if tight.any() else None


def _sums(at: Int64s, amounts: Int64s, size: int) -> Int64s:
    """Sum of amounts by position, exact in 64 bits."""
    sums = np.zeros(size, np.int64)
    np.add.at(sums, at, amounts)
    return sums


def _judge_chains(batch: Batch, work: Work) -> None:
    """A chain with a hard member is hard as a whole; in any other, the first refusal takes the rest along."""
    if batch.chain is None:
        return
    work.hard[list(batch.copies)] = True  # what the first of two equal ids answers decides about the second's chain
    hard = np.logical_or.reduceat(work.hard, batch.chain_starts)
    work.hard[:] = hard[batch.chain]
    refused = np.logical_or.reduceat(work.rule != 0, batch.chain_starts) & ~hard
    ends = np.append(batch.chain_starts[1:], len(batch))
    for chain in np.flatnonzero(refused).tolist():
        fail_chain(batch, work, range(int(batch.chain_starts[chain]), int(ends[chain])))


def _verdict(batch: Batch, books: Books, work: Work) -> Verdict:
    n = len(batch)
    seq = np.zeros(n, np.int64)
    seq[batch.new] = books.last_seq + 1 + np.arange(int(batch.new.sum()))
    replayed = np.zeros(n, np.bool_)
    for i, known in batch.fixed.items():
        if known is not None:
            replayed[i], seq[i] = True, known.seq
    for i, first in batch.copies.items():
        replayed[i], seq[i] = True, seq[first]
    accepted = np.flatnonzero((work.rule == 0) & batch.new)
    sides, changed = _walk(books.accounts, work, accepted)
    columns = np.zeros((4, n), np.int64)
    columns[:, accepted] = sides
    return Verdict(
        result=work.rule,
        replayed=replayed,
        seq=seq,
        recorded=batch.new,
        debit_version=columns[0],
        credit_version=columns[1],
        debit_balance=columns[2],
        credit_balance=columns[3],
        changed=changed,
    )


def _walk(accounts: Accounts, work: Work, accepted: Int64s) -> tuple[Int64s, Changes]:
    """Each account's own sequence through the batch: versions and balances of both sides, and the counters at its end.

    Both sides of every accepted transfer are put into one list, ordered by account and then by time; a running sum that
    starts anew with each account is then its balance. Shapes: (4, accepted) and one entry for each touched account.
    """
    k = len(accepted)
    at = np.concatenate([work.debit_at[accepted], work.credit_at[accepted]])
    if not k:
        return np.zeros((4, 0), np.int64), Changes(at, at, at, at, at, at)
    order = np.argsort(at * k + np.arange(2 * k) % k)
    at = at[order]
    pending, posted = work.pending_delta[accepted][order % k], work.posted_delta[accepted][order % k]
    is_debit = order < k
    begins = np.ones(2 * k, np.bool_)
    np.not_equal(at[1:], at[:-1], out=begins[1:])
    first = np.flatnonzero(begins)
    touched, steps = at[first], np.append(first[1:], 2 * k) - first
    change = np.where(is_debit, -posted, posted)
    running = np.cumsum(change)
    before = accounts.credits_posted[touched] - accounts.debits_posted[touched] - (running[first] - change[first])
    sides = np.empty((2, 2 * k), np.int64)
    sides[0, order] = np.arange(2 * k) + 1 + np.repeat(accounts.version[touched] - first, steps)
    sides[1, order] = running + np.repeat(before, steps)

    def total(of: Int64s, where: Bools) -> Int64s:
        return np.add.reduceat(np.where(where, of, 0), first)

    changed = Changes(
        accounts.number[touched],
        accounts.version[touched] + steps,
        accounts.debits_pending[touched] + total(pending, is_debit),
        accounts.debits_posted[touched] + total(posted, is_debit),
        accounts.credits_pending[touched] + total(pending, ~is_debit),
        accounts.credits_posted[touched] + total(posted, ~is_debit),
    )
    return np.concatenate([sides[0, :k], sides[0, k:], sides[1, :k], sides[1, k:]]).reshape(4, k), changed
