"""A batch of transfers is held as columns, beside the accounts and holds it touches, for rules over whole arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from pasys.domain.ledger import FINISHING, Hold, Kind, Recorded, Result, Transfer, same

Int64s = NDArray[np.int64]
Bools = NDArray[np.bool_]
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
        at = np.minimum(np.searchsorted(self.number, numbers), len(self) - 1)
        return at, self.number[at] == numbers


@dataclass(frozen=True, slots=True)
class Books:
    """All that the rules need to know about one asset: already loaded, and locked until what follows is written."""

    last_seq: int
    accounts: Accounts
    holds: Mapping[UUID, Hold]
    earlier: Mapping[UUID, Recorded]
    now: datetime


class Batch:
    """The columns of a batch, and how its transfers hang together: repeated ids, chains, holds.

    `fixed` has the answers that are known before any rule is asked (a replay of what the journal has, a conflict);
    `copies` has, for an id that stands twice in the batch, the index of the first.
    """

    def __init__(self, transfers: Sequence[Transfer], earlier: Mapping[UUID, Recorded]) -> None:
        self.transfers = transfers
        n = len(transfers)
        self.debit = np.fromiter((t.debit for t in transfers), np.int64, n)
        self.credit = np.fromiter((t.credit for t in transfers), np.int64, n)
        self.amount = np.fromiter((t.amount_minor for t in transfers), np.int64, n)
        self.kind = np.fromiter((t.kind for t in transfers), np.int64, n)
        self.purpose = np.fromiter((t.purpose for t in transfers), np.int64, n)
        self.starts_money = self.kind <= Kind.PENDING
        self.fixed: dict[int, Recorded | None] = {}
        self.copies: dict[int, int] = {}
        self.new = np.ones(n, np.bool_)
        self._match_ids(earlier)
        self.chain_starts, self.chain = self._chains()

    def __len__(self) -> int:
        return len(self.transfers)

    @property
    def starts_something(self) -> Bools:
        """What a frozen or closed account refuses."""
        return self.starts_money & ~np.isin(self.purpose, _FINISHING)

    def fixed_result(self, i: int) -> Result:
        known = self.fixed[i]
        return Result.ID_CONFLICT if known is None else known.result

    def _match_ids(self, earlier: Mapping[UUID, Recorded]) -> None:
        ids = [t.id.int for t in self.transfers]
        if not earlier and len(set(ids)) == len(ids):
            return
        first: dict[int, int] = {}
        for i, transfer in enumerate(self.transfers):
            known = earlier.get(transfer.id)
            j = first.setdefault(ids[i], i)
            if known is not None:
                self.fixed[i] = known if same(transfer, known.transfer) else None
            elif j != i and same(transfer, self.transfers[j]):
                self.copies[i] = j
            elif j != i:
                self.fixed[i] = None
        self.new[list(self.fixed)] = False
        self.new[list(self.copies)] = False

    def _chains(self) -> tuple[Int64s, Int64s | None]:
        """First index of each chain, and each transfer's chain; None where no transfer is linked."""
        n = len(self)
        if not any(t.linked for t in self.transfers):
            return np.arange(n), None
        assert not self.transfers[-1].linked, "the last transfer of a batch has no next one to be linked with"
        begins = np.ones(n, np.bool_)
        begins[1:] = [not t.linked for t in self.transfers[:-1]]
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
