"""Settlement: transactions are handed to a PSP once, and whatever the PSP says is applied to the books exactly once.

An outcome that the PSP does not tell stays unknown, and is asked for under the same keys until it is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from pasys.db import Unit, queries
from pasys.domain import posting
from pasys.domain.account import receivable
from pasys.domain.ledger import Transfer
from pasys.domain.reconciliation import Expected, captured_otherwise
from pasys.domain.settlement import SUSPECTED_FRAUD, Pending, settled, status_after
from pasys.domain.transaction import Kind, Status
from pasys.errors import NothingToResolve
from pasys.events import (
    AnalyticsRecorded,
    Event,
    FraudCleared,
    FraudFlagged,
    PspNotified,
    SettlementFailed,
    SettlementRequested,
    SettlementSucceeded,
    SettlementUnknown,
    TransactionFailed,
    TransactionFlagged,
    TransactionSucceeded,
)
from pasys.service import account, ledger, ledger_history, refund
from pasys.service.reconciliation_breaks import Finding, open_breaks
from pasys.service.transaction_state import Move, lock, move, one, open_hold, release

SQL = queries("settlement")
STALE_S = 300  # in settlement for so long without an answer or a doubt: its message was lost with the bus
RESOLVE_MAX = 200
EXPIRE_MAX = 200
PAYMENT_STEPS = ["authorise", "capture"]


async def prepare(unit: Unit, events: Sequence[FraudCleared]) -> list[SettlementRequested]:
    """Record the attempts of cleared transactions; from here on they cannot be cancelled."""
    rows = await unit.rows(SQL["prepare"], ids=[event.transaction_id for event in events], now=unit.now)
    return [_request(row, requested_at=row.requested_at, again=False, reference=None) for row in rows]


def _request(row: Any, *, requested_at: Any, again: bool, reference: str | None) -> SettlementRequested:
    return SettlementRequested(
        transaction_id=row.id,
        psp=row.rail,
        amount_minor=row.amount_minor,
        asset=row.asset,
        payment_method=row.payment_method,
        customer=row.customer,
        again=again,
        psp_reference=reference,
        requested_at=requested_at,
    )


async def succeed(unit: Unit, events: Sequence[SettlementSucceeded]) -> list[Event]:
    """Record captures: the hold becomes money, the merchant is credited, the PSP's fee is booked."""
    answers = {event.transaction_id: event for event in events}
    rows = await lock(unit, answers)
    debtors = await _receivables(unit, rows.values())
    pending = {row.id: _pending(unit, row, debtors[row.rail, row.asset]) for row in rows.values()}
    transfers = {id: settled(payment, answers[id].captured_minor) for id, payment in pending.items()}
    await _record_attempts(unit, [answers[id] for id, made in transfers.items() if made])
    fees = await _fees(unit, [answers[id] for id, made in transfers.items() if made], pending)
    moves = [
        _arrived(payment, answers[id], [*transfers[id], *fees.get(id, ())])
        for id, payment in pending.items()
        if transfers[id]
    ]
    moved = await move(unit, moves)
    said: list[Event] = [*await _breaks(unit, [(pending[id], answers[id]) for id in moved])]
    sent_back: list[Transfer] = []
    for id, payment in pending.items():
        if id in moved:
            announced, reserved = await _announce(unit, rows[id], payment, answers[id])
            said += announced
            sent_back += reserved
    # Last, because it locks the asset for everybody until the commit.
    await ledger.post(unit, [*(t for id, made in transfers.items() for t in (*made, *fees.get(id, ()))), *sent_back])
    return said


async def _receivables(unit: Unit, rows: Iterable[Any]) -> dict[tuple[str, str], int]:
    """The accounts of what the PSPs owe us, by (rail, asset)."""
    kept = {(row.rail, row.asset) for row in rows}
    return {(rail, asset): await account.system(unit, receivable(rail), asset) for rail, asset in sorted(kept)}


