"""A batch of transfers is held as columns, beside the accounts and holds it touches, for rules over whole arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import numpy as np

from pasys.domain.ledger import FINISHING, Hold, Kind, Recorded, Result, same
from pasys.domain.ledger_answer import Answer
from pasys.domain.ledger_columns import Bools, Columns, Int64s

Earlier = Mapping[UUID, Recorded | Answer]
SORTED_FROM = 2_000  # numbers, and accounts: from here on sorting them costs less than jumping through memory
_FINISHING = np.array(sorted(FINISHING), np.int64)


@dataclass(frozen=True, slots=True)
class Accounts:
    """The accounts that were found, in order of number. `foreign` is True for one that is kept in another asset."""

    number: Int64s
    foreign: Bools
    flags: Int64s
    status: Int64s
    version: Int64s
    debits_pending: Int64s
    debits_posted: Int64s
    credits_pending: Int64s
    credits_posted: Int64s

    def __len__(self) -> int:
        return len(self.number)

    def position(self, numbers: Int64s) -> tuple[Int64s, Bools]:
        """Where each number stands, and whether it is there at all."""
        if not len(self):
            return np.zeros(len(numbers), np.int64), np.zeros(len(numbers), np.bool_)
        at = np.minimum(self._search(numbers), len(self) - 1)
        return at, self.number[at] == numbers

    def _search(self, numbers: Int64s) -> Int64s:
        if len(numbers) < SORTED_FROM or len(self) < SORTED_FROM:
            return np.searchsorted(self.number, numbers)
        order = np.argsort(numbers)
        at = np.empty(len(numbers), np.int64)
        at[order] = np.searchsorted(self.number, numbers[order])
        return at


@dataclass(frozen=True, slots=True)
class Books:
    """All that the rules need to know about one asset: already loaded, and locked until what follows is written."""

    last_seq: int
    accounts: Accounts
    holds: Mapping[UUID, Hold]
    earlier: Earlier
    now: datetime


class Batch:
    """A batch about to be judged, and how its transfers hang together: repeated ids, chains, holds.

    `fixed` has the answers that are known before any rule is asked (a replay of what the journal has, a conflict);
    `copies` has, for an id that stands twice in the batch, the index of the first.
    """

    def __init__(self, columns: Columns, earlier: Earlier) -> None:
        self.columns = columns
        n = len(columns)
        self.debit, self.credit, self.amount = columns.debit, columns.credit, columns.amount
        self.kind = np.zeros(n, np.int64) if columns.kind is None else columns.kind
        self.starts_money = self.kind <= Kind.PENDING
        self.fixed: dict[int, Recorded | Answer | None] = {}
        self.copies: dict[int, int] = {}
        self.new = np.ones(n, np.bool_)
        if earlier or columns.repeats_itself():
            self._match_ids(earlier)
        self.chain_starts, self.chain = self._chains()

    def __len__(self) -> int:
        return len(self.columns)

    @property
    def starts_something(self) -> Bools:
        """What a frozen or closed account refuses."""
        return self.starts_money & ~np.isin(self.columns.purpose, _FINISHING)

    def fixed_result(self, i: int) -> Result:
        known = self.fixed[i]
        return Result.ID_CONFLICT if known is None else known.result

    def ids(self, where: Bools) -> dict[int, UUID]:
        """The ids of some transfers, by index."""
        return {i: UUID(bytes=self.columns.id[i].tobytes()) for i in np.flatnonzero(where).tolist()}

    def hold_ids(self, indices: Sequence[int]) -> dict[int, UUID]:
        """The holds that posts and voids name, by index."""
        named = self.columns.pending_id
        assert named is not None or not indices, "a post or void names its hold"
        return {i: UUID(bytes=named[i].tobytes()) for i in indices} if named is not None else {}

    def _match_ids(self, earlier: Earlier) -> None:
        ids = self.columns.id.tolist()
        by_bytes = {id.bytes: known for id, known in earlier.items()}
        first: dict[bytes, int] = {}
        for i, id in enumerate(ids):
            known = by_bytes.get(id)
            j = first.setdefault(id, i)
            if known is not None:
                self.fixed[i] = known if known.repeated_by(self.columns[i]) else None
            elif j != i and same(self.columns[i], self.columns[j]):
                self.copies[i] = j
            elif j != i:
                self.fixed[i] = None
        self.new[list(self.fixed)] = False
        self.new[list(self.copies)] = False

    def _chains(self) -> tuple[Int64s, Int64s | None]:
        """First index of each chain, and each transfer's chain; None where no transfer is linked."""
        linked = self.columns.linked
        if linked is None or not linked.any():
            return np.arange(len(self)), None
        assert not linked[-1], "the last transfer of a batch has no next one to be linked with"
        begins = np.r_[True, ~linked[:-1]]
        return np.flatnonzero(begins), np.cumsum(begins) - 1


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answers, and what is to be written: columns aligned with the batch, `changed` by account.

    Versions and balances are zero where a transfer was not accepted. `recorded` marks what goes into the journal.
    """

    result: Int64s
    replayed: Bools
    seq: Int64s
    recorded: Bools
    debit_version: Int64s
    credit_version: Int64s
    debit_balance: Int64s
    credit_balance: Int64s
    changed: Changes


@dataclass(frozen=True, slots=True)
class Changes:
    """The counters of the accounts that moved, after the batch."""

    number: Int64s
    version: Int64s
    debits_pending: Int64s
    debits_posted: Int64s
    credits_pending: Int64s
    credits_posted: Int64s
