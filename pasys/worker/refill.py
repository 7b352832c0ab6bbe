"""What the bus has lost comes back: each daemon looks for what it should have had, and has it announced again.

Whatever a handler has had left a row in the inbox. So each daemon looks through what was announced, once, some minutes
late, and writes down as overdue what it consumes and has not had. An overdue event that the bus still holds for the
handler is merely late. Any other is lost: it goes back to the outbox under its own id, the oldest first, few at a time,
after a while that doubles. Had it been there after all, the bus or the inbox would drop the second one.
"""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pasys import ids
from pasys.bus import BUS_ERRORS, KEEP_S, Bus
from pasys.daemon import Daemon
from pasys.db import OUTBOX_CHANNEL, Database, Unit
from pasys.driver import as_owner
from pasys.errors import RightsMissing, Unavailable
from pasys.worker.log import log

if TYPE_CHECKING:
    from pasys.worker.lane import Lane

TICK_S = 10.0
LOOK_MAX = 5_000
BRING_MAX = 200
WAIT_MAX_S = 6 * 3_600
SKEW = timedelta(seconds=60)  # the clocks of machines differ by less

_MARK = """
insert into inbox_mark (daemon, event_id) values (%(daemon)s, %(first)s)
on conflict (daemon) do update set daemon = excluded.daemon
returning event_id
"""
# An event becomes visible after its id was made, so nobody looks past the oldest transaction that may still write one.
_WRITERS = """
select min(xact_start) as since, count(*) filter (where xact_start is null) as hidden from pg_stat_activity
 where datname = current_database() and backend_xid is not null and pid <> pg_backend_pid()
"""
_LOOK = """
with stretch as (
    select id, subject from event where id > %(after)s and id < %(until)s order by id limit %(limit)s),
missed as (
    insert into overdue (handler, event_id, due_at)
    select h.handler, s.id, %(now)s
      from stretch s
      join unnest(%(handlers)s::text[], %(subjects)s::text[]) as h (handler, subject) on h.subject = s.subject
     where not exists (select from inbox i where i.event_id = s.id and i.handler = h.handler)
        on conflict do nothing)
select count(*) as events, max(id) as last from stretch
"""
_MOVE_MARK = "update inbox_mark set event_id = greatest(event_id, %(to)s) where daemon = %(daemon)s"
# Those that were handled meanwhile, or are not kept any more, leave the list; those that a relay has anyway stay as
# they are; those that stand in DEAD are a person's business.
_BRING = """
with due as (
    select o.event_id, o.parked,
           exists (select from inbox i where i.event_id = o.event_id and i.handler = o.handler)
               or not exists (select from event e where e.id = o.event_id) as settled,
           exists (select from outbox x where x.event_id = o.event_id) as waits
      from overdue o
     where o.handler = %(handler)s and o.event_id < %(before)s and o.due_at <= %(now)s
     order by o.event_id limit %(look)s),
gone as (
    delete from overdue o using due d
     where o.handler = %(handler)s and o.event_id = d.event_id and d.settled),
parked as (
    update overdue o set due_at = %(now)s + make_interval(secs => %(wait_max_s)s)
      from due d where o.handler = %(handler)s and o.event_id = d.event_id and d.parked and not d.settled),
lost as (
    select event_id from due where not settled and not waits and not parked order by event_id limit %(bring)s),
asked as (
    update overdue o
       set times = o.times + 1,
           due_at = %(now)s + make_interval(secs => least(%(wait_s)s * power(2, least(o.times, 20)), %(wait_max_s)s))
      from lost l where o.handler = %(handler)s and o.event_id = l.event_id)
insert into outbox (event_id) select event_id from lost
    on conflict do nothing
returning event_id
"""
_PARKED = """
insert into overdue (handler, event_id, parked, due_at)
values (%(handler)s, %(event_id)s, true, %(now)s + make_interval(secs => %(wait_max_s)s))
on conflict (handler, event_id) do update set parked = true, due_at = excluded.due_at
"""


