"""A Poster writes in volume: callers hand over transfers, and those that meet are judged and committed together.

It trusts its memory of the books (ledger_memory.py), so a batch costs one call, and while the database writes one
batch the next is judged. Where somebody else posts to the same asset, it locks and reads first, as a Unit does. Either
way the answers are those of one transfer after the other, refusals recorded with their rule, and a caller is answered
only when its transfer is committed. After an error the outcome is what the journal says: ask again with the same id.

Who has rows of his own to commit with his transfers brings his unit (`post_in`): they are judged by the same memory, in
the same queue, but he writes them himself when it is his turn, and who is next waits until his unit has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import numpy as np
import psycopg
from psycopg import errors as pg_errors

from pasys.config import Settings
from pasys.db import Database, Unit, database_errors
from pasys.domain.ledger import Posted, Transfer
from pasys.domain.ledger_batch import Books, Verdict
from pasys.domain.ledger_columns import Columns
from pasys.domain.ledger_rules import judge
from pasys.driver import Driver, connect
from pasys.errors import InvalidInput, PasysError
from pasys.service import ledger
from pasys.service import ledger_books as books
from pasys.service.ledger_ask import Ask, Group, Join
from pasys.service.ledger_books import Answers, Head, Writing
from pasys.service.ledger_memory import Judged, Memory

GROUP_MAX = 8_192  # transfers that are committed together, unless a caller's own batch is larger
SPLIT_FROM = 128  # so many that wait for an idle database go in two halves: one is written while the other is judged
WAITING_MAX = 100_000  # transfers that may wait; beyond, callers wait before they are heard
IDLE_S = timedelta(milliseconds=50).total_seconds()  # nobody has come for so long: the rows are brought up to date
LANES_MAX = 8  # assets in which units post by memory: each takes a connection
RACES_MAX = 8  # times that an id may be recorded in another asset just now
_Whole = Callable[[], contextlib.AbstractAsyncContextManager[object]]  # a transaction, or a part of one
_BY_INDEX = "-c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off -c plan_cache_mode=force_generic_plan"


class Poster:
    """Posts to any number of assets; use it as an async context. One process needs one; any number may run."""

    def __init__(
        self,
        db: Database,
        *,
        group_max: int = GROUP_MAX,
        lag_max: int | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`lag_max`: account rows lag by twice as many transfers at most; who posts beside it adds them up first."""
        self._db, self._group_max, self._lag_max, self._now = db, group_max, lag_max, now
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
        return await self._lane(transfer.asset).ask(transfer)

    async def post_many(self, batch: Columns) -> Answers:
        """Post a batch of one asset in its order, in one commit. Its accounts must belong to an asset that exists."""
        if not len(batch):
            none = np.zeros(0, np.int64)
            return Answers(none, none != 0, none)
        books.check_batch(len(batch), linked_on=batch.linked_on)
        verdict, at = await self._lane(batch.asset).ask(batch)
        mine = slice(at, at + len(batch))
        return Answers(verdict.result[mine], verdict.replayed[mine], verdict.seq[mine])

    async def post_in(self, unit: Unit, batch: Columns) -> Answers:
        """Post a batch of one asset in a unit, with which it stands or falls: as the door's `post_many`, but by memory.

        From here on the asset is locked for everybody until the unit ends, and who comes behind waits for its end; so
        post late, and end every unit before the poster is closed. Who posts in several assets locks them first. Raises
        InvalidInput where nobody has an account in the asset yet.
        """
        new = batch.asset not in self._lanes and len(self._lanes) >= LANES_MAX
        # Who has locked an asset must not wait in a queue: PostgreSQL would not see that two wait for each other.
        if unit.in_books or unit.in_savepoint or new:
            return await ledger.post_many(unit, batch)
        books.check_batch(len(batch), linked_on=batch.linked_on)
        verdict = await self._lane(batch.asset).join(unit, batch)
        return Answers(verdict.result, verdict.replayed, verdict.seq)

    def _lane(self, asset: str) -> _Lane:
        if asset not in self._lanes:
            self._lanes[asset] = _Lane(self._db, asset, self._group_max, self._lag_max, self._now)
        return self._lanes[asset]