def _pending(unit: Unit, row: Any, debtor: int) -> Pending:
    hold = open_hold(row)
    lapsed = hold is not None and hold.expired(unit.now)
    kind = Kind(row.kind)
    deposit = kind is Kind.DEPOSIT
    return Pending(
        id=row.id,
        kind=kind,
        status=Status(row.status),
        asset=row.asset,
        amount_minor=row.amount_minor,
        captured_minor=row.captured_minor,
        flagged=row.reason == SUSPECTED_FRAUD,
        hold=None if lapsed else hold,
        payer=row.credit_account if deposit else row.debit_account,
        payee=None if deposit else row.credit_account,
        receivable=debtor,
        lapsed=hold if lapsed else None,
    )


async def _record_attempts(unit: Unit, answers: Sequence[SettlementSucceeded]) -> None:
    await unit.rows(
        SQL["succeeded"],
        now=unit.now,
        ids=[a.transaction_id for a in answers],
        references=[a.psp_reference for a in answers],
        charges=[a.charge_reference for a in answers],
        auth_codes=[a.auth_code for a in answers],
        processor_codes=[a.processor_code for a in answers],
        authorise_ms=[a.authorise_ms for a in answers],
        capture_ms=[a.capture_ms for a in answers],
    )


async def _fees(
    unit: Unit, answers: Sequence[SettlementSucceeded], pending: dict[str, Pending]
) -> dict[str, list[Transfer]]:
    """What the PSP kept. A fee that it has not told yet is booked when its statement tells it."""
    kept = [answer for answer in answers if answer.fee_minor]
    bearers = {asset: await account.system(unit, "fees:psp", asset) for asset in sorted({a.asset for a in kept})}
    return {
        answer.transaction_id: posting.psp_fee(
            bearer=bearers[answer.asset],
            receivable=pending[answer.transaction_id].receivable,
            amount_minor=answer.fee_minor or 0,
            asset=answer.asset,
            reference=answer.transaction_id,
        )
        for answer in kept
    }


async def _breaks(unit: Unit, captures: Iterable[tuple[Pending, SettlementSucceeded]]) -> list[Event]:
    """A PSP that captured more than it was asked for, or less, is booked as it is, and somebody has to look."""
    said: list[Event] = []
    for payment, answer in captures:
        asked = Expected(
            entity_id=payment.id,
            asset=payment.asset,
            amount_minor=payment.amount_minor,
            fee_minor=None,
            status=payment.status.value,
            reference=answer.psp_reference,
        )
        found = captured_otherwise(asked, captured_minor=answer.captured_minor, reference=answer.charge_reference)
        if found is not None:
            finding = Finding(found, payment.asset, unit.now, None, payment.id)
            said += await open_breaks(unit, [finding], psp=answer.psp, run_id=None)
    return said


def _arrived(payment: Pending, answer: SettlementSucceeded, transfers: list[Transfer]) -> Move:
    becomes = status_after(payment)
    return Move(
        payment.id,
        payment.status,
        becomes,
        reason=SUSPECTED_FRAUD if becomes is Status.FRAUD else None,
        captured_minor=answer.captured_minor,
        fee_minor=answer.fee_minor or 0,
        credited=becomes is Status.SUCCEEDED and payment.payee is not None,
        psp_reference=answer.psp_reference,
        charge_reference=answer.charge_reference,
        transfer_ids=[transfer.id for transfer in transfers],
    )


async def _announce(
    unit: Unit, row: Any, payment: Pending, answer: SettlementSucceeded
) -> tuple[list[Event], list[Transfer]]:
    """Say what the capture led to. Money that must not stay goes back by an automatic refund, and is out of the payer's
    reach as soon as it stands on his account: the transfers that take it there are posted after the capture's."""
    fee_minor = answer.fee_minor or 0
    status = status_after(payment)
    said: list[Event] = [_analytics(unit, row, status, reason=None, fee_minor=fee_minor)]
    if status is Status.SUCCEEDED:
        return [
            TransactionSucceeded(
                transaction_id=row.id,
                kind=row.kind,
                rail=row.rail,
                amount_minor=answer.captured_minor,
                fee_minor=fee_minor,
                asset=row.asset,
            ),
            *said,
        ], []
    flagged = payment.status is Status.PENDING  # else it had ended before
    if flagged:
        said.append(TransactionFlagged(transaction_id=row.id, reason=SUSPECTED_FRAUD, captured=True, asset=row.asset))
    reason = SUSPECTED_FRAUD if flagged else "captured_late"
    going, reserved = await refund.send_back(unit, row.id, reason=reason)
    return [*said, *going], reserved


