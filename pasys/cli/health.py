"""What runs and how it fares: the supervisor's picture, the daemons' pulses, and the operator's own servers."""

from __future__ import annotations

import contextlib
import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from pasys.cli.failure import envelope
from pasys.errors import ServiceFailed, StackNotRunning

if TYPE_CHECKING:
    from pasys.config import Settings
    from pasys.stack.state import ServiceState, StackStatus

# What pasys.worker.pulse.Beat holds; its module would bring the drivers of three servers with it.
Beat = dict[str, Any]
SERVERS = {"postgres": "database_url", "nats": "nats_url", "redis": "redis_url"}
MEASURED = ("rate", "handled", "rejected", "retried", "parked")
READ_TIMEOUT_S = 1.0


def look(settings: Settings) -> dict[str, Any]:
    """Everything that `pasys status` says: `healthy`, `services` and, where it is not healthy, `error`."""
    from pasys.stack import client

    stack = client.status(settings.home_path)
    own_servers = _own_servers(settings)
    beats = pulses(settings) if stack.running or own_servers else []
    services = [service_row(service, beats) for service in stack.services]
    if own_servers and not stack.running:
        services = probed(settings)
    known = {row["pid"] for row in services}
    services += [beat_row(beat) for beat in beats if not (_here(beat) and beat["pid"] in known)]
    answering = own_servers and all(row["state"] == "external" for row in services[: len(SERVERS)])
    healthy = stack.healthy if stack.running else answering
    found = {
        "healthy": healthy,
        "running": stack.running or own_servers,
        "home": settings.home,
        "supervisor": stack.supervisor and {"pid": stack.supervisor.pid, "version": stack.supervisor.version},
        "services": services,
    }
    return found if healthy else found | {"error": _why(settings, stack, services, running=found["running"])}


def _own_servers(settings: Settings) -> bool:
    """Whether all three servers are the operator's own: their addresses are set, not recorded by `pasys up`."""
    from pasys.config import load

    operator = load(settings.home_path, recorded=False)
    return all(getattr(operator, field) is not None for field in SERVERS.values())


def _why(settings: Settings, stack: StackStatus, services: list[dict[str, Any]], *, running: bool) -> dict[str, Any]:
    if not running:
        return envelope(StackNotRunning(home=settings.home))
    if stack.trouble is not None:
        return envelope(stack.trouble.error())
    if stack.warning is not None and all(service.healthy for service in stack.services):
        return envelope(stack.warning.error())
    ill = next(row for row in services if row["state"] not in ("ready", "external"))
    return envelope(ServiceFailed(service=ill["name"], reason=ill["last_error"] or f"it is {ill['state']}"))


def service_row(service: ServiceState, beats: list[Beat]) -> dict[str, Any]:
    """A service of the supervisor's, with its pulse where it has one."""
    beat = next((beat for beat in beats if _here(beat) and beat["pid"] == service.pid), None)
    started = service.started_at
    return {
        "name": service.name,
        "kind": service.kind,
        "state": service.state,
        "pid": service.pid,
        "uptime_s": round((datetime.now(UTC) - started).total_seconds(), 1) if started else None,
        "restarts": service.restarts,
        "last_exit": service.last_exit,
        "last_error": service.last_error or (beat["last_error"] if beat else None),
    } | measures(beat)


def _here(beat: Beat) -> bool:
    return beat["host"] == socket.gethostname()


def beat_row(beat: Beat) -> dict[str, Any]:
    """A daemon that somebody else supervises, known by its pulse alone."""
    return {
        "name": f"{beat['name']}@{beat['host']}",
        "kind": "daemon",
        "state": "ready",
        "pid": beat["pid"],
        "uptime_s": round(datetime.now(UTC).timestamp() - beat["started_at"], 1),
        "restarts": None,
        "last_exit": None,
        "last_error": beat["last_error"],
    } | measures(beat)


def measures(beat: Beat | None) -> dict[str, Any]:
    """Lag, rate and counts of a daemon; lag is None where nobody can say."""
    if beat is None:
        return dict.fromkeys(("lag", *MEASURED))
    lags = [lag for lag in beat["lag"].values() if lag is not None]
    return {"lag": sum(lags) if lags else None} | {name: beat[name] for name in MEASURED}


def pulses(settings: Settings) -> list[Beat]:
    """The pulse of every daemon that beats; nothing where Redis does not answer."""
    import redis

    if settings.redis_url is None:
        return []
    found: list[Beat] = []
    with contextlib.suppress(redis.RedisError, OSError):
        client = redis.Redis.from_url(
            settings.redis_url, socket_timeout=READ_TIMEOUT_S, socket_connect_timeout=READ_TIMEOUT_S
        )
        keys = list(client.scan_iter(match=f"{settings.redis_prefix}:pulse:*", count=1_000))
        for content in client.mget(keys) if keys else []:
            found += [msgspec.json.decode(content, type=Beat)] if content else []
    return sorted(found, key=lambda beat: (beat["name"], beat["host"]))


def probed(settings: Settings) -> list[dict[str, Any]]:
    """The operator's own servers, each asked for a real piece of work at the same time."""
    import asyncio

    from pasys.stack import external

    async def ask(server: str, field: str) -> dict[str, Any]:
        error = None
        try:
            await asyncio.wait_for(getattr(external, server)(getattr(settings, field)), timeout=5)
        except Exception as failure:  # three drivers, each with a family of errors of its own
            error = " ".join(str(failure).split())[:300] or type(failure).__name__
        row = {"name": server, "kind": "server", "state": "failed" if error else "external", "pid": None}
        nothing = dict.fromkeys(("uptime_s", "restarts", "last_exit"))
        return row | nothing | {"last_error": error} | measures(None)

    async def ask_all() -> list[dict[str, Any]]:
        return list(await asyncio.gather(*(ask(server, field) for server, field in SERVERS.items())))

    return asyncio.run(ask_all())
