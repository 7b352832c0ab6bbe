"""What the stack consists of, as data: which programs there are, what each needs first, and where it is found."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import msgspec

from pasys.config import Settings
from pasys.errors import ServiceNotFound
from pasys.stack import ports
from pasys.stack.home import Home, read_json, write_private
from pasys.stack.state import Kind

SERVERS = ("postgres", "nats", "redis")
NURSERY = "nursery"
DAEMONS_PACKAGE = "daemons"
WEBHOOK_PATH = "/webhooks/stripe"
EXTERNAL_FIELDS = {"postgres": "database_url", "nats": "nats_url", "redis": "redis_url"}

# In this order: the migration needs only the first two, and is served while the others are still being read. What only
# one or two programs use, they read themselves: each page that is read here counts in every process.
PRELOAD = (
    "psycopg",
    "pasys.migration",
    "sqlalchemy.ext.asyncio",
    "sqlalchemy.dialects.postgresql.psycopg",
    "nats",
    "redis.asyncio",
    "pasys.worker",
    "uvloop",
)


def left_out(operator: Settings) -> tuple[str, ...]:
    """What is not read ahead though a library asks for it: NATS's client wants one for HTTP, of 9 MB, where one is
    installed, and uses it for WebSockets only."""
    by_websocket = re.search(r"\bwss?://", operator.nats_url or "")
    return () if by_websocket else ("aiohttp",)


@dataclass(frozen=True, slots=True)
class Program:
    """A function that runs in a process of its own until SIGTERM.

    target          module:function, called with `args`, the settings if `settings`, and `ready=` if `reports_ready`
    needs           services that must be ready before it starts, and are started with it
    health_url      answers 200 when the program works
    once            it ends by itself; having ended well is being ready
    early           can start before the nursery has read everything
    """

    name: str
    kind: Kind
    target: str
    args: tuple[Any, ...] = ()
    settings: bool = False
    reports_ready: bool = False
    needs: tuple[str, ...] = ()
    health_url: str | None = None
    once: bool = False
    early: bool = False


def test_programs() -> list[Program] | None:
    """Programs that replace all of ours, given by a test of the machine room itself."""
    text = os.environ.get("PASYS_TEST_PROGRAMS")
    return msgspec.json.decode(text, type=list[Program]) if text else None


def fixed_programs(home: Home, settings: Settings, *, port_of: dict[str, int]) -> list[Program]:
    """Everything but the daemons, whose names only the nursery knows."""
    upgrade = "pasys.migration:upgrade"
    programs = [
        Program("migrate", "program", upgrade, settings=True, needs=("postgres",), once=True, early=True),
        _webhook(settings),
    ]
    if "psp" in port_of:
        programs.append(_psp(home, settings, port=port_of["psp"]))
    return programs


def daemon_programs(names: list[str], copies: dict[str, int]) -> list[Program]:
    """Every daemon, as often as the settings say: settlement, settlement-2, …"""
    return [
        Program(
            name if copy == 1 else f"{name}-{copy}",
            "daemon",
            "pasys.worker:main",
            args=(name if copy == 1 else f"{name}-{copy}",),
            settings=True,
            reports_ready=True,
            needs=("migrate", "nats", "redis"),
        )
        for name in names
        for copy in range(1, copies.get(name, 1) + 1)
    ]


def _webhook(settings: Settings) -> Program:
    return Program(
        "webhook",
        "face",
        "daemons.webhook:main",
        settings=True,
        reports_ready=True,
        needs=("migrate",),
        health_url=_health(settings.require("webhook_url")),
    )


def _psp(home: Home, settings: Settings, *, port: int) -> Program:
    words = ["--data", str(home.data / "psp"), "--host", ports.LOOPBACK, "--port", str(port)]
    words += ["--api-key", settings.require("stripe_api_key")]
    words += ["--webhook-url", settings.require("webhook_url")]
    words += ["--webhook-secret", settings.require("stripe_webhook_secret")]
    health = _health(settings.require("stripe_api_base"))
    return Program("psp", "program", "pasys.simulator.__main__:main", (words,), health_url=health, early=True)


def _health(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/health"


def choose_ports(home: Home, operator: Settings) -> dict[str, int]:
    """A port for every embedded service that has one. Raises PortTaken for one that the operator asked for."""
    asked = {("redis" if name == "valkey" else name): port for name, port in operator.ports.items()}
    remembered = read_json(home.secrets / "ports.json")
    wanted = [name for name in ("nats", "redis") if getattr(operator, EXTERNAL_FIELDS[name]) is None]
    wanted += [] if operator.webhook_url else ["webhook"]
    wanted += ["psp"] if own_psp(operator) else []
    wanted += ["postgres"] if "postgres" in asked and operator.database_url is None else []
    chosen: dict[str, int] = {}
    for name in wanted:
        taken = set(chosen.values())
        chosen[name] = ports.choose(name, asked=asked.get(name), remembered=remembered.get(name), avoid=taken)
    write_private(home.secrets / "ports.json", json.dumps(remembered | chosen).encode())
    return chosen


def own_psp(operator: Settings) -> bool:
    """Whether our simulator stands in for the PSP: unless the operator named one."""
    return operator.stripe_api_key is None and operator.stripe_api_base is None


def endpoints(home: Home, operator: Settings, *, port_of: dict[str, int], urls: dict[str, str]) -> dict[str, str]:
    """What the other processes read: addresses and keys of what we run, nothing that the operator set."""
    found = dict(urls)
    if operator.stripe_webhook_secret is None:
        found["stripe_webhook_secret"] = f"whsec_{home.secret('webhook')}"
    if "webhook" in port_of:
        found["webhook_url"] = f"http://{ports.LOOPBACK}:{port_of['webhook']}{WEBHOOK_PATH}"
    if "psp" in port_of:
        found["stripe_api_key"] = f"sk_test_{home.secret('psp')}"
        found["stripe_api_base"] = f"http://{ports.LOOPBACK}:{port_of['psp']}"
    return found


def selected(needs_of: dict[str, tuple[str, ...]], only: list[str] | None) -> set[str]:
    """The services to run: all, or the asked ones with their copies and all they need. Raises ServiceNotFound."""
    if only is None:
        return set(needs_of)
    chosen: set[str] = set()
    waiting: list[str] = []
    for name in only:
        waiting += named(list(needs_of), name)
    while waiting:
        name = waiting.pop()
        if name not in chosen and name in needs_of:
            chosen.add(name)
            waiting += needs_of[name]
    return chosen


def named(known: list[str], name: str) -> list[str]:
    """A service and its copies. Raises ServiceNotFound."""
    found = [other for other in known if re.fullmatch(rf"{re.escape(name)}(-\d+)?", other)]
    if not found:
        raise ServiceNotFound(name=name, known=", ".join(sorted(known)))
    return found