def _analytics(unit: Unit, row: Any, status: Status, *, reason: str | None, fee_minor: int = 0) -> AnalyticsRecorded:
    return AnalyticsRecorded(
        transaction_id=row.id,
        kind=row.kind,
        rail=row.rail,
        status=status.value,
        amount_minor=row.amount_minor,
        fee_minor=fee_minor,
        reason=reason,
        seconds_to_final=(unit.now - row.created_at).total_seconds(),
        asset=row.asset,
    )


async def fail(unit: Unit, events: Sequence[SettlementFailed]) -> list[Event]:
    """Record declines: the hold is released. A payment that was flagged meanwhile ends as fraud."""
    answers = {event.transaction_id: event for event in events}
    locked = await lock(unit, answers)
    rows = {id: row for id, row in locked.items() if row.status == Status.PENDING}
    await _record_declines(unit, [answers[id] for id in rows])
    released = await release(unit, list(rows.values()))
    moves = []
    for id, row in rows.items():
        flagged = row.reason == SUSPECTED_FRAUD
        becomes = Status.FRAUD if flagged else Status.FAILED
        reason = SUSPECTED_FRAUD if flagged else answers[id].reason
        psp_reference = answers[id].psp_reference
        moves.append(Move(id, Status.PENDING, becomes, reason, psp_reference=psp_reference, transfer_ids=released[id]))
    moved = await move(unit, moves)
    said: list[Event] = []
    for step in moves:
        if step.transaction_id in moved:
            row = rows[step.transaction_id]
            assert step.reason is not None, "a decline has its reason"
            said.append(_analytics(unit, row, step.becomes, reason=step.reason))
            if step.becomes is Status.FAILED:
                said.append(TransactionFailed(transaction_id=row.id, reason=step.reason, asset=row.asset))
            else:
                flag = TransactionFlagged(transaction_id=row.id, reason=step.reason, captured=False, asset=row.asset)
                said.append(flag)
    return said


async def _record_declines(unit: Unit, answers: Sequence[SettlementFailed]) -> None:
    await unit.rows(
        SQL["declined"],
        now=unit.now,
        ids=[a.transaction_id for a in answers],
        steps=[a.step for a in answers],
        reasons=[a.reason for a in answers],
        processor_codes=[a.processor_code for a in answers],
        references=[a.psp_reference for a in answers],
        latencies=[a.latency_ms for a in answers],
    )


async def doubt(unit: Unit, events: Sequence[SettlementUnknown]) -> None:
    """Mark outcomes as unknown, and say when to ask next. After the deadline an operator asks."""
    await lock(unit, [event.transaction_id for event in events])
    await unit.rows(
        SQL["doubt"],
        now=unit.now,
        deadline=unit.now - timedelta(seconds=unit.settings.outcome_deadline_s),
        ids=[e.transaction_id for e in events],
        steps=[e.step for e in events],
        reasons=[e.reason for e in events],
        latencies=[e.latency_ms for e in events],
        references=[e.psp_reference for e in events],
    )


