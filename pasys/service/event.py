"""Events are sent again: a dead letter to its subject, or the log of what was announced to a bus that lost its tail.

Both are harmless to repeat: a handler that has had an event ignores it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from nats.js.errors import APIError
from sqlalchemy import func, literal, select
from sqlalchemy.dialects.postgresql import insert

from pasys import ids
from pasys.bus import BUS_ERRORS, KEEP_S, Bus, DeadLetter
from pasys.db import Unit
from pasys.errors import BusUnavailable
from pasys.schema import event, outbox

PRUNE_MAX = 20_000
RETENTION_MIN_S = 2 * KEEP_S
_PRUNE = """
with old as (
    select id from event where id < %(oldest)s order by id limit %(limit)s),
gone as (
    delete from event e using old
     where e.id = old.id and not exists (select from outbox o where o.event_id = old.id)
    returning e.id),
handled as (
    delete from inbox i using gone where i.event_id = gone.id)
select count(*) as events from gone
"""


@dataclass(frozen=True, slots=True)
class Replayed:
    """A dead letter that is on its way again; its handler will park it anew if it still cannot be handled."""

    sequence: int
    subject: str
    handler: str
    event_id: str


async def replay_dead(bus: Bus, sequence: int) -> Replayed:
    """Publish a dead letter to its subject, then forget it. Raises DeadLetterNotFound, BusUnavailable."""
    return await _replay(bus, await bus.dead_letter(sequence))


async def replay_all_dead(bus: Bus) -> list[Replayed]:
    """Every dead letter that stands there now, oldest first; one that is parked again meanwhile stays."""
    return [await _replay(bus, letter) for letter in await dead_letters(bus)]


async def dead_letters(bus: Bus, *, limit: int = 1_000, after: int = 0) -> list[DeadLetter]:
    """What stands aside behind a sequence, oldest first. Raises BusUnavailable."""
    try:
        nothing = not (await bus.js.stream_info(bus.dead)).state.messages
        return [] if nothing else await bus.dead_letters(limit=limit, after=after)
    except (*BUS_ERRORS, APIError) as error:
        raise BusUnavailable(reason=str(error) or type(error).__name__) from None


async def dead_count(bus: Bus) -> int:
    """How many dead letters stand aside. Raises BusUnavailable."""
    try:
        return (await bus.js.stream_info(bus.dead)).state.messages
    except (*BUS_ERRORS, APIError) as error:
        raise BusUnavailable(reason=str(error) or type(error).__name__) from None


async def dead_state(bus: Bus) -> tuple[int, int, int]:
    """The first sequence that stands aside, the last that ever did, and how many there are.

    While these are the same, so are the letters. Raises BusUnavailable.
    """
    try:
        state = (await bus.js.stream_info(bus.dead)).state
        return state.first_seq, state.last_seq, state.messages
    except (*BUS_ERRORS, APIError) as error:
        raise BusUnavailable(reason=str(error) or type(error).__name__) from None


async def _replay(bus: Bus, letter: DeadLetter) -> Replayed:
    # The event's own id as message id would be dropped as a duplicate.
    headers = {"Nats-Msg-Id": ids.new("replay")}
    try:
        await bus.js.publish(f"{bus.prefix}{letter.subject}", letter.body, headers=headers)
        await bus.forget(letter.sequence)
    except (*BUS_ERRORS, APIError) as error:
        raise BusUnavailable(reason=str(error) or type(error).__name__) from None
    return Replayed(letter.sequence, letter.subject, letter.handler, letter.event_id)


async def announced_since(unit: Unit, since: datetime) -> int:
    """How many events the log holds from then on."""
    row = await unit.one(select(func.count().label("events")).select_from(event).where(event.c.at >= since))
    assert row is not None
    return row["events"]


async def announce_again(unit: Unit, since: datetime) -> int:
    """Put everything that was announced from then on back into the outbox, as a backlog; how many events that are."""
    again = select(event.c.id, literal(unit.now)).where(event.c.at >= since).order_by(event.c.id)
    put = insert(outbox).from_select(["event_id", "claimed_until"], again)
    return len(await unit.execute(put.on_conflict_do_nothing().returning(outbox.c.event_id)))


async def prune(unit: Unit) -> int:
    """Forget events, and that they were handled, after the retention; how many events. Never one that is unsent.

    The retention outlives what the bus keeps, so that the bus can be refilled, and a redelivery is always recognised.
    """
    cut = unit.now - timedelta(seconds=max(unit.settings.event_retention_s, RETENTION_MIN_S))
    oldest = ids.earliest("evt", int(cut.timestamp() * 1000))
    row = await unit.row(_PRUNE, oldest=oldest, limit=PRUNE_MAX)
    return row.events if row else 0
