"""A Poster writes in volume: callers hand over transfers, and those that meet are judged and committed together.

It trusts its memory of the books (ledger_memory.py), so a batch costs one call, and while the database writes one
batch the next is judged. Where somebody else posts to the same asset, it locks and reads first, as a Unit does. Either
way the answers are those of one transfer after the other, refusals recorded with their rule, and a caller is answered
only when its transfer is committed. After an error the outcome is what the journal says: ask again with the same id.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import numpy as np
import psycopg
from psycopg import errors as pg_errors

from pasys.config import Settings
from pasys.db import Database, database_errors
from pasys.domain.ledger import Posted, Transfer
from pasys.domain.ledger_batch import Verdict
from pasys.domain.ledger_columns import Columns
from pasys.domain.ledger_rules import judge
from pasys.errors import InvalidInput, PasysError
from pasys.service import ledger_books as books
from pasys.service.ledger_books import Answers, Driver, Writing
from pasys.service.ledger_memory import Memory

GROUP_MAX = 8_192  # transfers that are committed together, unless a caller's own batch is larger
WAITING_MAX = 100_000  # transfers that may wait; beyond, callers wait before they are heard
IDLE_S = timedelta(milliseconds=50).total_seconds()  # nobody has come for so long: the rows are brought up to date
RACES_MAX = 8  # times that an id may be recorded in another asset just now
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
        self._memory = Memory(asset, now, partial(self._connection, "reader"))
        self._flight: asyncio.Task[bool] | None = None
        self._writer: Driver | None = None
        self._reader: Driver | None = None
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
        self._memory.forget()
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
                await asyncio.wait_for(self._come.wait(), IDLE_S if self._memory.lag else None)
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
        judged = await self._memory.judge(group.columns)
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
        while self._memory.lag and not self._waiting:
            try:
                with database_errors(self._settings):
                    await books.write(await self._connection("writer"), self._memory.catch_up())
            except Exception:  # whoever locks the asset next does it from the journal
                self._memory.forget()

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
                self._memory.forget(wary=True)
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
        self._memory.remember(columns, verdict, seen, head)
        return verdict

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
