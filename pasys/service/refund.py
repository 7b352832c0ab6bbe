"""Refunds: promised under the payment's row lock, approved, reserved in the books, sent, completed or released.

Two hundred concurrent refunds can never return more than was captured, from whichever face they come: the promise is
one guarded statement on the payment's row, and a CHECK constraint repeats it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from pasys import ids
from pasys.db import Unit, queries
from pasys.domain import posting
from pasys.domain import refund as rules
from pasys.domain.account import receivable
from pasys.domain.ledger import Transfer
from pasys.domain.refund import Status, check_move
from pasys.domain.settlement import SUSPECTED_FRAUD
from pasys.domain.transaction import Kind
from pasys.domain.transaction import Status as TransactionStatus
from pasys.errors import RefundNotFound, SecondPersonRequired
from pasys.events import (
    Event,
    RefundApproved,
    RefundCompleted,
    RefundDeclined,
    RefundRejected,
    RefundReleased,
    RefundRequested,
    RefundReserved,
    RefundSent,
    RefundUnknown,
    TransactionRefunded,
)
from pasys.money import Money
from pasys.service import account, idempotency, ledger
from pasys.service.transaction_state import Move, lock, move, one

SQL = queries("refund")
TRANSACTION_SQL = queries("transaction")
OPERATION = "refund.create"
AnyRefund = TypeVar("AnyRefund", RefundApproved, RefundReserved, RefundCompleted, RefundDeclined, RefundUnknown)
IN_FLIGHT = "refunds:in_flight"


@dataclass(frozen=True, slots=True)
class Requested:
    """The answer to a request: the refund, where it stands, and whether the key was seen before."""

    refund_id: str
    status: Status | None
    replayed: bool = False


async def request(
    unit: Unit, transaction_id: str, *, amount: Money | None = None, reason: str | None = None, key: str | None = None
) -> Requested:
    """Ask for money to go back: an amount, or all that is left. Raises RefundTooLarge or RefundNotPossible."""
    refund_id = ids.new("rf")
    body = msgspec.json.encode((transaction_id, amount and (amount.minor, amount.asset), reason))
    earlier = await idempotency.take(
        unit, operation=OPERATION, key=key, body_hash=hashlib.sha256(body).digest(), entity_id=refund_id
    )
    if earlier is not None:
        return Requested(earlier, None, replayed=True)
    status, said = await _start(unit, refund_id, transaction_id, amount=amount, reason=reason, automatic=False)
    unit.emit(*said)
    return Requested(refund_id, status)


async def start_automatic(unit: Unit, transaction_id: str, *, reason: str) -> list[Event]:
    """Send back all that was captured, without asking anybody. Returns what is to be announced."""
    _, said = await _start(unit, ids.new("rf"), transaction_id, amount=None, reason=reason, automatic=True)
    return said


async def send_back(unit: Unit, transaction_id: str, *, reason: str) -> tuple[list[Event], list[Transfer]]:
    """Send back what is just being captured, reserved from the first moment: the payer cannot spend it meanwhile.

    Returns what is to be announced, and the transfers that the caller posts after those that bring the money.
    """
    refund_id = ids.new("rf")
    _, said = await _start(unit, refund_id, transaction_id, amount=None, reason=reason, automatic=True)
    reserved, transfers = await _reserve(unit, await lock_one(unit, refund_id))
    return [*said, reserved], transfers


async def _start(
    unit: Unit, refund_id: str, transaction_id: str, *, amount: Money | None, reason: str | None, automatic: bool
) -> tuple[Status, list[Event]]:
    row = await one(unit, transaction_id)
    promised = rules.promise(_payment(row), amount)
    await _promise(unit, transaction_id, promised.minor)
    waits = not automatic and rules.needs_approval(promised, unit.settings.refund_approval_above)
    status = Status.AWAITING_APPROVAL if waits else Status.APPROVED
    await unit.rows(
        SQL["insert"],
        id=refund_id,
        transaction_id=transaction_id,
        asset=promised.asset,
        amount_minor=promised.minor,
        status=status.value,
        automatic=automatic,
        reason=reason,
        actor=unit.actor,
        now=unit.now,
    )
    if row.status != TransactionStatus.REFUNDING:
        was = TransactionStatus(row.status)
        await move(unit, [Move(transaction_id, was, TransactionStatus.REFUNDING, reason=row.reason)])
    asked = RefundRequested(
        refund_id=refund_id,
        transaction_id=transaction_id,
        amount_minor=promised.minor,
        automatic=automatic,
        asset=promised.asset,
    )
    approved = RefundApproved(refund_id=refund_id, transaction_id=transaction_id, asset=promised.asset)
    return status, [asked] if waits else [asked, approved]


def _payment(row: Any) -> rules.Payment:
    return rules.Payment(
        id=row.id,
        kind=Kind(row.kind),
        rail=row.rail,
        status=TransactionStatus(row.status),
        captured=Money(row.captured_minor, row.asset),
        refunding=Money(row.refunding_minor, row.asset),
        refunded=Money(row.refunded_minor, row.asset),
    )


async def _promise(unit: Unit, transaction_id: str, promised_minor: int) -> Any:
    row = await unit.row(TRANSACTION_SQL["promise"], id=transaction_id, promised_minor=promised_minor)
    assert row is not None, "the row is locked, and the rule has just been checked"
    return row


async def approve(unit: Unit, refund_id: str, *, reason: str | None = None) -> None:
    """A second person says yes. Raises SecondPersonRequired for the one who asked."""
    row = await _waiting(unit, refund_id, Status.APPROVED)
    await _move(unit, row, Status.APPROVED, decided_by=unit.actor, why=reason)
    unit.emit(RefundApproved(refund_id=refund_id, transaction_id=row.transaction_id, asset=row.asset))


async def reject(unit: Unit, refund_id: str, *, reason: str) -> None:
    """A second person says no; the promise is taken back. Raises SecondPersonRequired for the one who asked."""
    row = await _waiting(unit, refund_id, Status.REJECTED)
    await _move(unit, row, Status.REJECTED, decided_by=unit.actor, why=reason)
    await _promise(unit, row.transaction_id, -row.amount_minor)
    await _rest(unit, row.transaction_id)
    unit.emit(RefundRejected(refund_id=refund_id, transaction_id=row.transaction_id, reason=reason, asset=row.asset))


async def _waiting(unit: Unit, refund_id: str, wanted: Status) -> Any:
    row = await lock_one(unit, refund_id)
    check_move(refund_id, Status(row.status), wanted)
    if row.status == Status.AWAITING_APPROVAL and row.requested_by == unit.actor:
        raise SecondPersonRequired(refund_id=refund_id, actor=unit.actor)
    return row


async def lock_one(unit: Unit, refund_id: str) -> Any:
    """A refund, locked after its transaction. Raises RefundNotFound."""
    owner = await unit.row(SQL["transaction_of"], ids=[refund_id])
    if owner is None:
        raise RefundNotFound(refund_id=refund_id)
    await lock(unit, [owner.transaction_id])
    return await unit.row(SQL["lock"], ids=[refund_id])


async def _move(
    unit: Unit,
    row: Any,
    becomes: Status,
    *,
    why: str | None = None,
    decided_by: str | None = None,
    decline_reason: str | None = None,
    psp_reference: str | None = None,
    reserved_from: int | None = None,
    transfer_ids: Iterable[UUID] = (),
    was: Status | None = None,
) -> bool:
    moved = await unit.rows(
        SQL["move"],
        id=row.id,
        was=(was or Status(row.status)).value,
        becomes=becomes.value,
        why=why,
        decided_by=decided_by,
        decline_reason=decline_reason,
        psp_reference=psp_reference,
        reserved_from=reserved_from,
        transfers=list(transfer_ids),
        final=becomes in rules.FINAL,
        now=unit.now,
        event_id=unit.cause_of(row.transaction_id),
        actor=unit.actor,
    )
    return bool(moved)


async def lock_all(unit: Unit, events: Sequence[AnyRefund]) -> list[AnyRefund]:
    """Lock what a batch is about, transactions before refunds; the events in the order that assets are locked in.

    One after the other, a batch would hold the books of an asset while it waits for the next transaction, and somebody
    who holds that one may be waiting for the books.
    """
    refund_ids = [event.refund_id for event in events]
    owners = await unit.rows(SQL["transaction_of"], ids=refund_ids)
    await lock(unit, [owner.transaction_id for owner in owners])
    await unit.rows(SQL["lock"], ids=refund_ids)
    return sorted(events, key=lambda event: event.asset)


async def reserve(unit: Unit, refund_id: str) -> RefundReserved | None:
    """Take the money from the merchant (or from the payer, where no merchant got it) before promising it to anyone."""
    row = await lock_one(unit, refund_id)
    if row.status != Status.APPROVED:
        return None
    said, transfers = await _reserve(unit, row)
    await ledger.post(unit, transfers)
    return said


async def _reserve(unit: Unit, row: Any) -> tuple[RefundReserved, list[Transfer]]:
    holder = _holder(await one(unit, row.transaction_id))
    transfers = posting.refund_reserve(
        account=holder,
        in_flight=await account.system(unit, IN_FLIGHT, row.asset),
        amount_minor=row.amount_minor,
        asset=row.asset,
        reference=row.id,
    )
    await _move(unit, row, Status.RESERVED, reserved_from=holder, transfer_ids=[t.id for t in transfers])
    said = RefundReserved(
        refund_id=row.id, transaction_id=row.transaction_id, amount_minor=row.amount_minor, asset=row.asset
    )
    return said, transfers


def _holder(payment: Any) -> int:
    """Who has the captured money: the merchant once credited, else the payer."""
    if payment.credited or payment.kind == Kind.DEPOSIT:
        return payment.credit_account
    return payment.debit_account


def _payer(payment: Any) -> int:
    return payment.credit_account if payment.kind == Kind.DEPOSIT else payment.debit_account


async def send(unit: Unit, refund_id: str) -> RefundSent | None:
    """Put the attempt on record, so that the PSP may be asked."""
    row = await lock_one(unit, refund_id)
    if row.status != Status.RESERVED:
        return None
    payment = await one(unit, row.transaction_id)
    sent_at = await unit.value(
        SQL["record_attempt"],
        id=refund_id,
        transaction_id=row.transaction_id,
        psp=payment.rail,
        asset=row.asset,
        amount_minor=row.amount_minor,
        now=unit.now,
    )
    await _move(unit, row, Status.SENT)
    return sent(row, psp=payment.rail, psp_reference=payment.psp_reference, sent_at=sent_at, again=False)


def sent(row: Any, *, psp: str, psp_reference: str, sent_at: Any, again: bool) -> RefundSent:
    return RefundSent(
        refund_id=row.id,
        transaction_id=row.transaction_id,
        psp=psp,
        psp_reference=psp_reference,
        amount_minor=row.amount_minor,
        asset=row.asset,
        sent_at=sent_at,
        again=again,
    )


async def complete(unit: Unit, event: RefundCompleted) -> TransactionRefunded | None:
    """The money has left: book it, and say how much of the payment is back."""
    row = await lock_one(unit, event.refund_id)
    if row.status != Status.SENT:
        return None
    payment = await one(unit, row.transaction_id)
    transfers = posting.refund_complete(
        in_flight=await account.system(unit, IN_FLIGHT, row.asset),
        customer=_payer(payment),
        receivable=await account.system(unit, receivable(payment.rail), row.asset),
        amount_minor=row.amount_minor,
        asset=row.asset,
        reference=row.id,
    )
    transfer_ids = [transfer.id for transfer in transfers]
    await _finish_attempt(unit, row.id, "succeeded", None, event.latency_ms, event.psp_reference)
    await ledger.post(unit, transfers)
    await _move(unit, row, Status.COMPLETED, psp_reference=event.psp_reference, transfer_ids=transfer_ids)
    total = await unit.row(
        TRANSACTION_SQL["give_back"], id=row.transaction_id, amount_minor=row.amount_minor, transfers=transfer_ids
    )
    assert total is not None, "the row is locked"
    await _rest(unit, row.transaction_id)
    return TransactionRefunded(
        transaction_id=row.transaction_id,
        refund_id=row.id,
        amount_minor=row.amount_minor,
        refunded_minor=total.refunded_minor,
        asset=row.asset,
    )


async def decline(unit: Unit, event: RefundDeclined) -> RefundReleased | None:
    """The money did not leave: what was reserved, if anything, is its holder's again."""
    row = await lock_one(unit, event.refund_id)
    if row.status not in (Status.APPROVED, Status.SENT):
        return None
    transfers = []
    if row.reserved_from is not None:
        transfers = posting.refund_release(
            in_flight=await account.system(unit, IN_FLIGHT, row.asset),
            account=row.reserved_from,
            amount_minor=row.amount_minor,
            asset=row.asset,
            reference=row.id,
        )
    if row.status == Status.SENT:
        await _finish_attempt(unit, row.id, "declined", event.reason, event.latency_ms, None)
    await _promise(unit, row.transaction_id, -row.amount_minor)
    await ledger.post(unit, transfers)
    await _move(unit, row, Status.DECLINED, decline_reason=event.reason, why=event.reason)
    await _move(unit, row, Status.RELEASED, was=Status.DECLINED, transfer_ids=[t.id for t in transfers])
    await _rest(unit, row.transaction_id)
    return RefundReleased(refund_id=row.id, transaction_id=row.transaction_id, asset=row.asset)


async def _finish_attempt(
    unit: Unit, refund_id: str, outcome: str, reason: str | None, latency_ms: int, psp_reference: str | None
) -> None:
    await unit.rows(
        SQL["finish_attempt"],
        id=refund_id,
        outcome=outcome,
        reason=reason,
        latency_ms=latency_ms,
        psp_reference=psp_reference,
        now=unit.now,
    )


async def _rest(unit: Unit, transaction_id: str) -> None:
    """A transaction whose last refund has ended is refunded in full, or what it was before: fraud stays fraud."""
    row = await one(unit, transaction_id)
    if row.status != TransactionStatus.REFUNDING or row.refunding_minor > 0:
        return
    if row.refunded_minor == row.captured_minor:
        becomes = TransactionStatus.REFUNDED
    elif row.reason == SUSPECTED_FRAUD:
        becomes = TransactionStatus.FRAUD
    elif await unit.value(SQL["was_before"], id=transaction_id) == TransactionStatus.SUCCEEDED:
        becomes = TransactionStatus.SUCCEEDED
    else:
        becomes = TransactionStatus.FAILED
    await move(unit, [Move(transaction_id, TransactionStatus.REFUNDING, becomes, reason=row.reason)])
