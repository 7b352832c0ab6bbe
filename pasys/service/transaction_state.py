"""A transaction moves only from where it is: every statement that changes one names the status that it changes.

Everything that changes an existing transaction goes through `lock` and `move`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from pasys import ids
from pasys.db import Unit, chunks, queries
from pasys.domain import posting
from pasys.domain.ledger import Hold, Purpose, Transfer
from pasys.domain.transaction import BOOK, Status, check_move
from pasys.errors import AlreadyReversed, CancelTooLate, NotReversible, TransactionNotFound
from pasys.events import TransactionCancelled, TransactionSucceeded
from pasys.service import ledger

SQL = queries("transaction")
UNDO_AT_ONCE = 5_000


@dataclass(slots=True)
class Move:
    """A transaction's next status, and what goes with it."""

    transaction_id: str
    was: Status
    becomes: Status
    reason: str | None = None
    captured_minor: int = 0
    fee_minor: int = 0
    credited: bool = False
    psp_reference: str | None = None
    charge_reference: str | None = None
    transfer_ids: list[UUID] = field(default_factory=list)


async def move(unit: Unit, moves: Sequence[Move]) -> set[str]:
    """Move transactions that are where they are said to be, each with a line of history; the ids that moved."""
    if not moves:
        return set()
    rows = await unit.rows(
        SQL["move"],
        now=unit.now,
        actor=unit.actor,
        ids=[m.transaction_id for m in moves],
        was=[m.was.value for m in moves],
        becomes=[m.becomes.value for m in moves],
        reasons=[m.reason for m in moves],
        captured=[m.captured_minor for m in moves],
        fees=[m.fee_minor for m in moves],
        credited=[m.credited for m in moves],
        references=[m.psp_reference for m in moves],
        charges=[m.charge_reference for m in moves],
        transfers=[",".join(map(str, m.transfer_ids)) for m in moves],
        events=[unit.cause_of(m.transaction_id) for m in moves],
    )
    return {row.transaction_id for row in rows}


async def lock(unit: Unit, transaction_ids: Iterable[str]) -> dict[str, Any]:
    """Transactions with their open holds, locked in the order of their ids; by id."""
    wanted = sorted(set(transaction_ids))
    if not wanted:
        return {}
    await unit.rows(SQL["lock"], ids=wanted)
    return {row.id: row for row in await unit.rows(SQL["locked"], ids=wanted)}


def open_hold(row: Any) -> Hold | None:
    """The hold of a locked transaction, where it can still be posted."""
    if row.hold_minor is None:
        return None
    return Hold(
        id=row.hold_id,
        debit=row.hold_debit,
        credit=row.hold_credit,
        amount_minor=row.hold_minor,
        asset=row.asset,
        expires_at=row.hold_expires_at,
        reference=row.id,
    )


async def one(unit: Unit, transaction_id: str) -> Any:
    """A transaction, locked. Raises TransactionNotFound."""
    row = (await lock(unit, [transaction_id])).get(transaction_id)
    if row is None:
        raise TransactionNotFound(transaction_id=transaction_id)
    return row


async def cancel(unit: Unit, transaction_id: str, *, reason: str | None = None) -> None:
    """Withdraw a transaction that settlement has not begun; its hold is released. Raises CancelTooLate."""
    row = await one(unit, transaction_id)
    status = Status(row.status)
    if status is not Status.PENDING:
        check_move(transaction_id, status, Status.CANCELLED)
    if row.settling_at is not None:
        raise CancelTooLate(transaction_id=transaction_id, status=row.status)
    transfer_ids = await release(unit, [row])
    await move(
        unit,
        [Move(transaction_id, status, Status.CANCELLED, reason=reason, transfer_ids=transfer_ids[transaction_id])],
    )
    unit.emit(TransactionCancelled(transaction_id=transaction_id, asset=row.asset))


async def release(unit: Unit, rows: Sequence[Any]) -> dict[str, list[UUID]]:
    """Void the open holds of locked transactions; by transaction, the ids of the transfers that did it."""
    voids = {row.id: posting.void(hold=hold) for row in rows if (hold := open_hold(row)) is not None}
    await ledger.post(unit, [transfer for transfers in voids.values() for transfer in transfers])
    return {row.id: [transfer.id for transfer in voids.get(row.id, [])] for row in rows}


async def reverse(unit: Unit, transaction_id: str, *, reason: str | None = None) -> str:
    """Undo a book transaction by its mirror image; the reversal's id. Raises NotReversible or AlreadyReversed."""
    (reversal_id,) = await _reverse(unit, [await one(unit, transaction_id)], reason=reason)
    return reversal_id


async def undo(unit: Unit, batch_id: str, *, progress: Callable[[str, int, int], None] = lambda *_: None) -> list[str]:
    """Reverse every transaction of an import, or none; the reversals' ids. Raises the first refusal.

    `progress` is told what is being done, how many are, and how many there are.
    """
    rows = await unit.rows(SQL["batch"], batch_id=batch_id)
    if not rows:
        raise TransactionNotFound(transaction_id=batch_id)
    for part in chunks(sorted(row.id for row in rows), UNDO_AT_ONCE):  # all, before the first posting locks the asset
        await unit.rows(SQL["lock"], ids=list(part))
    reversals: list[str] = []
    left = [row.id for row in rows if not row.reversed]
    for part in chunks(left, UNDO_AT_ONCE):
        found = {row.id: row for row in await unit.rows(SQL["locked"], ids=list(part))}
        reversals += await _reverse(unit, [found[id] for id in part], reason=f"undo of {batch_id}")
        progress("reversing", len(reversals), len(left))
    return reversals


async def _reverse(unit: Unit, rows: Sequence[Any], *, reason: str | None) -> list[str]:
    """Post the mirror images of locked transactions, in this order; the reversals' ids."""
    earlier = await unit.rows(SQL["reversals_of"], ids=[row.id for row in rows])
    reversed_by = {row.parent_id: row.id for row in earlier}
    for row in rows:
        _check_reversible(row, reversed_by.get(row.id))
    reversal_ids = ids.many("tx", len(rows))
    transfers = [_mirror(row, reversal_id) for row, reversal_id in zip(rows, reversal_ids, strict=True)]
    await ledger.post(unit, transfers)
    await unit.rows(
        SQL["insert_reversals"],
        ids=reversal_ids,
        parents=[row.id for row in rows],
        transfers=[transfer.id for transfer in transfers],
        now=unit.now,
        actor=unit.actor,
        reason=reason,
    )
    unit.emit(
        *(
            TransactionSucceeded(
                transaction_id=reversal_id, kind=row.kind, rail=BOOK, amount_minor=row.amount_minor, asset=row.asset
            )
            for row, reversal_id in zip(rows, reversal_ids, strict=True)
        )
    )
    return reversal_ids


def _check_reversible(row: Any, reversed_by: str | None) -> None:
    if row.rail != BOOK:
        raise NotReversible(transaction_id=row.id, reason=f"it went by {row.rail}")
    if row.parent_id is not None:
        raise NotReversible(transaction_id=row.id, reason=f"it is itself the reversal of {row.parent_id}")
    if reversed_by is not None:
        raise AlreadyReversed(transaction_id=row.id, reversal_id=reversed_by)


def _mirror(row: Any, reversal_id: str) -> Transfer:
    return Transfer(
        debit=row.credit_account,
        credit=row.debit_account,
        amount_minor=row.amount_minor,
        asset=row.asset,
        purpose=Purpose.REVERSAL,
        corrects=row.transfer_ids[0],
        reference=reversal_id,
    )
