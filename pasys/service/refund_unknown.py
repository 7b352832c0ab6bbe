"""A refund whose outcome the PSP has not told stays sent, its money reserved, and is asked about until it is known."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from pasys.db import Unit, queries
from pasys.errors import NothingToResolve
from pasys.events import PspNotified, RefundSent, RefundUnknown
from pasys.service.refund import lock_one, sent

SQL = queries("refund")
SILENT_S = 300  # sent for so long without an answer or a doubt: its message was lost with the bus
RESOLVE_MAX = 200


async def doubt(unit: Unit, event: RefundUnknown) -> None:
    """Mark the outcome as unknown, and say when to ask next. The money stays reserved."""
    row = await lock_one(unit, event.refund_id)
    deadline = unit.now - timedelta(seconds=unit.settings.outcome_deadline_s)
    await unit.rows(
        SQL["doubt"], id=row.id, reason=event.reason, latency_ms=event.latency_ms, now=unit.now, deadline=deadline
    )


async def resolve(unit: Unit) -> list[RefundSent]:
    """Ask again about refunds whose outcome is unknown and due, and about those that have been silent for too long."""
    silent_since = unit.now - timedelta(seconds=SILENT_S)
    await unit.rows(SQL["doubt_silent"], now=unit.now, before=silent_since, limit=RESOLVE_MAX)
    deadline = unit.now - timedelta(seconds=unit.settings.outcome_deadline_s)
    return [_again(row) for row in await unit.rows(SQL["due"], now=unit.now, deadline=deadline, limit=RESOLVE_MAX)]


async def notice(unit: Unit, events: Iterable[PspNotified]) -> list[RefundSent]:
    """A PSP spoke of refunds whose outcome is unknown: ask at once."""
    named = sorted({event.refund_id for event in events if event.refund_id})
    return [_again(row) for row in await unit.rows(SQL["noticed"], ids=named)] if named else []


def _again(row: Any) -> RefundSent:
    return sent(row, psp=row.psp, psp_reference=row.psp_reference, sent_at=row.sent_at, again=True)


async def ask_again(unit: Unit, refund_id: str) -> None:
    """Let the resolver ask the PSP at its next tick. Raises NothingToResolve where the outcome is known."""
    row = await lock_one(unit, refund_id)
    if await unit.row(SQL["ask_now"], id=refund_id, now=unit.now) is None:
        raise NothingToResolve(entity_id=refund_id, status=row.status)
