"""A break is opened once, and is closed by a corrective entry, by the two sides agreeing, or by a person's word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from msgspec.structs import replace
from sqlalchemy import insert, select, update

from pasys import ids
from pasys.db import Unit, queries
from pasys.domain import posting
from pasys.domain import reconciliation as rules
from pasys.domain.account import receivable
from pasys.domain.ledger import Purpose, Transfer
from pasys.domain.reconciliation import BreakKind, BreakStatus, Difference, Entry, Resolution
from pasys.errors import BreakNotFound, BreakResolved, InvalidInput
from pasys.events import ReconciliationMismatched, ReconciliationResolved
from pasys.money import Money
from pasys.schema import reconciliation_break as table
from pasys.service import account, ledger

SQL = queries("reconciliation")
LISTING_MAX = 10_000
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@dataclass(frozen=True, slots=True)
class BreakRow:
    """A break with its evidence: what the books say, and what the statement says.

    `run_id` is None for one that no run found: a PSP captured another amount than it was asked for.
    """

    id: str
    run_id: str | None
    psp: str
    kind: str
    asset: str
    difference_minor: int
    line_id: str | None
    entity_id: str | None
    status: str
    resolution: str | None
    note: str | None
    actor: str | None
    transfer_ids: Sequence[UUID]
    found_at: datetime
    resolved_at: datetime | None
    expected: Mapping[str, Any]
    found: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Ages:
    """How many breaks of a kind are open, since less than an hour, since less than a day, and for longer."""

    kind: str
    hour: int
    day: int
    longer: int
    oldest: datetime


@dataclass(frozen=True, slots=True)
class Proposed:
    """One transfer of a corrective entry, by the names of its accounts."""

    debit: str
    credit: str
    amount: Money


@dataclass(frozen=True, slots=True)
class Finding:
    """A difference that nobody knows yet. `at` is when the line was made or our money moved."""

    difference: Difference
    asset: str
    at: datetime
    line_id: str | None
    entity_id: str | None


async def open_breaks(
    unit: Unit, findings: Sequence[Finding], *, psp: str, run_id: str | None
) -> list[ReconciliationMismatched]:
    """Record differences; the caller has seen that they are new. Without a run, a transaction's capture showed them."""
    if not findings:
        return []
    rows = [_values(unit, finding, psp, run_id) for finding in findings]
    await unit.execute(insert(table), rows)
    return [
        ReconciliationMismatched(
            asset=row["asset"],
            break_id=row["id"],
            run_id=run_id,
            transaction_id=row["entity_id"] if run_id is None else None,
            kind=row["kind"],
            difference_minor=row["difference_minor"],
        )
        for row in rows
    ]


def _values(unit: Unit, finding: Finding, psp: str, run_id: str | None) -> dict[str, Any]:
    difference = finding.difference
    return {
        "id": ids.new("brk"),
        "run_id": run_id,
        "psp": psp,
        "kind": difference.kind.value,
        "asset": finding.asset,
        "difference_minor": difference.difference_minor,
        "line_id": finding.line_id,
        "entity_id": finding.entity_id,
        "evidence": {"expected": difference.expected, "found": difference.found, "at": finding.at.isoformat()},
        "found_at": unit.now,
    }


async def close(unit: Unit, break_ids: Sequence[str], resolution: Resolution) -> list[ReconciliationResolved]:
    """Close breaks that need nobody's decision any more; those that are closed already are left alone."""
    if not break_ids:
        return []
    closed = await unit.rows(
        SQL["close_breaks"], ids=list(break_ids), resolution=resolution.value, actor=unit.actor, now=unit.now
    )
    return _resolved(closed, resolution)


async def close_no_longer_repeated(unit: Unit, run: Any) -> list[ReconciliationResolved]:
    """Close breaks of lines that the PSP had listed twice, and now lists once."""
    resolution = Resolution.CORRECTED
    closed = await unit.rows(
        SQL["no_longer_repeated"],
        psp=run.psp,
        run_id=run.id,
        resolution=resolution.value,
        actor=unit.actor,
        now=unit.now,
    )
    return _resolved(closed, resolution)


def _resolved(closed: Sequence[Any], resolution: Resolution) -> list[ReconciliationResolved]:
    return [
        ReconciliationResolved(asset=row.asset, break_id=row.id, run_id=row.run_id, resolution=resolution.value)
        for row in closed
    ]


async def break_(unit: Unit, break_id: str) -> BreakRow:
    """One break. Raises BreakNotFound."""
    row = await unit.one(select(table).where(table.c.id == break_id))
    if row is None:
        raise BreakNotFound(break_id=break_id)
    return break_row(row)