class Refill:
    def __init__(self, daemon: Daemon, lanes: Sequence[Lane], db: Database, bus: Bus) -> None:
        self._name = daemon.name
        self._lanes = lanes
        self._db = db
        self._bus = bus
        self._after = timedelta(seconds=db.settings.event_overdue_s)
        self._key = zlib.crc32(f"{daemon.name}.refill".encode())

    async def run(self, stop: asyncio.Event) -> None:
        """Tick until `stop`; one copy of the daemon at a time does anything."""
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), min(TICK_S, self._after.total_seconds()))
            if stop.is_set():
                return
            try:
                await self.tick()
            except (Unavailable, RightsMissing, *BUS_ERRORS) as error:
                log.warning("%s looks for lost events again later: %s", self._name, error)
            except Exception:  # it outlives every kind of failure: the next tick is its retry
                log.exception("%s: looking for lost events failed", self._name)

    async def tick(self) -> int:
        """Look through what is old enough, then bring back what is lost; how many events that were."""
        if not self._bus.client.is_connected:
            return 0
        waiting = {lane.name: await self._bus.waits_since(lane.durable) for lane in self._lanes}
        while await self._look():
            pass
        async with self._db.unit() as unit:
            if not await self._is_mine(unit):
                return 0
            lost = [id for name, since in waiting.items() for id in await self._bring(unit, name, since)]
            if lost:
                await unit.rows("select pg_notify(%(channel)s, '')", channel=OUTBOX_CHANNEL)
        if lost:
            log.warning(
                "%s has %d events announced again that the bus has lost, from %s", self._name, len(lost), lost[0]
            )
        return len(lost)

    async def _is_mine(self, unit: Unit) -> bool:
        return await unit.value("select pg_try_advisory_xact_lock(%(key)s)", key=self._key)

    async def _look(self) -> bool:
        """Look through the next stretch of what was announced; whether there is more of it."""
        wiring = [(lane.name, kind.subject) for lane in self._lanes for kind in lane.handler.consumes]
        async with self._db.unit() as unit:
            if not await self._is_mine(unit):
                return False
            until = await self._until(unit)
            mark = await unit.value(_MARK, daemon=self._name, first=_id_at(unit.now - timedelta(seconds=KEEP_S)))
            seen = await unit.row(
                _LOOK,
                after=mark,
                until=until,
                limit=LOOK_MAX,
                now=unit.now,
                handlers=[name for name, _ in wiring],
                subjects=[subject for _, subject in wiring],
            )
            assert seen is not None
            more = seen.events == LOOK_MAX
            await unit.rows(_MOVE_MARK, daemon=self._name, to=seen.last if more else until)
        return more

    async def _until(self, unit: Unit) -> str:
        """The id before which nothing can appear any more, and nothing is young enough to be under way. Raises
        RightsMissing where somebody writes, and since when is not told."""
        async with as_owner(unit.driver):  # PostgreSQL tells a login of the sessions of its own
            writers = await unit.row(_WRITERS)
        assert writers is not None, "an aggregate has one row"
        if writers.hidden:
            raise RightsMissing(reason="since when others write is not told; grant pg_read_all_stats to this login")
        old_enough = unit.now - self._after
        return _id_at(old_enough if writers.since is None else min(old_enough, writers.since - SKEW))

    async def _bring(self, unit: Unit, handler: str, waits_since: datetime | None) -> list[str]:
        """Put a handler's lost events back into the outbox. What is as young as a message that waits may wait, too."""
        before = unit.now if waits_since is None else waits_since - self._after
        rows = await unit.rows(
            _BRING,
            handler=handler,
            before=_id_at(before),
            now=unit.now,
            look=LOOK_MAX,
            bring=BRING_MAX,
            wait_s=self._after.total_seconds(),
            wait_max_s=float(WAIT_MAX_S),
        )
        return sorted(row.event_id for row in rows)


async def remember_parked(db: Database, handler: str, event_id: str) -> None:
    """What stands in DEAD is not lost: only a person brings it back."""
    async with db.unit() as unit:
        await unit.rows(_PARKED, handler=handler, event_id=event_id, now=unit.now, wait_max_s=float(WAIT_MAX_S))


def _id_at(moment: datetime) -> str:
    return ids.earliest("evt", int(moment.timestamp() * 1000))
