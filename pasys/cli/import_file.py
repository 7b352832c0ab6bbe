"""A CSV file that was checked as a whole is handed to the books a chunk at a time.

The next chunk is parsed while the database works on the last one.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

from pasys.adapters import installed_psps, open_psp
from pasys.cli.import_source import Progress, Source, Survey, parsed, survey
from pasys.db import CONNECTIONS_MAX, Database, Unit, chunks
from pasys.domain.import_row import BadRow, Rows
from pasys.domain.transaction import BOOK
from pasys.errors import ImportRefused, InvalidInput, InvalidRows
from pasys.service import import_batch
from pasys.service.import_batch import Refusal, Wanted
from pasys.service.ledger import post_many
from pasys.service.ledger_poster import Poster
from pasys.service.ledger_trial import Trial
from pasys.service.transaction import MET_MAX, Created, Party, Turn

ACCOUNTS_A_UNIT = 2_000
UNITS_AT_A_TIME = CONNECTIONS_MAX
LAG_MAX = 16_384  # transfers: a payment that is settled meanwhile waits until what lags is added up
OBJECTS_BETWEEN_COLLECTIONS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    open_accounts: bool
    atomic: bool
    dry_run: bool
    skip_invalid: bool
    batch_size: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a row, or in a dry run what would have."""

    line: int
    key: str | None
    answer: str
    status: str | None
    rule: str | None
    message: str | None


@dataclass(slots=True)
class Outcome:
    """What an import did. `refused` and `refusals` are the whole import's, the other counts this run's."""

    batch: str | None
    file: str
    state: str
    rows: int
    done_before: int = 0
    created: int = 0
    replayed: int = 0
    refused: int = 0
    invalid: int = 0
    accounts_opened: int = 0
    seconds: float = 0.0
    rate: float = 0.0
    refusals: list[Refusal] = field(default_factory=list)
    invalid_rows: list[BadRow] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)


@contextlib.contextmanager
def _rare_collections() -> Iterator[None]:
    """Look for circles of objects now and then only: cells are in lists, which are many, and none holds itself.

    A seventh of the import's own time went into looking.
    """
    was = gc.get_threshold()
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS, *was[1:])
    try:
        yield
    finally:
        gc.set_threshold(*was)


class _UndoDryRun(Exception):
    """Rolls the unit of a dry run back."""


@_rare_collections()
def prepare(source: Source, options: Options, progress: Progress) -> Survey:
    """Check the file. Raises InvalidInput, and InvalidRows unless those are to be left out."""
    found = survey(source, [BOOK, *installed_psps()], accounts=options.open_accounts, progress=progress)
    if found.bad and not options.skip_invalid:
        first = found.bad[0]
        raise InvalidRows(
            file=source.name,
            count=len(found.bad_lines),
            rows=found.rows,
            line=first.line,
            message=first.message,
            invalid_rows=found.bad,
        )
    return found


async def run(db: Database, source: Source, found: Survey, options: Options, progress: Progress) -> Outcome:
    """Import a file that was checked. Raises ImportRefused where it was to be atomic and a row was refused."""
    for rail in sorted(found.rails_used - {BOOK}):  # one that cannot be opened would refuse every row, slowly
        await open_psp(rail, db.settings).close()
    job = _Import(source, found, options, progress)
    started = time.monotonic()
    with _rare_collections():
        if options.dry_run:
            await job.try_out(db)
        elif options.atomic:
            await job.all_or_none(db)
        else:
            await job.go_on(db)
    outcome = job.outcome
    outcome.seconds = round(time.monotonic() - started, 3)
    outcome.rate = round((outcome.rows - outcome.done_before) / max(outcome.seconds, 0.001), 1)
    return outcome


