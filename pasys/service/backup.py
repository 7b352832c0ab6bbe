"""What a restore of the books means for the rest: how far they reach, what is done again, asked for, and forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pasys.adapters.signer import open_signer
from pasys.adapters.velocity import forget_counters
from pasys.bus import Bus
from pasys.config import Settings
from pasys.db import Unit, queries
from pasys.service import ledger_checkpoint, ledger_verify
from pasys.service.ledger_verify import Verification

SQL = queries("backup")
CHECKPOINT = queries("ledger_checkpoint")
PERHAPS = "perhaps asked before, in what a restore has lost"


@dataclass(frozen=True, slots=True)
class Reach:
    """How far books go: the last seq of each asset's journal, and the last event, None where there is none."""

    seqs: dict[str, int]
    event_id: str | None
    event_at: datetime | None


@dataclass(frozen=True, slots=True)
class Resumed:
    """How many events are announced again, and how many payments and refunds may have been at their PSP."""

    announced: int
    perhaps_asked: int


async def reach(unit: Unit) -> Reach:
    """How far these books go."""
    assets = await unit.rows(CHECKPOINT["assets"])
    seqs = {asset: await ledger_checkpoint.last_seq(unit, asset) for (asset,) in assets}
    last = await unit.row(SQL["last"])
    return Reach(seqs, last.id if last else None, last.at if last else None)


async def verified(unit: Unit) -> Verification:
    """The whole journal, derived again from where it begins: behind what is archived, if that is what was signed."""
    return await ledger_verify.verify(unit, vouched=await ledger_checkpoint.vouched(unit, open_signer(unit.settings)))


async def missing_since(unit: Unit, reached: Reach) -> datetime | None:
    """When the first thing was announced here that books which reach so far do not have; None where they have all."""
    return await unit.value(SQL["first_after"], id=reached.event_id or "")


async def resume(unit: Unit, *, whole: bool) -> Resumed:
    """Have restored books go on with an empty bus: whatever a handler may not have had is announced again.

    Unless they are `whole`, the PSP may know more than they do: whatever they are going to ask it for is asked as
    something old, which is looked for where the PSP does not keep the key any more, and never made a second time.
    """
    announced = await unit.rows(SQL["unhandled"], now=unit.now)
    if whole:
        return Resumed(len(announced), 0)
    perhaps = [
        row for name in ("perhaps_charged", "perhaps_sent") for row in await unit.rows(SQL[name], reason=PERHAPS)
    ]
    return Resumed(len(announced), len({row.entity_id for row in perhaps}))


async def forget_the_future(operator: Settings) -> None:
    """Empty a bus and counters of the operator's own: they know of things that restored books have lost.

    Raises BusUnavailable, VelocityUnavailable.
    """
    if operator.nats_url is not None:
        bus = await Bus(operator).connect(name="pasys-restore")
        try:
            await bus.empty()
        finally:
            await bus.close()
    if operator.redis_url is not None:
        await forget_counters(operator.redis_url, prefix=operator.redis_prefix)
