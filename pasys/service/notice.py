"""Notices: what PSPs tell us by webhook, stored as it came and announced once, whatever they send again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pasys import ids
from pasys.adapters import Notice
from pasys.db import Unit, queries
from pasys.events import PspNotified

SQL = queries("notice")


@dataclass(frozen=True, slots=True)
class Arrival:
    """A verified notice and the payload that it was read from."""

    psp: str
    notice: Notice
    payload: bytes


async def receive(unit: Unit, arrivals: Sequence[Arrival]) -> list[PspNotified]:
    """Store and announce those that were not received before; what was announced."""
    named = {ids.new("ntc"): arrival for arrival in arrivals}
    notices = [arrival.notice for arrival in arrivals]
    rows = await unit.rows(
        SQL["receive"],
        psps=[arrival.psp for arrival in arrivals],
        event_ids=[notice.event_id for notice in notices],
        notice_ids=list(named),
        types=[notice.type for notice in notices],
        object_ids=[notice.object_id for notice in notices],
        transaction_ids=[notice.transaction_id for notice in notices],
        payloads=[arrival.payload.decode() for arrival in arrivals],
        now=unit.now,
    )
    fresh = [_notified(row.notice_id, named[row.notice_id]) for row in rows]
    unit.emit(*fresh)
    return fresh


def _notified(notice_id: str, arrival: Arrival) -> PspNotified:
    notice = arrival.notice
    return PspNotified(
        notice_id=notice_id,
        psp=arrival.psp,
        type=notice.type,
        object_id=notice.object_id,
        transaction_id=notice.transaction_id,
        refund_id=notice.refund_id,
        asset=notice.asset,
    )
