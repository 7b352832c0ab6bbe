"""Refunds: an approval becomes money on its way back, and the books say so at every step.

refund.approved -> reserve -> refund.declined | refund.reserved
refund.reserved -> send -> refund.sent
refund.sent -> give_back -> refund.completed | refund.declined | refund.unknown
refund.completed -> complete -> transaction.refunded
refund.declined -> release -> refund.released
refund.unknown -> doubt -> nothing
every resolve_every_s -> resolve -> refund.sent
"""

from __future__ import annotations

import time
from typing import Any

from pasys.adapters import Declined, Psp, Repayment
from pasys.daemon import Daemon
from pasys.db import Unit
from pasys.errors import PspUnavailable, Rejected
from pasys.events import (
    RefundApproved,
    RefundCompleted,
    RefundDeclined,
    RefundReleased,
    RefundReserved,
    RefundSent,
    RefundUnknown,
    TransactionRefunded,
)
from pasys.money import Money
from pasys.service import refund, refund_unknown


def refused(event: RefundApproved, no: Rejected) -> RefundDeclined:
    """An approved refund that a rule stops (a merchant's limit) is declined by that rule's name."""
    return RefundDeclined(
        refund_id=event.refund_id, transaction_id=event.transaction_id, reason=no.code, asset=event.asset
    )


daemon = Daemon("refund", refused=refused)


@daemon.on
async def reserve(events: list[RefundApproved], unit: Unit) -> list[RefundReserved]:
    """Take the money from the merchant before promising it to anyone."""
    ordered = await refund.lock_all(unit, events)
    return [said for event in ordered if (said := await refund.reserve(unit, event.refund_id))]


@daemon.on
async def send(events: list[RefundReserved], unit: Unit) -> list[RefundSent]:
    """Put the attempt on record before the PSP is asked."""
    ordered = await refund.lock_all(unit, events)
    return [said for event in ordered if (said := await refund.send(unit, event.refund_id))]


@daemon.on
async def give_back(event: RefundSent, psp: Psp) -> RefundCompleted | RefundDeclined | RefundUnknown:
    """Ask the PSP. The refund is the key, so asking twice pays back once."""
    repayment = Repayment(
        refund_id=event.refund_id,
        transaction_id=event.transaction_id,
        psp_reference=event.psp_reference,
        amount=Money(event.amount_minor, event.asset),
        requested_at=event.sent_at,
    )
    about = _About(event)
    try:
        answer = await psp.refund(repayment)
    except PspUnavailable as silence:
        return RefundUnknown(reason=str(silence), **about.facts())
    if isinstance(answer, Declined):
        return RefundDeclined(reason=answer.reason, **about.facts())
    return RefundCompleted(psp_reference=answer.psp_reference, **about.facts())


@daemon.on
async def complete(events: list[RefundCompleted], unit: Unit) -> list[TransactionRefunded]:
    """The books agree with the world again."""
    ordered = await refund.lock_all(unit, events)
    return [said for event in ordered if (said := await refund.complete(unit, event))]


@daemon.on
async def release(events: list[RefundDeclined], unit: Unit) -> list[RefundReleased]:
    """What was reserved goes back to where it was."""
    ordered = await refund.lock_all(unit, events)
    return [said for event in ordered if (said := await refund.decline(unit, event))]


@daemon.on
async def doubt(events: list[RefundUnknown], unit: Unit) -> None:
    """The money stays reserved; the resolver knows when to ask."""
    for event in await refund.lock_all(unit, events):
        await refund_unknown.doubt(unit, event)


@daemon.every("resolve_every_s")
async def resolve(unit: Unit) -> list[RefundSent]:
    """Unknown is a state, never a guess: ask until the PSP tells."""
    return await refund_unknown.resolve(unit)


class _About:
    """What every answer says: which refund, and how long the PSP took."""

    def __init__(self, event: RefundSent) -> None:
        self._event, self._began = event, time.monotonic()

    def facts(self) -> dict[str, Any]:
        return {
            "refund_id": self._event.refund_id,
            "transaction_id": self._event.transaction_id,
            "asset": self._event.asset,
            "latency_ms": round((time.monotonic() - self._began) * 1000),
        }
