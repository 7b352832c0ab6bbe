"""A run reads a PSP's statement to its end; then every line agrees with the books, or an open break says why not.

A run without a beginning of its own is about everything, and reads on from where the last such run ended: what was read
before is kept. A run with `since` reads its own window again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import insert, select, update

from pasys import ids
from pasys.adapters import installed_psps
from pasys.db import Unit, queries
from pasys.domain import reconciliation as rules
from pasys.domain.reconciliation import BreakStatus, Expected, RunStatus
from pasys.errors import InvalidInput, RunNotFound, UnknownRail
from pasys.events import (
    ReconciliationFetched,
    ReconciliationMatched,
    ReconciliationMismatched,
    ReconciliationRequested,
    ReconciliationResolved,
    ReconciliationUnavailable,
)
from pasys.schema import reconciliation_run as table
from pasys.service.reconciliation_breaks import (
    LISTING_MAX,
    Ages,
    BreakRow,
    Finding,
    Proposed,
    ages,
    break_,
    break_row,
    breaks,
    close_no_longer_repeated,
    one_of,
    open_breaks,
    preview,
    resolve,
)
from pasys.service.reconciliation_lines import judge_left_over, judge_page, store

__all__ = [
    "Ages",
    "BreakRow",
    "Proposed",
    "RunReport",
    "RunRow",
    "ages",
    "break_",
    "breaks",
    "fail",
    "listing",
    "match",
    "preview",
    "resolve",
    "run",
    "run_status",
    "schedule",
    "start",
]

SQL = queries("reconciliation")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)  # a PSP's clock counts whole seconds
OVERLAP = timedelta(hours=1)  # lines that the PSP lists late are read again for so long
RUN_MAX = timedelta(hours=1)
NO_ASSET = "XXX"  # ISO 4217: no currency. A run is about all of them
REPORTED_MAX = 1_000
Said = ReconciliationRequested | ReconciliationMatched | ReconciliationMismatched | ReconciliationResolved


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run. `since` is None for one about everything; `open_breaks` is what it left open when it ended."""

    run_id: str
    psp: str
    status: str
    since: datetime | None
    until: datetime
    lines: int
    matched: int
    open_breaks: int
    reason: str | None
    actor: str
    started_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class RunReport:
    """A run with its breaks: those that it found, and older ones in its window that are still open."""

    run_id: str
    status: str
    psp: str
    since: datetime | None
    until: datetime
    lines: int
    matched: int
    breaks: Sequence[BreakRow]
    reason: str | None
    actor: str
    started_at: datetime
    finished_at: datetime | None

    @property
    def open_breaks(self) -> int:
        return sum(found.status == BreakStatus.OPEN for found in self.breaks)


async def start(unit: Unit, psp: str, *, since: datetime | None = None, until: datetime | None = None) -> RunRow:
    """Ask for a run. Raises UnknownRail, InvalidInput."""
    if psp not in installed_psps():
        raise UnknownRail(rail=psp, installed=", ".join(installed_psps()))
    row, asked = await _begin(unit, psp, since=since, until=until)
    unit.emit(asked)
    return row


async def schedule(unit: Unit) -> list[ReconciliationRequested]:
    """Start a run for each PSP that was ever asked for anything, unless its statement is being read."""
    await unit.rows(SQL["abandon"], now=unit.now, before=unit.now - RUN_MAX)
    due = await unit.rows(SQL["due"], psps=installed_psps())
    return [(await _begin(unit, row.psp, since=None, until=None))[1] for row in due]


async def _begin(
    unit: Unit, psp: str, *, since: datetime | None, until: datetime | None
) -> tuple[RunRow, ReconciliationRequested]:
    for field, moment in (("since", since), ("until", until)):
        if moment is not None and moment.tzinfo is None:
            raise InvalidInput(field=field, reason="it has no time zone")
    end = unit.now.replace(microsecond=0) + SECOND
    until = end if until is None else min(until, end)
    if since is not None and since >= until:
        raise InvalidInput(field="since", reason=f"{since.isoformat()} is not before {until.isoformat()}")
    read_from = since or await _watermark(unit, psp, until)
    values = {
        "id": ids.new("run"),
        "psp": psp,
        "status": RunStatus.READING.value,
        "since": since or EPOCH,
        "until": until,
        "actor": unit.actor,
        "started_at": unit.now,
    }
    row = await unit.one(insert(table).values(values).returning(table))
    assert row is not None
    asked = ReconciliationRequested(asset=NO_ASSET, run_id=row["id"], psp=psp, since=read_from, until=until)
    return _run_row(row), asked


async def _watermark(unit: Unit, psp: str, until: datetime) -> datetime:
    read_until = await unit.value(SQL["watermark"], psp=psp, epoch=EPOCH)
    return EPOCH if read_until is None else max(min(read_until, until) - OVERLAP, EPOCH)