class _Import:
    """One run over one file."""

    def __init__(self, source: Source, found: Survey, options: Options, progress: Progress) -> None:
        self._source, self._found, self._options, self._progress = source, found, options, progress
        self._met: dict[tuple[str | None, str], Party] = {}
        self.outcome = Outcome(None, source.name, "finished", found.rows)
        self.outcome.invalid, self.outcome.invalid_rows = len(found.bad_lines), found.bad

    async def go_on(self, db: Database) -> None:
        """Chunk by chunk, each in a unit of its own, from where the last run stopped."""
        async with db.unit() as unit:
            batch = await self._begin(unit)
        if batch.finished_at is None:
            for wanted in self._accounts():
                async with db.unit() as unit:
                    opened = await import_batch.open_accounts(unit, wanted)
                self._meet(opened)
            async with db.unit() as unit:  # an asset's first row locks all journals, which nobody may who waits
                await import_batch.ensure_assets(unit, sorted(self._found.assets_outside))
            async with Poster(db, lag_max=LAG_MAX) as poster:
                await self._in_turn(db, batch, poster)
        async with db.unit() as unit:
            self.outcome.refusals = await import_batch.refusals(unit, batch.id)
        self.outcome.refused = len(self.outcome.refusals)

    async def _in_turn(self, db: Database, batch: import_batch.Batch, poster: Poster) -> None:
        """Several chunks at a time: while one is posted, the next are written, and wait for their turn to be posted."""

        async def one(rows: Rows, done: int, count: int, turn: Turn) -> None:
            async with db.unit() as unit:
                answers = await import_batch.advance(
                    unit, batch.id, rows, done=done, count=count, turn=turn, post=poster.post_in
                )
            turn.committed.set()
            room.release()
            self._count(answers, done + count)

        done, room, turn = batch.rows_done, asyncio.Semaphore(UNITS_AT_A_TIME), None
        try:
            async with asyncio.TaskGroup() as group:
                async for count, rows in self._chunks(done):
                    await room.acquire()
                    turn = Turn(turn, self._met)
                    group.create_task(one(rows, done, count, turn))
                    done += count
        except BaseExceptionGroup as errors:  # the others were only ended because of the first
            raise errors.exceptions[0] from None

    async def all_or_none(self, db: Database) -> None:
        async with db.unit() as unit:
            batch = await self._begin(unit)
            await self._whole(unit, batch)
            if self.outcome.refusals and batch.finished_at is None:
                first = self.outcome.refusals[0]
                raise ImportRefused(
                    file=self._source.name,
                    refused=self.outcome.refused,
                    rows=self.outcome.rows,
                    line=first.line,
                    message=first.message,
                    refusals=self.outcome.refusals,
                )

    async def try_out(self, db: Database) -> None:
        """The real run in one unit, which is rolled back. Others go on posting: it only asks what would be posted."""
        with contextlib.suppress(_UndoDryRun):
            async with db.unit() as unit:
                batch = await self._begin(unit)
                await self._whole(unit, batch)
                if batch.finished_at is None:
                    self.outcome.state = "dry run"
                if batch.rows_done == 0:
                    self.outcome.batch = None  # it goes with its unit
                raise _UndoDryRun

    async def _begin(self, unit: Unit) -> import_batch.Batch:
        source = self._source
        batch = await import_batch.begin(
            unit, file_name=source.name, file_hash=source.hash, rows_total=self._found.rows
        )
        self.outcome.batch, self.outcome.done_before = batch.id, batch.rows_done
        if batch.finished_at is not None:
            self.outcome.state = "finished before"
        elif self._options.atomic and batch.rows_done:
            reason = f"{batch.id} has imported {batch.rows_done} rows already; run it without --atomic"
            raise InvalidInput(field="atomic", reason=reason)
        return batch

    async def _whole(self, unit: Unit, batch: import_batch.Batch) -> None:
        """What is left of the file, in one unit; of a finished one, what was refused."""
        self.outcome.refusals = await import_batch.refusals(unit, batch.id)
        self.outcome.refused = len(self.outcome.refusals)
        if batch.finished_at is not None:
            return
        for wanted in self._accounts():
            self._meet(await import_batch.open_accounts(unit, wanted))
        done, kept = batch.rows_done, not self._options.dry_run
        post = post_many if kept else Trial().post_many
        async for count, rows in self._chunks(done):
            turn = Turn(met=self._met, kept=kept)
            answers = await import_batch.advance(unit, batch.id, rows, done=done, count=count, turn=turn, post=post)
            done += count
            self._count(answers, done)
            refused = import_batch.refusals_of(rows, answers)
            self.outcome.refusals += refused
            if self._options.dry_run:
                self.outcome.answers += _answers(rows, answers, refused)
        self.outcome.refused = len(self.outcome.refusals)

    def _meet(self, opened: list[Party]) -> None:
        self.outcome.accounts_opened += len(opened)
        for party in opened[: max(MET_MAX - len(self._met), 0)]:
            self._met[party.name, party.asset] = party

    def _accounts(self) -> Iterator[list[Wanted]]:
        accounts = sorted(self._found.accounts.items())
        wanted = [Wanted(name, asset, account_type) for (name, asset), account_type in accounts]
        return (list(portion) for portion in chunks(wanted, ACCOUNTS_A_UNIT))

    async def _chunks(self, done: int) -> AsyncIterator[tuple[int, Rows]]:
        portions = parsed(self._source, self._found, done=done, size=self._options.batch_size)
        upcoming: asyncio.Future[Any] = asyncio.ensure_future(asyncio.to_thread(next, portions, None))
        while (portion := await upcoming) is not None:
            upcoming = asyncio.ensure_future(asyncio.to_thread(next, portions, None))
            yield portion

    def _count(self, answers: list[Created], done: int) -> None:
        refused = sum([answer.refusal is not None for answer in answers])
        replayed = sum([answer.replayed for answer in answers])
        self.outcome.created += len(answers) - refused - replayed
        self.outcome.replayed += replayed
        self._progress("importing", done, self._found.rows)


def _answers(rows: Rows, answers: list[Created], refused: list[Refusal]) -> Iterator[Answer]:
    why = {refusal.line: refusal for refusal in refused}
    for line, key, answer in zip(rows.line, rows.key, answers, strict=True):
        if refusal := why.get(line):
            yield Answer(line, key, "refused", None, refusal.rule, refusal.message)
        else:
            yield Answer(line, key, "replayed" if answer.replayed else "created", answer.status, None, None)