async def block(unit: Unit, events: Sequence[FraudFlagged]) -> list[Event]:
    """Stop what was judged fraud: release the hold, or send back what was captured.

    A payment that the PSP is being asked about is marked; whichever way the PSP answers, it ends as fraud. So is one
    of which a part is on its way back: the rest follows.
    """
    rows = await lock(unit, [event.transaction_id for event in events])
    pending = [row for row in rows.values() if row.status == Status.PENDING]
    at_psp = [row for row in pending if row.settling_at is not None]
    going_back = [row for row in rows.values() if row.status == Status.REFUNDING and row.reason != SUSPECTED_FRAUD]
    marked = [row.id for row in (*at_psp, *going_back)]
    if marked:
        await unit.rows(SQL["mark_flagged"], ids=marked, reason=SUSPECTED_FRAUD)
    here = [row for row in pending if row.settling_at is None]
    released = await release(unit, here)
    captured = [row for row in rows.values() if row.status == Status.SUCCEEDED and row.captured_minor > 0]
    moved = await move(
        unit,
        [
            *(Move(r.id, Status.PENDING, Status.FRAUD, SUSPECTED_FRAUD, transfer_ids=released[r.id]) for r in here),
            *(Move(row.id, Status.SUCCEEDED, Status.FRAUD, SUSPECTED_FRAUD) for row in captured),
        ],
    )
    said: list[Event] = []
    for row in (*here, *captured, *going_back):
        if row.id in moved or row.status == Status.REFUNDING:
            went = row.captured_minor > 0
            flag = TransactionFlagged(transaction_id=row.id, reason=SUSPECTED_FRAUD, captured=went, asset=row.asset)
            said += [flag, _analytics(unit, row, Status.FRAUD, reason=SUSPECTED_FRAUD)]
            if row.captured_minor > row.refunding_minor + row.refunded_minor:
                said += await refund.start_automatic(unit, row.id, reason=SUSPECTED_FRAUD)
    return said


async def expire(unit: Unit) -> list[Event]:
    """Release holds that are past their deadline; a transaction that nobody began to settle fails with them.

    One that the PSP was asked about stays pending: its outcome is unknown, and no deadline of ours decides it.
    """
    holds = await ledger_history.expired_holds(unit, limit=EXPIRE_MAX)
    rows = await lock(unit, [hold.reference for hold in holds if hold.reference])
    released = await release(unit, list(rows.values()))
    moves = [
        Move(row.id, Status.PENDING, Status.FAILED, "hold_expired", transfer_ids=released[row.id])
        for row in rows.values()
        if row.status == Status.PENDING and row.settling_at is None
    ]
    said: list[Event] = []
    for id in sorted(await move(unit, moves)):
        said.append(_analytics(unit, rows[id], Status.FAILED, reason="hold_expired"))
        said.append(TransactionFailed(transaction_id=id, reason="hold_expired", asset=rows[id].asset))
    return said


async def resolve(unit: Unit) -> list[SettlementRequested]:
    """Ask again about what is unknown and due, and about what has been silent for too long."""
    silent_since = unit.now - timedelta(seconds=STALE_S)
    await unit.rows(SQL["doubt_silent"], now=unit.now, before=silent_since, limit=RESOLVE_MAX)
    deadline = unit.now - timedelta(seconds=unit.settings.outcome_deadline_s)
    due = await unit.rows(SQL["due"], now=unit.now, deadline=deadline, limit=RESOLVE_MAX, steps=PAYMENT_STEPS)
    pending = {row.id: row for row in due if row.status == Status.PENDING}
    return [
        _request(row, requested_at=row.requested_at, again=True, reference=row.psp_reference)
        for row in pending.values()
    ]


async def ask_again(unit: Unit, transaction_id: str) -> None:
    """Let the resolver ask the PSP at its next tick. Raises NothingToResolve where the outcome is known."""
    row = await one(unit, transaction_id)
    asked = await unit.rows(SQL["ask_now"], ids=[transaction_id], now=unit.now)
    if not asked:
        raise NothingToResolve(entity_id=transaction_id, status=row.status)


async def notice(unit: Unit, events: Iterable[PspNotified]) -> list[SettlementRequested]:
    """A PSP spoke of transactions whose outcome is unknown: ask at once. Of the others we have heard by ourselves."""
    named = sorted({event.transaction_id for event in events if event.transaction_id and not event.refund_id})
    rows = await unit.rows(SQL["noticed"], ids=named) if named else []
    return [_request(row, requested_at=row.requested_at, again=True, reference=row.psp_reference) for row in rows]
