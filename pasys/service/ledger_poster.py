"""A Poster writes in volume: callers hand over transfers, and those that meet are judged and committed together.

It trusts its memory of the accounts (ledger_cache.py), so a batch costs one call, and while the database writes one
batch the next is judged. Where somebody else posts to the same asset, it locks and reads first, as a Unit does. Either
way the answers are those of one transfer after the other, refusals recorded with their rule, and a caller is answered
only when its transfer is committed. After an error the outcome is what the journal says: ask again with the same id.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import numpy as np
import psycopg
from psycopg import errors as pg_errors

from pasys.config import Settings
from pasys.db import Database, database_errors
from pasys.domain.ledger import Posted, Transfer
from pasys.domain.ledger_batch import Books, Verdict
from pasys.domain.ledger_columns import EPOCH, Columns
from pasys.domain.ledger_rules import judge
from pasys.errors import InvalidInput, PasysError
from pasys.service import ledger_books as books
from pasys.service.ledger_books import Answers, Driver, Head, Writing
from pasys.service.ledger_cache import Cache

GROUP_MAX = 8_192  # transfers that are committed together, unless a caller's own batch is larger
WAITING_MAX = 100_000  # transfers that may wait; beyond, callers wait before they are heard
LAG_FROM = 64  # a smaller batch brings the account rows up to date; it has nothing to win by leaving them behind
LAG_MAX = 524_288  # transfers in which all account rows are written once; they lag by twice as many at most
LAG_S = 10  # or seconds, whichever comes first
REST_SHARE = Fraction(1, 100)  # of a sweep, when nobody has come
BREATH_S = timedelta(milliseconds=1).total_seconds()  # in a large batch: the one before is sent in steps, between ours
IDLE_S = timedelta(milliseconds=50).total_seconds()  # nobody has come for so long: the rows are brought up to date
RACES_MAX = 8  # times that an id may be recorded in another asset just now
WARY = 8  # batches for which the books are locked after somebody else has posted
_BY_INDEX = "-c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off -c plan_cache_mode=force_generic_plan"


class Poster:
    """Posts to any number of assets; use it as an async context. One process needs one; any number may run."""

    def __init__(
        self, db: Database, *, group_max: int = GROUP_MAX, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._db, self._group_max, self._now = db, group_max, now
        self._lanes: dict[str, _Lane] = {}

    async def __aenter__(self) -> Poster:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*[lane.close() for lane in self._lanes.values()])

    async def post(self, transfer: Transfer) -> Posted:
        """Post one transfer; it is committed when this returns. Refusals are recorded and returned.

        Raises DatabaseUnavailable (the outcome is unknown: ask again with the same id) and TransferConflict.
        """
        books.check_batch(1, linked_on=transfer.linked)
        answers, at = await self._lane(transfer.asset).ask(transfer)
        return Posted(*answers[at])

    async def post_many(self, batch: Columns) -> Answers:
        """Post a batch of one asset in its order, in one commit. Its accounts must belong to an asset that exists."""
        if not len(batch):
            none = np.zeros(0, np.int64)
            return Answers(none, none != 0, none)
        books.check_batch(len(batch), linked_on=batch.linked_on)
        verdict, at = await self._lane(batch.asset).ask(batch)
        mine = slice(at, at + len(batch))
        return Answers(verdict.result[mine], verdict.replayed[mine], verdict.seq[mine])

    def _lane(self, asset: str) -> _Lane:
        if asset not in self._lanes:
            self._lanes[asset] = _Lane(self._db, asset, self._group_max, self._now)
        return self._lanes[asset]


@dataclass(slots=True)
class _Ask:
    """A caller that waits: for its own answers among those of the batch that it became part of."""

    what: Transfer | Columns
    size: int
    answer: asyncio.Future[tuple[Any, int]]


@dataclass(slots=True)
class _Group:
    """Callers whose transfers are written together."""

    asks: list[_Ask]
    columns: Columns

    @classmethod
    def of(cls, asks: list[_Ask]) -> _Group:
        if all(isinstance(ask.what, Transfer) for ask in asks):
            return cls(asks, Columns.of([ask.what for ask in asks]))  # type: ignore[misc]
        parts = [ask.what if isinstance(ask.what, Columns) else Columns.of([ask.what]) for ask in asks]
        return cls(asks, Columns.joined(parts))

    def settle(self, verdict: Verdict) -> None:
        single = None
        at = 0
        for ask in self.asks:
            if not ask.answer.done():  # else its caller was cancelled
                if isinstance(ask.what, Transfer):
                    single = single or books.results_of(verdict)
                    ask.answer.set_result((single, at))
                else:
                    ask.answer.set_result((verdict, at))
            at += ask.size


class _Moved(Exception):
    """Somebody else has posted: what is remembered is not true any more."""


class _Lane:
    """One asset's queue and the task that works it off, over two connections: one writes while the other reads."""

    def __init__(self, db: Database, asset: str, group_max: int, now: Callable[[], datetime]) -> None:
        self._settings, self._url, self._asset, self._group_max = db.settings, db.url, asset, group_max
        self._now = now
        self._waiting: deque[_Ask] = deque()
        self._waiting_size = 0
        self._come, self._room = asyncio.Event(), asyncio.Event()
        self._room.set()
        self._closing = False
        self._cache: Cache | None = None
        self._wary = 0
        self._flight: asyncio.Task[bool] | None = None
        self._writer: Driver | None = None
        self._reader: Driver | None = None
        self._swept_ns = time.monotonic_ns()
        self._task = asyncio.create_task(self._run())

    async def ask(self, what: Transfer | Columns) -> tuple[Any, int]:
        size = 1 if isinstance(what, Transfer) else len(what)
        while not self._room.is_set():
            await self._room.wait()
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append(_Ask(what, size, answer))
        self._waiting_size += size
        if self._waiting_size >= WAITING_MAX:
            self._room.clear()
        self._come.set()
        return await answer

    async def close(self) -> None:
        """Answer everybody, bring the account rows up to date, and go."""
        self._closing = True
        self._come.set()
        await self._task
        for connection in (self._writer, self._reader):
            if connection is not None:
                await connection.close()

    # The loop: judge a group while the one before it is written -------------------------------------------------------

    async def _run(self) -> None:
        while True:
            asks = await self._next()
            if not asks:
                await self._rest()
                if self._closing and not self._waiting:
                    return
                continue
            try:
                with database_errors(self._settings):
                    await self._post(_Group.of(asks))
            except Exception as error:
                await self._land()
                await self._fail(asks, error)

    async def _fail(self, asks: list[_Ask], error: Exception) -> None:
        """Tell the callers. Where it is something about one of them, it is nobody else's fault: each is tried alone."""
        self._forget()
        together = len(asks) > 1 and not isinstance(error, PasysError)
        for ask in asks:
            try:
                if not together:
                    raise error
                with database_errors(self._settings):
                    await self._post_locked(_Group.of([ask]))
            except Exception as own:
                if not ask.answer.done():
                    ask.answer.set_exception(own)

    async def _next(self) -> list[_Ask]:
        """The next callers, as many as fit together; none where nobody has come for a while."""
        if not self._waiting:
            self._come.clear()
            if self._closing:
                return []
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._come.wait(), IDLE_S if self._cache and self._cache.lag else None)
        asks: list[_Ask] = []
        size = 0
        while self._waiting and (not asks or size + self._waiting[0].size <= self._group_max):
            asks.append(self._waiting.popleft())
            size += asks[-1].size
        self._waiting_size -= size
        if self._waiting_size < WAITING_MAX:
            self._room.set()
        return asks

    async def _post(self, group: _Group) -> None:
        judged = None
        if self._wary:
            self._wary -= 1
        elif self._cache is not None and not self._cache.full:
            with contextlib.suppress(_Moved):
                judged = await self._judge(self._cache, group)
        landed = await self._land()
        if judged is None or not landed:
            await self._post_locked(group)
        elif judged[1] is None:
            group.settle(judged[0])
        else:
            under_way = asyncio.Event()
            self._flight = asyncio.create_task(self._fly(group, judged[0], judged[1], under_way))
            await under_way.wait()  # the next group is judged while the database works, and not before it begins

    async def _rest(self) -> None:
        """Nobody waits: let the last flight land, and bring the account rows up to date."""
        await self._land()
        while self._cache is not None and self._cache.lag and not self._waiting:
            try:
                with database_errors(self._settings):
                    await books.write(await self._connection("writer"), self._catch_up(self._cache))
            except Exception:  # whoever locks the asset next does it from the journal
                self._forget()

    async def _land(self) -> bool:
        """Wait for the batch that is being written. False where it, and so all that was judged behind it, was not."""
        if self._flight is None:
            return True
        flight, self._flight = self._flight, None
        return await flight

    async def _fly(self, group: _Group, verdict: Verdict, writing: Writing, under_way: asyncio.Event) -> bool:
        """Write what was judged by memory; where that was not true any more, lock and read. True for the former."""
        try:
            with database_errors(self._settings):
                if await self._written(writing, under_way):
                    group.settle(verdict)
                    return True
                self._forget(wary=True)
                await self._post_locked(group)
        except Exception as error:
            await self._fail(group.asks, error)
        finally:
            under_way.set()
        return False

    async def _written(self, writing: Writing, under_way: asyncio.Event) -> bool:
        """False where somebody else has posted meanwhile, or an id was posted before."""
        try:
            await books.write(await self._connection("writer"), writing, under_way=under_way.set)
        except (pg_errors.SerializationFailure, pg_errors.UniqueViolation):
            return False
        return True

    # By memory --------------------------------------------------------------------------------------------------------

    async def _judge(self, cache: Cache, group: _Group) -> tuple[Verdict, Writing | None]:
        """Answers by what is remembered, and what is to be written; the memory is then that of after."""
        columns, now = group.columns, cache.head.time(self._now())
        numbers = columns.accounts()
        accounts = cache.accounts(numbers)
        if len(accounts) < len(numbers) or columns.pending_id is not None:
            reader = await self._connection("reader")
            missing = np.setdiff1d(numbers, accounts.number, assume_unique=True)
            row = await books.ask(reader, self._asset, missing, columns, lock=False, repeats=False)
            head = books.head_of(row)
            if head.epoch != cache.head.epoch or head.last_seq > cache.head.last_seq:
                raise _Moved
            read = books.accounts_of(row)
            cache.add(read)
            cache.add_holds(books.holds_of(row))
            accounts = cache.accounts(numbers, read)
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
        return min(max(Fraction(transfers, LAG_MAX), by_time), Fraction(1))

    def _catch_up(self, cache: Cache) -> Writing:
        """A batch of nothing, which brings some more of the account rows up to date."""
        none = np.zeros(0, np.int64)
        empty = Columns(asset=self._asset, id=np.zeros(0, "V16"), debit=none, credit=none, amount=none, purpose=none)
        now = cache.head.time(EPOCH)  # nothing is recorded, so that the last row's time stays
        verdict = judge(empty, Books(cache.head.last_seq, cache.accounts(none), {}, {}, now))
        rows, reached = cache.sweep(REST_SHARE)
        writing = books.prepare(empty, cache.head, verdict, now, accounts=rows, projected_seq=reached)
        cache.head = writing.head
        return writing

    # Under the lock ---------------------------------------------------------------------------------------------------

    async def _post_locked(self, group: _Group) -> None:
        """Lock, read, judge, write: the way that always works. What was read is remembered."""
        for left in reversed(range(RACES_MAX)):
            try:
                verdict = await self._write_locked(group.columns)
                return group.settle(verdict)
            except pg_errors.UniqueViolation as error:  # now it can be seen, and its caller alone gets the conflict
                if not left:
                    raise books.conflict(error) from None

    async def _write_locked(self, columns: Columns) -> Verdict:
        now, driver = self._now(), await self._connection("writer")
        async with driver.transaction():
            found = await books.load(driver, columns, lock=True, now=now)
            if found is None:
                raise InvalidInput(field="asset", reason=f"{self._asset} has no accounts")
            head, seen = found
            verdict = judge(columns, seen)
            if verdict.recorded.any():
                writing = books.prepare(columns, head, verdict, now, accounts=verdict.changed)
                await books.write(driver, writing)
                head = writing.head
        self._remember(columns, verdict, seen, head)
        return verdict

    def _remember(self, columns: Columns, verdict: Verdict, seen: Books, head: Head) -> None:
        cache = self._cache = Cache(head)
        cache.add(seen.accounts)
        cache.add_holds(seen.holds)
        cache.take(columns, verdict, lags=False)

    def _forget(self, *, wary: bool = False) -> None:
        self._cache = None
        if wary:
            self._wary = WARY

    async def _connection(self, role: str) -> Driver:
        connection: Driver | None = getattr(self, f"_{role}")
        if connection is None or connection.closed:
            connection = await _connect(self._url, self._settings)
            setattr(self, f"_{role}", connection)
        return connection


async def _connect(url: str, settings: Settings) -> Driver:
    return await psycopg.AsyncConnection.connect(
        url.replace("postgresql+psycopg://", "postgresql://", 1),
        autocommit=True,
        prepare_threshold=0,
        connect_timeout=10,
        application_name="pasys poster",
        options=_BY_INDEX,
    )


def posted(answers: Answers) -> Sequence[tuple[int, bool, int]]:
    """The answers one by one."""
    return list(zip(answers.result.tolist(), answers.replayed.tolist(), answers.seq.tolist(), strict=True))
