"""What a poster remembers of an asset's books, by which it judges and seals batches while nobody else posts.

Account rows are left behind where many are changed, and swept up a share at a time (ledger_cache.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from fractions import Fraction

import numpy as np

from pasys.domain.ledger import Kind, Posted, Result, Transfer
from pasys.domain.ledger_batch import Books, Verdict
from pasys.domain.ledger_columns import EPOCH, Columns
from pasys.domain.ledger_one import move, rule_of
from pasys.domain.ledger_rules import judge
from pasys.driver import Driver
from pasys.service import ledger_books as books
from pasys.service.ledger_books import Head, Writing
from pasys.service.ledger_cache import Cache

LAG_FROM = 64  # a smaller batch brings the account rows up to date; it has nothing to win by leaving them behind
LAG_MAX = 524_288  # transfers in which all account rows are written once; they lag by twice as many at most
LAG_S = 10  # or seconds, whichever comes first
REST_SHARE = Fraction(1, 100)  # of a sweep, when nobody has come
STEP_NS = int(LAG_S * 10**9 * REST_SHARE)  # after which such a share is due
BREATH_S = timedelta(milliseconds=1).total_seconds()  # in a large batch: the one before is sent in steps, between ours
WARY = 8  # batches for which the books are locked after somebody else has posted
Judged = tuple[Verdict, Writing | None]  # the answers, and what is to be written, if anything


class _Moved(Exception):
    """Somebody else has posted: what is remembered is not true any more."""


class _Unseen(Exception):
    """A unit that is not committed yet has opened an account, or brought rows up to date that lagged."""


class Memory:
    """One asset's books as they are behind all that one poster has judged, written or not.

    It is told when something was not written after all (`forget`). `reader` opens the connection over which accounts
    and holds are read that it has not met yet. `lag_max` are the transfers in which all account rows are written once.
    """

    def __init__(self, asset: str, reader: Callable[[], Awaitable[Driver]], lag_max: int | None) -> None:
        self._asset, self._reader, self._lag_max = asset, reader, lag_max
        self.cache: Cache | None = None
        self._wary = 0
        self._swept_ns = time.monotonic_ns()

    @property
    def lag(self) -> int:
        """Transfers that the account rows do not show yet, as far as it knows."""
        return self.cache.lag if self.cache is not None else 0

    @property
    def trusted(self) -> bool:
        """True where the next batch is judged by it, unless somebody else posts meanwhile."""
        return self.cache is not None and not self.cache.full and not self._wary

    def forget(self, *, wary: bool = False) -> None:
        """`wary`: somebody else posts, too, and it is not worth while to remember for some batches."""
        self.cache = None
        if wary:
            self._wary = WARY

    def remember(self, columns: Columns, verdict: Verdict, seen: Books, head: Head) -> None:
        """What was read under the lock, and what was then written behind it."""
        cache = self.cache = Cache(head, seen.last_seq)
        cache.add(seen.accounts)
        cache.add_holds(seen.holds)
        cache.take(columns, verdict, lags=False)

    def judge_one(self, transfer: Transfer, now: datetime) -> tuple[Posted, Writing] | None:
        """Judge a transfer that comes alone, in plain integers: most of what it costs would be arrays of one.

        None, and nothing is remembered, but where it is direct, accepted, between accounts that were met before, and
        where no share of lagging account rows is due.
        """
        cache = self.cache
        if cache is None or not self.trusted or transfer.kind is not Kind.DIRECT or self._sweep_due(cache):
            return None
        now = cache.head.time(now)
        debit, credit = cache.side(transfer.debit), cache.side(transfer.credit)
        if debit is None or credit is None or rule_of(transfer, debit, credit, None, now):
            return None
        move(transfer, debit, credit, None)
        cache.take_sides((debit, credit))
        writing = books.prepare_one(transfer, debit, credit, cache.head, now)
        cache.head = writing.head
        return Posted(Result.ACCEPTED, False, writing.head.last_seq), writing

    def _sweep_due(self, cache: Cache) -> bool:
        return cache.lag > 0 and time.monotonic_ns() - self._swept_ns >= STEP_NS

    async def judge(self, columns: Columns, now: datetime, *, known: bool = False) -> Judged | None:
        """Judge a batch, and remember it as written; None where the books must be locked and read instead.

        With `known`, that is also where the reader cannot see an account: a unit may be about to open it.
        """
        if self._wary:
            self._wary -= 1
            return None
        if self.cache is None or self.cache.full:
            return None
        try:
            return await self._judge(self.cache, columns, now, known=known)
        except (_Moved, _Unseen):
            return None

    async def _judge(self, cache: Cache, columns: Columns, now: datetime, *, known: bool) -> Judged:
        now = cache.head.time(now)
        numbers = columns.accounts()
        accounts = cache.accounts(numbers)
        if len(accounts) < len(numbers) or columns.pending_id is not None:
            missing = np.setdiff1d(numbers, accounts.number, assume_unique=True)
            row = await books.ask(await self._reader(), self._asset, missing, columns, lock=False, repeats=False)
            head = books.head_of(row)
            if head.epoch != cache.head.epoch or head.last_seq > cache.head.last_seq:
                raise _Moved
            if head.projected_seq < cache.since:
                raise _Unseen
            read = books.accounts_of(row)
            cache.add(read)
            cache.add_holds(books.holds_of(row))
            accounts = cache.accounts(numbers, read)
            if known and len(accounts) < len(numbers):
                raise _Unseen
        seen = Books(cache.head.last_seq, accounts, cache.holds, {}, now)
        verdict = judge(columns, seen)
        if not verdict.recorded.any():
            return verdict, None
        if len(columns) >= books.COPY_FROM:
            await asyncio.sleep(BREATH_S)
        return verdict, self._seal(cache, columns, verdict, now)

    def _seal(self, cache: Cache, columns: Columns, verdict: Verdict, now: datetime) -> Writing:
        before = cache.head
        if len(columns) < LAG_FROM and not cache.lag:
            cache.take(columns, verdict, lags=False)
            writing = books.prepare(columns, before, verdict, now, accounts=verdict.changed)
        else:
            cache.take(columns, verdict, lags=True)
            rows, reached = cache.sweep(self._share(len(columns)))
            writing = books.prepare(columns, before, verdict, now, accounts=rows, projected_seq=reached)
        cache.head = writing.head
        return writing

    def _share(self, transfers: int) -> Fraction:
        """How much of a sweep over the account rows goes with a batch: by its size, and by the time since the last."""
        now = time.monotonic_ns()
        by_time = min(Fraction(now - self._swept_ns, LAG_S * 10**9), REST_SHARE)  # time without a batch does not count
        self._swept_ns = now
        return min(max(Fraction(transfers, self._lag_max or LAG_MAX), by_time), Fraction(1))

    def catch_up(self) -> Writing:
        """A batch of nothing, which brings some more of the account rows up to date. Only where they lag."""
        cache = self.cache
        assert cache is not None, "nothing lags that is not remembered"
        none = np.zeros(0, np.int64)
        empty = Columns(asset=self._asset, id=np.zeros(0, "V16"), debit=none, credit=none, amount=none, purpose=none)
        now = cache.head.time(EPOCH)  # nothing is recorded, so that the last row's time stays
        verdict = judge(empty, Books(cache.head.last_seq, cache.accounts(none), {}, {}, now))
        rows, reached = cache.sweep(REST_SHARE)
        writing = books.prepare(empty, cache.head, verdict, now, accounts=rows, projected_seq=reached)
        cache.head = writing.head
        return writing
