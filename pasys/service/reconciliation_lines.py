"""Every line of a statement that agrees with the books is matched; every other one has an open break that says why.

Lines are judged in sets: what they stand for, what is known about them and what corrections have added to the books
are read once, then domain/reconciliation.py compares, then one statement for each kind of consequence writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from pasys.db import Unit, queries
from pasys.domain import posting
from pasys.domain import reconciliation as rules
from pasys.domain.account import receivable
from pasys.domain.ledger import Purpose, Transfer
from pasys.domain.reconciliation import (
    BreakKind,
    BreakStatus,
    Corrected,
    Difference,
    Expected,
    Line,
    Nature,
    Resolution,
)
from pasys.events import ReconciliationMismatched, ReconciliationResolved, StatementLine
from pasys.service import account, ledger
from pasys.service.reconciliation_breaks import Finding, close, open_breaks

SQL = queries("reconciliation")
LEFT_OVER_AT_ONCE = 1_000
Said = ReconciliationMismatched | ReconciliationResolved


@dataclass(slots=True)
class _Known:
    """What is already known about the lines at hand."""

    payments: dict[str, Expected]
    refunds: dict[str, Expected]
    payouts: dict[str, Expected]
    stand_ins: dict[str, str]
    breaks: list[Any]

    def entity(self, row: Any, line: Line) -> Expected | None:
        """Our side of a line: by our id, else by the PSP's id of the object."""
        if line.nature is Nature.PAYOUT:
            return self.payouts.get(row.matched_id)
        if line.nature is Nature.OTHER:
            return None
        ours, our_id = (
            (self.payments, row.transaction_id) if line.nature is Nature.CHARGE else (self.refunds, row.refund_id)
        )
        found = ours.get(our_id or "") or ours.get(row.source_id or "")
        return None if found is None else replace(found, line_id=self.stand_ins.get(found.entity_id))

    def about(self, line: Line) -> list[Any]:
        """The breaks that were ever found about this line, in this occurrence."""
        return [b for b in self.breaks if b.line_id == line.line_id and b.occurrence == line.occurrence]

    def absences(self, expected: Expected | None) -> list[Any]:
        """The breaks that were found because this entity had no line."""
        if expected is None:
            return []
        return [b for b in self.breaks if b.line_id is None and b.entity_id == expected.entity_id]


@dataclass(slots=True)
class _Verdict:
    """What follows from judging a set of lines."""

    matched: dict[str, str | None] = field(default_factory=dict)
    fees: dict[str, tuple[int, str]] = field(default_factory=dict)
    payouts: list[Line] = field(default_factory=list)
    found: list[Finding] = field(default_factory=list)
    agree: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)


async def store(unit: Unit, run: Any, lines: Sequence[StatementLine]) -> None:
    """Keep a page as it was read."""
    await unit.rows(
        SQL["store"],
        psp=run.psp,
        run_id=run.id,
        line_ids=[line.line_id for line in lines],
        types=[line.type for line in lines],
        assets=[line.asset for line in lines],
        amounts=[line.amount_minor for line in lines],
        fees=[line.fee_minor for line in lines],
        sources=[line.source_id for line in lines],
        transactions=[line.transaction_id for line in lines],
        refunds=[line.refund_id for line in lines],
        statuses=[line.status for line in lines],
        descriptions=[line.description for line in lines],
        times=[line.created_at for line in lines],
    )


async def judge_page(unit: Unit, run: Any, line_ids: Sequence[str]) -> list[Said]:
    """Judge the lines of a page that agree with nothing yet."""
    rows = await unit.rows(SQL["unmatched_of_page"], psp=run.psp, run_id=run.id, line_ids=list(line_ids))
    return await _judge(unit, run, rows)


async def judge_left_over(unit: Unit, run: Any) -> list[Said]:
    """Judge the lines of earlier runs that agreed with nothing then."""
    said: list[Said] = []
    after, after_id = run.since - timedelta(days=1), ""
    while True:
        rows = await unit.rows(
            SQL["left_over"],
            psp=run.psp,
            run_id=run.id,
            since=run.since,
            until=run.until,
            after=after,
            after_id=after_id,
            limit=LEFT_OVER_AT_ONCE,
        )
        said += await _judge(unit, run, rows)
        if len(rows) < LEFT_OVER_AT_ONCE:
            return said
        after, after_id = rows[-1].created_at, rows[-1].line_id


