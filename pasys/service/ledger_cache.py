"""A poster remembers the accounts that it has met, as they are behind everything that it has written.

What is remembered is true as long as nobody else writes to the asset, and each write checks that (last_seq, epoch): a
memory that is no longer true costs a retry, never a wrong balance.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import fields
from fractions import Fraction
from uuid import UUID

import numpy as np
from msgspec.structs import replace

from pasys.domain.ledger import Hold, Kind, Transfer
from pasys.domain.ledger_batch import Accounts, Changes, Verdict
from pasys.domain.ledger_columns import Bools, Columns, Int64s
from pasys.domain.ledger_one import Side
from pasys.service.ledger_books import Head

ACCOUNTS_MAX = 1_000_000
HOLDS_MAX = 100_000
_ROWS, _VERSION = 7, 2  # the table's rows: flags, status, version, and the four sums


class Cache:
    """The books of one asset as one poster knows them: where they stand, accounts, and the holds that it has met.

    Accounts stand in the table in the order in which they were met, and an index beside it is kept in order of number:
    the batches of a new poster meet new accounts all the time, and must not move the table for each.
    """

    def __init__(self, head: Head, since: int) -> None:
        """`since` is the place in the journal as of which all account rows were exact when the books were read."""
        self.head, self.since = head, since
        self.holds: dict[UUID, Hold] = {}
        self._number = np.zeros(0, np.int64)  # in order
        self._place = np.zeros(0, np.int64)  # where each stands in the table
        self._table = np.zeros((_ROWS, 1024), np.int64)
        self._numbers = np.zeros(1024, np.int64)  # by place in the table, as the next
        self._dirty = np.zeros(1024, np.bool_)  # its row in the database is behind
        self._sweep, self._swept, self._sweep_seq = np.zeros(0, np.int64), 0, head.last_seq

    @property
    def full(self) -> bool:
        """True where it is time to start anew: memory has a limit."""
        return len(self._number) > ACCOUNTS_MAX or len(self.holds) > HOLDS_MAX

    @property
    def lag(self) -> int:
        """Transfers that the account rows do not show yet."""
        return self.head.last_seq - self.head.projected_seq

    def places(self, numbers: Int64s) -> tuple[Int64s, Bools]:
        """Where these numbers, in order, stand in the table, and which of them are there at all."""
        if not len(self._number):
            none = np.zeros(len(numbers), np.int64)
            return none, none != 0
        at = np.minimum(np.searchsorted(self._number, numbers), len(self._number) - 1)
        return self._place[at], self._number[at] == numbers

    def add(self, read: Accounts) -> None:
        """Remember accounts that were just read, all of them new here. One of another asset is nobody's business."""
        own = ~read.foreign
        size, added = len(self._number), int(own.sum())
        while size + added > self._table.shape[1]:
            self._table = np.concatenate([self._table, np.zeros_like(self._table)], axis=1)
            self._numbers = np.concatenate([self._numbers, np.zeros_like(self._numbers)])
            self._dirty = np.concatenate([self._dirty, np.zeros_like(self._dirty)])
        self._numbers[size : size + added] = read.number[own]
        rows = (read.flags, read.status, read.version)
        sums = (read.debits_pending, read.debits_posted, read.credits_pending, read.credits_posted)
        for row, column in enumerate((*rows, *sums)):
            self._table[row, size : size + added] = column[own]
        between = np.searchsorted(self._number, read.number[own])
        self._number = np.insert(self._number, between, read.number[own])
        self._place = np.insert(self._place, between, np.arange(size, size + added))

    def add_holds(self, read: Mapping[UUID, Hold]) -> None:
        """Remember holds that were just read. Of one that was met before, memory knows what has become of it since."""
        for id, hold in read.items():
            self.holds.setdefault(id, hold)

    def accounts(self, numbers: Int64s, read: Accounts | None = None) -> Accounts:
        """The accounts behind these numbers, in order. `read` has those of another asset, which are not remembered."""
        at, known = self.places(numbers)
        if not known.all():
            at, numbers = at[known], numbers[known]
        own = Accounts(numbers, np.zeros(len(numbers), np.bool_), *self._table[:, at])
        if read is None or not read.foreign.any():
            return own
        columns = [
            np.concatenate([getattr(own, field.name), getattr(read, field.name)[read.foreign]])
            for field in fields(Accounts)
        ]
        order = np.argsort(columns[0])
        return Accounts(*[column[order] for column in columns])

    def side(self, number: int) -> Side | None:
        """One account that was met; None where it was not."""
        at = int(self._number.searchsorted(number))
        if at == len(self._number) or self._number[at] != number:
            return None
        return Side(number, False, *self._table[:, self._place[at]].tolist())

    def take_sides(self, sides: Iterable[Side]) -> None:
        """What a transfer has made of its accounts is remembered, as if it and their rows were written already."""
        for side in sides:
            at = self._place[self._number.searchsorted(side.number)]
            self._table[_VERSION:, at] = side.changes()[1:]

    def take(self, columns: Columns, verdict: Verdict, *, lags: bool) -> None:
        """What a verdict changes is remembered, as if it were written already. With `lags`, the account rows are left
        behind. The accounts and holds that it was found by must be remembered.
        """
        changed = verdict.changed
        if len(changed.number):
            at, _ = self.places(changed.number)
            sums = (changed.debits_pending, changed.debits_posted, changed.credits_pending, changed.credits_posted)
            for row, column in enumerate((changed.version, *sums), _VERSION):
                self._table[row, at] = column
            if lags:
                self._dirty[at] = True
        if columns.kind is None:
            return
        for i in np.flatnonzero((columns.kind != Kind.DIRECT) & (verdict.result == 0) & verdict.recorded).tolist():
            self._take_hold(columns[i])

    def _take_hold(self, transfer: Transfer) -> None:
        if transfer.pending_id is not None:
            self.holds[transfer.pending_id] = replace(self.holds[transfer.pending_id], open=False)
            return
        self.holds[transfer.id] = Hold(
            id=transfer.id,
            debit=transfer.debit,
            credit=transfer.credit,
            amount_minor=transfer.amount_minor,
            asset=transfer.asset,
            expires_at=transfer.expires_at,
            reference=transfer.reference,
        )

    def sweep(self, share: Fraction) -> tuple[Changes | None, int]:
        """The next accounts whose rows are brought up to date, and the seq that all rows will then have reached.

        Rows are swept in order of number, a share of a whole sweep at a time, so that no batch waits for all of them.
        They count as written from now on. Call it with `head` as it is before the batch.
        """
        if self._swept >= len(self._sweep):
            self._sweep = self._place[self._dirty[self._place]]
            self._swept, self._sweep_seq = 0, self.head.last_seq
        size = min(math.ceil(len(self._sweep) * share), len(self._sweep) - self._swept)
        at = self._sweep[self._swept : self._swept + size]
        self._swept += size
        self._dirty[at] = False
        done = self._swept >= len(self._sweep)
        reached = self._sweep_seq if done else self.head.projected_seq
        return (Changes(self._numbers[at], *self._table[_VERSION:, at]) if size else None), reached