async def match(unit: Unit, event: ReconciliationFetched) -> list[Said]:
    """Keep and judge a page; then ask for the next one, or complete the run. A run that has ended stays as it is."""
    await unit.rows(SQL["one_at_a_time"], psp=event.psp)
    run = await unit.row(SQL["reading"], run_id=event.run_id)
    if run is None:
        return []
    await store(unit, run, event.lines)
    said = await judge_page(unit, run, [line.line_id for line in event.lines])
    if event.cursor is None:
        return [*said, *await _complete(unit, run, event)]
    following = ReconciliationRequested(
        asset=NO_ASSET, run_id=run.id, psp=run.psp, since=event.since, until=event.until, cursor=event.cursor
    )
    return [*said, following]


async def _complete(unit: Unit, run: Any, event: ReconciliationFetched) -> list[Said]:
    said: list[Said] = [*await judge_left_over(unit, run)]
    said += await close_no_longer_repeated(unit, run)
    if event.whole:
        said += await open_breaks(unit, await _missing(unit, run, read_from=event.since), psp=run.psp, run_id=run.id)
    done = await unit.row(SQL["complete"], run_id=run.id, psp=run.psp, since=run.since, until=run.until, now=unit.now)
    assert done is not None, "it is locked and reading"
    return [
        *said,
        ReconciliationMatched(asset=NO_ASSET, run_id=run.id, psp=run.psp, matched=done.matched, breaks=done.breaks),
    ]


async def _missing(unit: Unit, run: Any, *, read_from: datetime) -> list[Finding]:
    """What we booked long enough ago and the statement does not have. Earlier runs have seen to what was before."""
    settle = timedelta(seconds=unit.settings.reconcile_settle_s)
    rows = await unit.rows(
        SQL["missing"],
        psp=run.psp,
        asked_since=run.since + SECOND,
        moved_since=max(read_from - settle, EPOCH),
        until=min(run.until, unit.now) - settle,
    )
    return [Finding(rules.missing_at_psp(_booked(row)), row.asset, row.moved_at, None, row.entity_id) for row in rows]


def _booked(row: Any) -> Expected:
    return Expected(
        entity_id=row.entity_id,
        asset=row.asset,
        amount_minor=row.amount_minor,
        fee_minor=row.fee_minor,
        status=row.status,
        reference=row.reference,
    )


async def fail(unit: Unit, event: ReconciliationUnavailable) -> None:
    """The run ends without a watermark, so that the next one reads the same again."""
    await unit.execute(
        update(table)
        .where(table.c.id == event.run_id, table.c.status == RunStatus.READING.value)
        .values(status=RunStatus.FAILED.value, reason=event.reason, finished_at=unit.now)
    )


async def run_status(unit: Unit, run_id: str) -> RunRow:
    """A run as it stands. Raises RunNotFound."""
    row = await unit.one(select(table).where(table.c.id == run_id))
    if row is None:
        raise RunNotFound(run_id=run_id)
    return _run_row(row)


async def run(unit: Unit, run_id: str) -> RunReport:
    """A run with its breaks, of which at most REPORTED_MAX are told. Raises RunNotFound."""
    row = await run_status(unit, run_id)
    found = await unit.rows(SQL["of_run"], run_id=run_id, limit=REPORTED_MAX)
    return RunReport(
        run_id=row.run_id,
        status=row.status,
        psp=row.psp,
        since=row.since,
        until=row.until,
        lines=row.lines,
        matched=row.matched,
        breaks=[break_row(one._asdict()) for one in found],
        reason=row.reason,
        actor=row.actor,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


async def listing(unit: Unit, *, status: str | None = None, psp: str | None = None, limit: int = 50) -> list[RunRow]:
    """Runs, newest first. Every filter narrows; one that means nothing raises InvalidInput."""
    if not 1 <= limit <= LISTING_MAX:
        raise InvalidInput(field="limit", reason=f"1 to {LISTING_MAX}")
    query = select(table).order_by(table.c.id.desc()).limit(limit)
    if status is not None:
        query = query.where(table.c.status == one_of("status", status, RunStatus).value)
    if psp is not None:
        query = query.where(table.c.psp == psp)
    return [_run_row(row) for row in await unit.execute(query)]


def _run_row(row: Any) -> RunRow:
    return RunRow(
        run_id=row["id"],
        psp=row["psp"],
        status=row["status"],
        since=None if row["since"] == EPOCH else row["since"],
        until=row["until"],
        lines=row["lines"],
        matched=row["matched"],
        open_breaks=row["breaks"],
        reason=row["reason"],
        actor=row["actor"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
    )
