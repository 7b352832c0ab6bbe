"""Runs one daemon: claim, handle, commit, ack; timers; the outbox's relay; a pulse that others can see.

Every message has its effect once, whatever happens in between: delivery is at least once, and the inbox row that is
written in the handler's own transaction makes the effect exactly once.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules

from pasys.bus import Bus
from pasys.config import Settings
from pasys.daemon import Daemon
from pasys.db import Database
from pasys.errors import DatabaseUnavailable, ServiceNotFound
from pasys.worker.doors import Doors
from pasys.worker.lane import BooksLane, Lane, WorldLane
from pasys.worker.log import configure, log
from pasys.worker.pulse import Pulse
from pasys.worker.refill import Refill
from pasys.worker.relay import Relay
from pasys.worker.timer import run_timer

CONNECTIONS_MAX = 6
DRAIN_S = 15.0


def daemon_names() -> list[str]:
    """The daemons that the folder daemons/ holds: its modules that name one `daemon`."""
    import daemons

    return sorted(module.name for module in iter_modules(daemons.__path__) if hasattr(_module(module.name), "daemon"))


def load(name: str) -> Daemon:
    """A daemon by name; copies are called settlement-2, settlement-3. Raises ServiceNotFound."""
    stem = name.split("-")[0]
    if stem not in daemon_names():
        raise ServiceNotFound(name=name, known=", ".join(daemon_names()))
    return _module(stem).daemon


def _module(name: str):
    return import_module(f"daemons.{name}")


def main(name: str, settings: Settings, *, ready: Callable[[], None] | None = None) -> None:
    """Run a daemon until SIGTERM or SIGINT, then finish what is in hand."""
    import uvloop

    configure(settings.log_level)
    uvloop.run(_until_signal(name, settings, ready))


async def _until_signal(name: str, settings: Settings, ready: Callable[[], None] | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await run(load(name), settings, stop=stop, ready=ready, instance=name)


async def run(
    daemon: Daemon,
    settings: Settings,
    *,
    stop: asyncio.Event,
    ready: Callable[[], None] | None = None,
    instance: str | None = None,
) -> None:
    """Run a daemon in this event loop until `stop` is set. Waits for servers that are not there yet."""
    db = Database(settings, connections_max=CONNECTIONS_MAX, by_index=True)
    bus = await _connect(settings, db, daemon.name, stop)
    if bus is None:
        await db.close()
        return
    relay = Relay(db, bus)
    doors = Doors(daemon, settings, db)
    pulse = Pulse(instance or daemon.name, daemon, bus, settings)
    lanes: list[Lane] = [
        (BooksLane if handler.touches_books else WorldLane)(
            daemon, handler, db=db, bus=bus, relay=relay, doors=doors, pulse=pulse
        )
        for handler in daemon.handlers
    ]
    tasks = [asyncio.create_task(lane.run(stop), name=lane.durable) for lane in lanes]
    background = [asyncio.create_task(run_timer(daemon, timer, db, relay, stop, pulse)) for timer in daemon.timers]
    background += [asyncio.create_task(relay.run(stop)), asyncio.create_task(pulse.run(stop, lanes))]
    if settings.event_overdue_s:
        background.append(asyncio.create_task(Refill(daemon, lanes, db, bus).run(stop)))
    log.info("%s runs: %d handlers, %d timers", daemon.name, len(lanes), len(daemon.timers))
    subscribed = asyncio.gather(*(lane.subscribed.wait() for lane in lanes))
    announce = asyncio.create_task(_announce_ready(subscribed, ready))
    await _wait(stop, [*tasks, *background])
    log.info("%s drains", daemon.name)
    announce.cancel()
    _, late = await asyncio.wait([*tasks, *background], timeout=DRAIN_S)
    for task in late:
        task.cancel()
    await asyncio.gather(*tasks, *background, return_exceptions=True)
    await relay.flush()
    await relay.tidy()
    await doors.close()
    await bus.close()
    await db.close()


async def _connect(settings: Settings, db: Database, name: str, stop: asyncio.Event) -> Bus | None:
    """The bus, once both servers answer; None when `stop` came first."""
    connecting = asyncio.create_task(_both(settings, db, name))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({connecting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not connecting.done():
        connecting.cancel()
        return None
    return connecting.result()


async def _both(settings: Settings, db: Database, name: str) -> Bus:
    while True:
        try:
            async with db.unit() as unit:
                await unit.value("select 1")
            break
        except DatabaseUnavailable as error:
            log.warning("waiting for PostgreSQL: %s", error)
            await asyncio.sleep(0.3)
    return await Bus(settings).connect(name=name, wait=True)


async def _announce_ready(subscribed: asyncio.Future, ready: Callable[[], None] | None) -> None:
    await subscribed
    if ready is not None:
        ready()


async def _wait(stop: asyncio.Event, tasks: list[asyncio.Task]) -> None:
    """Until `stop`, or until a task ends with an error, which is a bug and ends the process."""
    stopping = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    stop.set()
    for task in done - {stopping}:
        with contextlib.suppress(asyncio.CancelledError):
            task.result()