class _Lane:
    """One asset's queue and the task that works it off, over two connections: one writes while the other reads."""

    def __init__(
        self, db: Database, asset: str, group_max: int, lag_max: int | None, now: Callable[[], datetime]
    ) -> None:
        self._settings, self._url, self._asset, self._group_max = db.settings, db.url, asset, group_max
        self._now = now
        self._waiting: deque[Ask | Join] = deque()
        self._waiting_size = 0
        self._come, self._room = asyncio.Event(), asyncio.Event()
        self._room.set()
        self._closing = False
        self._memory = Memory(asset, partial(self._connection, "reader"), lag_max)
        self._flight: asyncio.Task[bool] | None = None
        self._writer: Driver | None = None
        self._reader: Driver | None = None
        self._task = asyncio.create_task(self._run())

    def ask(self, what: Transfer | Columns) -> Awaitable[Any]:
        """The answer, as Ask has it."""
        return self._queue(Ask(what))

    async def join(self, unit: Unit, columns: Columns) -> Verdict:
        join = Join(unit, columns)
        # Even where the answer is cancelled: by then it may be this unit's turn, which lasts until the unit ends.
        unit.in_books = True
        judged = await self._queue(join)
        try:
            verdict = await self._write_in(join, judged)
            join.written = True
        finally:
            join.posted.set()
        return verdict

    def _queue(self, ask: Ask | Join) -> Awaitable[Any]:
        """Not a coroutine where there is room: a caller with one transfer would notice what each costs."""
        if not self._room.is_set():
            return self._queue_later(ask)
        self._waiting.append(ask)
        self._waiting_size += ask.size
        if self._waiting_size >= WAITING_MAX:
            self._room.clear()
        self._come.set()
        return ask.answer

    async def _queue_later(self, ask: Ask | Join) -> Any:
        await self._room.wait()
        return await self._queue(ask)

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
                if self._flight is not None:  # whoever waits for it may come right behind it
                    await self._land()
                    continue
                await self._rest()
                if self._closing and not self._waiting:
                    return
                continue
            try:
                with database_errors(self._settings):
                    if isinstance(asks, Join):
                        await self._admit(asks)
                    else:
                        await self._post(Group(asks))
            except Exception as error:
                await self._land()
                await self._fail(asks, error)

    async def _fail(self, asks: Sequence[Ask] | Join, error: Exception) -> None:
        """Tell the callers. Where it is something about one of them, it is nobody else's fault: each is tried alone."""
        self._memory.forget()
        if isinstance(asks, Join):
            return _fail_one(asks, error)
        together = len(asks) > 1 and not isinstance(error, PasysError)
        for ask in asks:
            try:
                if not together:
                    raise error
                with database_errors(self._settings):
                    await self._post_locked(Group([ask]))
            except Exception as own:
                _fail_one(ask, own)

    async def _next(self) -> list[Ask] | Join:
        """The next callers, as many as fit together; none where nobody has come for a while."""
        if not self._waiting:
            self._come.clear()
            if self._closing:
                return []
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._come.wait(), IDLE_S if self._memory.lag else None)
        waiting = self._waiting
        if waiting and isinstance(join := waiting[0], Join):
            waiting.popleft()
            self._come_in(join.size)
            return join
        asks: list[Ask] = []
        size, size_max = 0, self._size_max()
        while waiting and isinstance(ask := waiting[0], Ask) and (not asks or size + ask.size <= size_max):
            waiting.popleft()
            asks.append(ask)
            size += ask.size
        self._come_in(size)
        return asks

    def _size_max(self) -> int:
        """How many go together. Callers who are answered together come back together: where nothing is being written,
        half of them go first, and from then on each half is judged while the other is written."""
        idle = self._flight is None or self._flight.done()
        if idle and self._memory.trusted and self._waiting_size >= SPLIT_FROM:
            return min(self._group_max, self._waiting_size // 2)
        return self._group_max

    def _come_in(self, size: int) -> None:
        """So many transfers do not wait any more."""
        self._waiting_size -= size
        if self._waiting_size < WAITING_MAX:
            self._room.set()

    async def _post(self, group: Group) -> None:
        now = self._now()
        alone = None if group.alone is None else self._memory.judge_one(group.alone, now)
        judged = alone or await self._memory.judge(group.columns, now)
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
        """Nobody waits: bring the account rows up to date."""
        role = "reader" if self._writer is None else "writer"  # where only units post, one connection will do
        while self._memory.lag and not self._waiting:
            try:
                with database_errors(self._settings):
                    await books.write(await self._connection(role), self._memory.catch_up())
            except Exception:  # whoever locks the asset next does it from the journal
                self._memory.forget()

    async def _land(self) -> bool:
        """Wait for the batch that is being written. False where it, and so all that was judged behind it, was not."""
        if self._flight is None:
            return True
        flight, self._flight = self._flight, None
        return await flight

    async def _fly(self, group: Group, verdict: Verdict | Posted, writing: Writing, under_way: asyncio.Event) -> bool:
        """Write what was judged by memory; where that was not true any more, lock and read. True for the former."""
        try:
            with database_errors(self._settings):
                if await _written(await self._connection("writer"), writing, under_way.set):
                    group.settle_soon(verdict)
                    return True
                self._memory.forget(wary=True)
                await self._post_locked(group)
        except Exception as error:
            await self._fail(group.asks, error)
        finally:
            under_way.set()
        return False

    # Into somebody's unit ---------------------------------------------------------------------------------------------

    async def _admit(self, join: Join) -> None:
        """Give a caller its turn. What comes behind is judged as if its unit were committed, and waits for its end."""
        if join.ended.done():
            return
        judged = await self._judge(join)
        if not await self._land():
            judged = None
        if join.answer.done():  # its caller has gone, and memory has what it wanted
            return self._memory.forget()
        join.answer.set_result(judged)
        self._flight = asyncio.create_task(self._outcome(join))
        if judged is None:
            await join.posted.wait()  # until then there is nothing to remember

    async def _judge(self, join: Join) -> Judged | None:
        try:
            return await self._memory.judge(join.columns, join.unit.now, known=True)
        except psycopg.OperationalError:  # that of our own reader, and no fault of the unit
            return self._memory.forget()

    async def _outcome(self, join: Join) -> bool:
        """True where the books are as they were judged to be behind a caller's batch, now that his unit has ended."""
        committed = await join.ended
        if not committed:
            self._memory.forget()
        return committed and not join.moved

    async def _write_in(self, join: Join, judged: Judged | None) -> Verdict:
        if judged is not None:
            verdict, writing = judged
            if writing is None or await _written(join.unit.driver, writing, whole=join.unit.savepoint):
                return verdict
            join.moved = True
            self._memory.forget(wary=True)
        return await self._write_locked(join.unit.driver, join.columns, join.unit.now, join.unit.savepoint)

    # Under the lock ---------------------------------------------------------------------------------------------------

    async def _post_locked(self, group: Group) -> None:
        driver = await self._connection("writer")
        group.settle(await self._write_locked(driver, group.columns, self._now(), driver.transaction))

    async def _write_locked(self, driver: Driver, columns: Columns, now: datetime, whole: _Whole) -> Verdict:
        """Lock, read, judge, write: the way that always works. What was read is remembered."""
        for left in reversed(range(RACES_MAX)):
            try:
                async with whole():
                    verdict, seen, head = await self._write_once(driver, columns, now)
                self._memory.remember(columns, verdict, seen, head)
                return verdict
            except pg_errors.UniqueViolation as error:  # now it can be seen, and its caller alone gets the conflict
                if not left:
                    raise books.conflict(error) from None
        raise AssertionError("the last time, it is answered or raised")

    async def _write_once(self, driver: Driver, columns: Columns, now: datetime) -> tuple[Verdict, Books, Head]:
        found = await books.load(driver, columns, lock=True, now=now)
        if found is None:
            raise InvalidInput(field="asset", reason=f"{self._asset} has no accounts")
        head, seen = found
        verdict = judge(columns, seen)
        if not verdict.recorded.any():
            return verdict, seen, head
        writing = books.prepare(columns, head, verdict, now, accounts=verdict.changed)
        await books.write(driver, writing)
        return verdict, seen, writing.head

    async def _connection(self, role: str) -> Driver:
        connection: Driver | None = getattr(self, f"_{role}")
        if connection is None or connection.closed:
            connection = await _connect(self._url, self._settings)
            setattr(self, f"_{role}", connection)
        return connection


async def _written(
    driver: Driver,
    writing: Writing,
    under_way: Callable[[], None] = lambda: None,
    whole: _Whole = contextlib.nullcontext,
) -> bool:
    """False where somebody else has posted meanwhile, or an id was posted before."""
    try:
        async with whole():
            await books.write(driver, writing, under_way=under_way)
    except (pg_errors.SerializationFailure, pg_errors.UniqueViolation):
        return False
    return True


def _fail_one(ask: Ask | Join, error: Exception) -> None:
    if not ask.answer.done():
        ask.answer.set_exception(error)


async def _connect(url: str, settings: Settings) -> Driver:
    return await connect(
        url,
        autocommit=True,
        prepare_threshold=0,
        connect_timeout=10,
        application_name="pasys poster",
        options=_BY_INDEX,
    )