async def breaks(
    unit: Unit,
    *,
    status: str | None = None,
    psp: str | None = None,
    kind: str | None = None,
    run_id: str | None = None,
    longest: bool = False,
    limit: int = 50,
) -> list[BreakRow]:
    """Breaks, newest first, or with `longest` those first that were found longest ago. Every filter narrows; one that
    means nothing raises InvalidInput."""
    if not 1 <= limit <= LISTING_MAX:
        raise InvalidInput(field="limit", reason=f"1 to {LISTING_MAX}")
    query = select(table).order_by(table.c.id if longest else table.c.id.desc()).limit(limit)
    if status is not None:
        query = query.where(table.c.status == one_of("status", status, BreakStatus).value)
    if kind is not None:
        query = query.where(table.c.kind == one_of("kind", kind, BreakKind).value)
    if psp is not None:
        query = query.where(table.c.psp == psp)
    if run_id is not None:
        query = query.where(table.c.run_id == run_id)
    return [break_row(row) for row in await unit.execute(query)]


async def ages(unit: Unit) -> list[Ages]:
    """How long breaks have been open, by kind; kinds of which none is open are left out."""
    return [Ages(*row) for row in await unit.rows(SQL["ages"], hour=unit.now - HOUR, day=unit.now - DAY)]


def one_of(field: str, text: str, choices: Any) -> Any:
    """The member that a text means. Raises InvalidInput that lists them all."""
    if text not in {choice.value for choice in choices}:
        listed = ", ".join(choice.value for choice in choices)
        raise InvalidInput(field=field, reason=f"{text!r} is not one of {listed}")
    return choices(text)


async def preview(unit: Unit, break_id: str, *, accept: bool = False) -> list[Proposed]:
    """The entry that `resolve` would post; none with `accept`. Raises BreakNotFound, BreakResolved, NoCorrection."""
    found = await break_(unit, break_id)
    if found.status != BreakStatus.OPEN:
        raise BreakResolved(break_id=break_id, status=found.status)
    if accept:
        return []
    entry = _entry(found)
    return [Proposed(entry.debit, entry.credit, Money(entry.amount_minor, found.asset))]


async def resolve(unit: Unit, break_id: str, *, accept: bool = False, note: str | None = None) -> BreakRow:
    """Close a break by the entry that makes the books agree with the statement or, with `accept`, as it is.

    Raises BreakNotFound, BreakResolved, and NoCorrection for a break that only `accept` can close.
    """
    taken = await unit.one(
        update(table)
        .where(table.c.id == break_id, table.c.status == BreakStatus.OPEN.value)
        .values(
            status=BreakStatus.RESOLVED.value,
            resolution=(Resolution.ACCEPTED if accept else Resolution.ENTRY).value,
            note=note,
            actor=unit.actor,
            resolved_at=unit.now,
        )
        .returning(table)
    )
    if taken is None:
        raise BreakResolved(break_id=break_id, status=(await break_(unit, break_id)).status)
    if not accept:
        await _correct(unit, break_row(taken))
    closed = await break_(unit, break_id)
    unit.emit(
        ReconciliationResolved(
            asset=closed.asset, break_id=closed.id, run_id=closed.run_id, resolution=closed.resolution or ""
        )
    )
    return closed


async def _correct(unit: Unit, found: BreakRow) -> None:
    """Post the entry, and let the line stand as matched once its last break has one."""
    transfers = await _transfers(unit, found, _entry(found))
    ids_ = [transfer.id for transfer in transfers]
    await unit.execute(update(table).where(table.c.id == found.id).values(transfer_ids=ids_))
    if found.line_id is not None:
        alone = found.kind in (BreakKind.MISSING_IN_LEDGER, BreakKind.DUPLICATE)
        entity_id = found.id if alone else found.entity_id
        await unit.rows(SQL["settle_line"], psp=found.psp, line_id=found.line_id, entity_id=entity_id)
    await ledger.post(unit, transfers)


def _entry(found: BreakRow) -> Entry:
    return rules.correction(found.id, found.kind, found.difference_minor, psp=found.psp, found=dict(found.found))


async def _transfers(unit: Unit, found: BreakRow, entry: Entry) -> list[Transfer]:
    numbers = await account.system_many(unit, [entry.debit, entry.credit], found.asset)
    transfers = posting.correction(
        debit=numbers[entry.debit],
        credit=numbers[entry.credit],
        amount_minor=entry.amount_minor,
        asset=found.asset,
        reference=found.id,
    )
    corrected = await _corrected_transfer(unit, found, numbers[receivable(found.psp)])
    return [replace(transfer, corrects=corrected) for transfer in transfers]


async def _corrected_transfer(unit: Unit, found: BreakRow, receivable: int) -> UUID | None:
    if found.entity_id is None or found.kind not in (BreakKind.AMOUNT, BreakKind.FEE, BreakKind.MISSING_AT_PSP):
        return None
    posted = await unit.value(SQL["posted_transfers"], entity_id=found.entity_id)
    await ledger.require_rows(unit, posted or [])
    return await unit.value(
        SQL["corrected_transfer"],
        entity_id=found.entity_id,
        receivable=receivable,
        fee=int(Purpose.FEE),
        about_fee=found.kind == BreakKind.FEE,
    )


def break_row(row: Any) -> BreakRow:
    """A row of the table, whichever way it was read."""
    evidence = row["evidence"]
    same = {name: row[name] for name in BreakRow.__slots__ if name not in ("expected", "found")}
    return BreakRow(**same, expected=evidence["expected"], found=evidence["found"])
