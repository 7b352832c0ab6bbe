"""Every point between two steps of a payment and of a refund has a name, and a worker can be made to die there.

The product has no hooks for this: its functions are wrapped in the process that is going to be killed.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

BOOKS = (
    "fraud.judge",
    "settlement.prepare",
    "ledger.succeed",
    "ledger.fail",
    "ledger.doubt",
    "refund.reserve",
    "refund.send",
    "refund.complete",
    "refund.release",
    "refund.doubt",
)
WORLD = ("settlement.send", "refund.give_back")
STEPS = ("authorise", "capture", "refund")
TIMERS = ("settlement.resolve", "refund.resolve")
SUBJECTS = (
    "transaction.created",
    "fraud.cleared",
    "settlement.requested",
    "settlement.succeeded",
    "settlement.failed",
    "settlement.unknown",
    "refund.approved",
    "refund.reserved",
    "refund.sent",
    "refund.completed",
    "refund.declined",
    "refund.unknown",
)
_OF_LANES = ("claim.before", "claim.after", "handle.after", "commit.before", "commit.after", "ack.before", "ack.after")
POINTS: tuple[tuple[str, str], ...] = (
    *((point, handler) for handler in (*BOOKS, *WORLD) for point in _OF_LANES),
    *((point, step) for step in STEPS for point in ("psp.before", "psp.on_its_way", "psp.after")),
    *((point, timer) for timer in TIMERS for point in ("commit.before", "commit.after")),
    *((point, subject) for subject in SUBJECTS for point in ("publish.before", "publish.after")),
    ("tidy.before", ""),
    ("tidy.after", ""),
)
# Reached only where something went wrong before: an answer that did not come, a card or a merchant that cannot pay.
NEEDS_DOUBT = frozenset({"ledger.doubt", "refund.doubt", "settlement.unknown", "refund.unknown", *TIMERS})

_here: ContextVar[str] = ContextVar("here", default="")


@dataclass(frozen=True)
class Kill:
    """Die with SIGKILL when `point` is passed for the `nth` time at `where` (a handler, a PSP's step, a subject)."""

    point: str
    where: str = ""
    nth: int = 1
    on_its_way_s: float = 0.005

    def __str__(self) -> str:
        return f"{self.point}@{self.where or 'anywhere'}#{self.nth}"


class Trigger:
    """What a process dies of, once it is set."""

    def __init__(self) -> None:
        self.kill: Kill | None = None
        self._left = 0

    def set(self, kill: Kill | None) -> None:
        self.kill, self._left = kill, kill.nth if kill else 0

    def pulled(self, point: str, *where: str) -> bool:
        kill = self.kill
        if kill is None or point != kill.point or (kill.where and kill.where not in where):
            return False
        self._left -= 1
        return self._left == 0

    def pass_by(self, point: str, *where: str) -> None:
        if self.pulled(point, *where):
            die()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm() -> Trigger:
    """Wrap what the points stand at. Call it before any daemon runs; from when the trigger is set, this can die."""
    trigger = Trigger()
    _arm_lanes(trigger)
    _arm_units(trigger)
    _arm_relay(trigger)
    _arm_psp(trigger)
    return trigger


def _around(
    owner: Any, name: str, *, before: Callable[..., Any] | None = None, after: Callable[..., Any] | None = None
) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)
    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        if before is not None:
            before(*args)
        answer = await original(*args, **kwargs)
        if after is not None:
            after(*args)
        return answer

    _replace(owner, name, wrapped)


def _replace(owner: Any, name: str, value: Any) -> None:
    (object.__setattr__ if not isinstance(owner, type) else setattr)(owner, name, value)


def _arm_lanes(trigger: Trigger) -> None:
    from pasys import worker
    from pasys.worker import timer
    from pasys.worker.lane import BooksLane, Lane, WorldLane

    at = trigger.pass_by
    _around(
        Lane, "claim", before=lambda s, *_: at("claim.before", s.name), after=lambda s, *_: at("claim.after", s.name)
    )
    _around(Lane, "_done", before=lambda s, *_: at("ack.before", s.name), after=lambda s, *_: at("ack.after", s.name))
    for owner, name in ((BooksLane, "_attempt"), (WorldLane, "_write"), (Lane, "refuse")):
        _around(owner, name, before=lambda lane, *_: _here.set(lane.name))
    _around(timer, "_tick", before=lambda daemon, ticking, *_: _here.set(f"{daemon.name}.{ticking.name}"))
    for name in ("fraud", "settlement", "ledger", "refund"):
        for handler in worker.load(name).handlers:
            where = f"{name}.{handler.name}"
            _around(handler, "call", after=lambda *_, where=where: at("handle.after", where))


def _arm_units(trigger: Trigger) -> None:
    """Only units of handlers and timers count; a timer that had nothing to do does not."""
    from pasys.db import Database, Unit

    write, unit = Unit.write_outbox, Database.unit

    async def write_outbox(self: Unit, *, relayed: bool) -> None:
        await write(self, relayed=relayed)
        if relayed and (_here.get() not in TIMERS or self.announcements):
            trigger.pass_by("commit.before", _here.get())

    @asynccontextmanager
    async def opened(self: Database, **how: Any) -> AsyncIterator[Unit]:
        async with unit(self, **how) as made:
            yield made
        if how.get("relayed") and (_here.get() not in TIMERS or made.announcements):
            trigger.pass_by("commit.after", _here.get())

    Unit.write_outbox = write_outbox
    Database.unit = opened


def _arm_relay(trigger: Trigger) -> None:
    from pasys.bus import Bus
    from pasys.worker.relay import Relay

    def publishing(point: str) -> Callable[..., None]:
        def pass_by(_: Bus, said: Any) -> None:
            if said:
                trigger.pass_by(point, *{one.subject.rpartition(".")[0] for one in said})

        return pass_by

    _around(Bus, "publish", before=publishing("publish.before"), after=publishing("publish.after"))
    tidy = Relay.tidy

    async def tidied(self: Relay) -> None:
        something = bool(self._acked)
        if something:
            trigger.pass_by("tidy.before")
        await tidy(self)
        if something:
            trigger.pass_by("tidy.after")

    Relay.tidy = tidied


def _arm_psp(trigger: Trigger) -> None:
    """Before the request is sent, while it is on its way, and after the PSP has committed and answered."""
    from pasys.adapters.stripe_api import StripeApi

    post = StripeApi.post

    async def posted(self: StripeApi, path: str, parameters: Any, *, key: str) -> Any:
        step = key.rpartition(":")[2]
        trigger.pass_by("psp.before", step)
        if (kill := trigger.kill) is not None and trigger.pulled("psp.on_its_way", step):
            asyncio.get_running_loop().call_later(kill.on_its_way_s, die)
        answer = await post(self, path, parameters, key=key)
        trigger.pass_by("psp.after", step)
        return answer

    StripeApi.post = posted