async def _judge(unit: Unit, run: Any, rows: Sequence[Any]) -> list[Said]:
    if not rows:
        return []
    known = await _known(unit, run.psp, rows)
    young = unit.now - timedelta(seconds=unit.settings.reconcile_settle_s)
    verdict = _Verdict()
    for row in rows:
        line = _line(row)
        expected = known.entity(row, line)
        if _to_post(row, line):
            verdict.payouts.append(line)
        elif expected is None or not expected.settling or line.created_at <= young:
            named = expected.entity_id if expected else row.refund_id or row.transaction_id
            _compare(verdict, known, line, expected, named)
    return await _write(unit, run, verdict)


def _to_post(row: Any, line: Line) -> bool:
    """True for a payout that nothing was posted for."""
    new = row.matched_id is None and line.occurrence == 1
    return line.nature is Nature.PAYOUT and new and line.amount_minor != 0


def _line(row: Any) -> Line:
    return Line(
        line_id=row.line_id,
        occurrence=row.occurrence,
        type=row.type,
        asset=row.asset,
        amount_minor=row.amount_minor,
        fee_minor=row.fee_minor,
        status=row.status,
        created_at=row.created_at,
        source_id=row.source_id,
    )


async def _known(unit: Unit, psp: str, rows: Sequence[Any]) -> _Known:
    charges = [row for row in rows if rules.nature(row.type) is Nature.CHARGE]
    refunds = [row for row in rows if rules.nature(row.type) is Nature.REFUND]
    payouts = [row.matched_id for row in rows if rules.nature(row.type) is Nature.PAYOUT and row.matched_id]
    our_payments = await _ours(unit, "payments", psp, charges, [row.transaction_id for row in charges])
    our_refunds = await _ours(unit, "refunds", psp, refunds, [row.refund_id for row in refunds])
    await ledger.require_rows(unit, [UUID(id) for id in payouts])
    our_payouts = await unit.rows(SQL["payouts"], ids=payouts) if payouts else []
    entities = sorted({one.entity_id for one in (*our_payments.values(), *our_refunds.values())})
    line_ids = sorted({row.line_id for row in rows})
    stand_ins = await unit.rows(SQL["stand_ins"], ids=entities)
    return _Known(
        payments=our_payments,
        refunds=our_refunds,
        payouts={row.entity_id: _expected(row) for row in our_payouts},
        stand_ins={row.entity_id: row.line_id for row in stand_ins},
        breaks=await unit.rows(SQL["known_breaks"], psp=psp, lines=line_ids, entities=entities),
    )


async def _ours(
    unit: Unit, noun: str, psp: str, rows: Sequence[Any], our_ids: Sequence[str | None]
) -> dict[str, Expected]:
    """Entities under our id, and under the PSP's."""
    ids = {one for one in our_ids if one}
    nameless = sorted({row.source_id for row, ours in zip(rows, our_ids, strict=True) if row.source_id and not ours})
    if nameless:
        ids |= {row.id for row in await unit.rows(SQL[f"{noun}_by_reference"], psp=psp, references=nameless)}
    found = await unit.rows(SQL[noun], psp=psp, ids=sorted(ids)) if ids else []
    by_reference = {row.reference: _expected(row) for row in found if row.reference}
    return by_reference | {row.entity_id: _expected(row) for row in found}


def _expected(row: Any) -> Expected:
    return Expected(
        entity_id=row.entity_id,
        asset=row.asset,
        amount_minor=row.amount_minor,
        fee_minor=row.fee_minor,
        status=row.status,
        booked=row.booked,
        settling=row.settling,
        reference=row.reference,
    )


def _compare(verdict: _Verdict, known: _Known, line: Line, expected: Expected | None, named: str | None) -> None:
    """Judge one line, and remember for the next ones which entity it stands for. `named` is the one it speaks of."""
    about, absences = known.about(line), known.absences(expected)
    differences = rules.compare(expected, line, _corrected(about, absences))
    verdict.agree += [b.id for b in about if b.status == BreakStatus.OPEN and not _is_among(b, differences)]
    verdict.found += [
        Finding(found, line.asset, line.created_at, line.line_id, named)
        for found in differences
        if not any(_settles(b, found) for b in about)
    ]
    if line.occurrence == 1 and expected is not None and expected.booked and not rules.is_second(expected, line):
        verdict.late += [b.id for b in absences if b.status == BreakStatus.OPEN]
        known.stand_ins.setdefault(expected.entity_id, line.line_id)
        if told := rules.told_fee_minor(expected, line):
            verdict.fees[expected.entity_id] = (told, line.asset)
    if not differences:
        verdict.matched[line.line_id] = expected.entity_id if expected else None


