"""A poster remembers the accounts that it has met, as they are behind everything that it has written.

What is remembered is true as long as nobody else writes to the asset, and each write checks that (last_seq, epoch): a
memory that is no longer true costs a retry, never a wrong balance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from uuid import UUID

import numpy as np

from pasys.domain.ledger import Hold, Kind, Transfer
from pasys.domain.ledger_batch import Accounts, Changes, Verdict
from pasys.domain.ledger_columns import Columns, Int64s
from pasys.service.ledger_books import Head

ACCOUNTS_MAX = 1_000_000
HOLDS_MAX = 100_000
_VERSION, _DEBITS_PENDING = 3, 4  # the rows of `table`: number, flags, status, version, then the four sums
_ROWS = 8


class Cache:
    """The books of one asset as one poster knows them: `head`, accounts in order of number, and its own holds."""

    def __init__(self, head: Head) -> None:
        self.head = head
        self._table = np.zeros((_ROWS, 0), np.int64)
        self._dirty = np.zeros(0, np.bool_)
        self.holds: dict[UUID, Hold] = {}

    @property
    def full(self) -> bool:
        """True where it is time to start anew: memory has a limit."""
        return self._table.shape[1] > ACCOUNTS_MAX or len(self.holds) > HOLDS_MAX

    @property
    def lag(self) -> int:
        """Transfers that the account rows do not show yet."""
        return self.head.last_seq - self.head.projected_seq

    def missing(self, numbers: Int64s) -> Int64s:
        """Those of these numbers, in order, that are not remembered."""
        known = self._table[0]
        if not len(known):
            return numbers
        at = np.minimum(np.searchsorted(known, numbers), len(known) - 1)
        return numbers[known[at] != numbers]

    def add(self, found: Accounts) -> None:
        """Remember accounts that were just read, all of them new here. One of another asset is nobody's business."""
        own = ~found.foreign
        columns = (found.number, found.flags, found.status, found.version)
        sums = (found.debits_pending, found.debits_posted, found.credits_pending, found.credits_posted)
        added = np.stack([column[own] for column in (*columns, *sums)])
        place = np.searchsorted(self._table[0], added[0])
        self._table = np.insert(self._table, place, added, axis=1)
        self._dirty = np.insert(self._dirty, place, False)

    def accounts(self, numbers: Int64s, read: Accounts | None) -> Accounts:
        """The accounts behind these numbers, in order. `read` has those of another asset, which are not remembered."""
        known = self._table[0]
        at = np.minimum(np.searchsorted(known, numbers), max(len(known) - 1, 0))
        found = self._table[:, at[known[at] == numbers]] if len(known) else self._table
        own = Accounts(found[0], np.zeros(found.shape[1], np.bool_), *found[1:])
        if read is None or not read.foreign.any():
            return own
        columns = [
            np.concatenate([getattr(own, field.name), getattr(read, field.name)[read.foreign]])
            for field in fields(Accounts)
        ]
        order = np.argsort(columns[0])
        return Accounts(*[column[order] for column in columns])

    def take(self, columns: Columns, verdict: Verdict, holds: Mapping[UUID, Hold], head: Head) -> None:
        """What a verdict changes is remembered, as if it were written already. `holds` are those that it was found by,
        `head` is where the books will stand."""
        self.head = head
        changed = verdict.changed
        if len(changed.number):
            at = np.searchsorted(self._table[0], changed.number)
            self._table[_VERSION, at] = changed.version
            sums = (changed.debits_pending, changed.debits_posted, changed.credits_pending, changed.credits_posted)
            self._table[_DEBITS_PENDING:, at] = np.stack(sums)
            self._dirty[at] = True
        if columns.kind is None:
            return
        for i in np.flatnonzero((columns.kind != Kind.DIRECT) & (verdict.result == 0) & verdict.recorded).tolist():
            self._take_hold(columns[i], holds)

    def _take_hold(self, transfer: Transfer, holds: Mapping[UUID, Hold]) -> None:
        if transfer.pending_id is not None:
            known = self.holds.get(transfer.pending_id) or holds[transfer.pending_id]
            self.holds[transfer.pending_id] = replace(known, open=False)
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

    def behind(self) -> Changes:
        """The counters of all accounts whose rows lag; from now on they count as written."""
        at = np.flatnonzero(self._dirty)
        self._dirty[at] = False
        found = self._table[:, at]
        return Changes(found[0], *found[_VERSION:])