def _corrected(about: Iterable[Any], absences: Iterable[Any]) -> Corrected:
    """What corrective entries have added to the books for a line."""
    sums = {BreakKind.AMOUNT: 0, BreakKind.FEE: 0}
    absence_minor = sum(b.difference_minor for b in absences if b.posted)
    for found in about:
        if not found.posted:
            continue
        if found.kind in sums:
            sums[BreakKind(found.kind)] += found.difference_minor
        else:
            absence_minor += found.difference_minor
    return Corrected(amount_minor=sums[BreakKind.AMOUNT], fee_minor=sums[BreakKind.FEE], absence_minor=absence_minor)


def _is_among(found: Any, differences: Iterable[Difference]) -> bool:
    return any((found.kind, found.difference_minor) == (d.kind, d.difference_minor) for d in differences)


def _settles(found: Any, difference: Difference) -> bool:
    """True where a break says this difference already: it is open, or a person has accepted it."""
    told = found.status == BreakStatus.OPEN or found.resolution == Resolution.ACCEPTED
    return told and _is_among(found, [difference])


async def _write(unit: Unit, run: Any, verdict: _Verdict) -> list[Said]:
    """The point of no return for a set of lines. Postings come last: they lock their assets."""
    payouts = await _payout_transfers(unit, run.psp, verdict.payouts)
    verdict.matched |= {line_id: str(transfers[0].id) for line_id, transfers in payouts.items()}
    if verdict.matched:
        lines, entities = list(verdict.matched), list(verdict.matched.values())
        await unit.rows(SQL["mark_matched"], psp=run.psp, lines=lines, entities=entities)
    said: list[Said] = []
    said += await close(unit, verdict.agree, Resolution.CORRECTED)
    said += await close(unit, verdict.late, Resolution.LATE_LINE)
    said += await open_breaks(unit, verdict.found, psp=run.psp, run_id=run.id)
    fees = await _told_fees(unit, run.psp, verdict.fees)
    await ledger.post(unit, [*(transfer for made in payouts.values() for transfer in made), *fees])
    return said


async def _payout_transfers(unit: Unit, psp: str, lines: Sequence[Line]) -> dict[str, list[Transfer]]:
    """Payouts by their report. The first transfer's id is kept on the line, which is therefore posted once."""
    transfers: dict[str, list[Transfer]] = {}
    for line in lines:
        entry = rules.payout(psp, line.amount_minor)
        numbers = await account.system_many(unit, [entry.debit, entry.credit, rules.FEES], line.asset)
        transfers[line.line_id] = posting.book_transfer(
            debit=numbers[entry.debit],
            credit=numbers[entry.credit],
            amount_minor=entry.amount_minor,
            asset=line.asset,
            reference=line.line_id,
            purpose=Purpose.PAYOUT,
            effective_at=line.created_at,
        )
        if line.fee_minor > 0:
            transfers[line.line_id] += posting.psp_fee(
                bearer=numbers[rules.FEES],
                receivable=numbers[receivable(psp)],
                amount_minor=line.fee_minor,
                asset=line.asset,
                reference=line.line_id,
            )
    return transfers


async def _told_fees(unit: Unit, psp: str, fees: dict[str, tuple[int, str]]) -> list[Transfer]:
    """Fees that only the statement told, for transactions that had none."""
    transfers: dict[str, Transfer] = {}
    owed = receivable(psp)
    for transaction_id, (fee_minor, asset) in fees.items():
        numbers = await account.system_many(unit, [rules.FEES, owed], asset)
        (transfers[transaction_id],) = posting.psp_fee(
            bearer=numbers[rules.FEES],
            receivable=numbers[owed],
            amount_minor=fee_minor,
            asset=asset,
            reference=transaction_id,
        )
    if not transfers:
        return []
    ids: list[UUID] = [transfer.id for transfer in transfers.values()]
    minors = [fee_minor for fee_minor, _ in fees.values()]
    told = await unit.rows(SQL["tell_fees"], ids=list(fees), fees=minors, transfers=ids)
    return [transfers[row.id] for row in told]
