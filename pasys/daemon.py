"""What a daemon is: a name and a few handlers whose signatures are the wiring.

    async def handler(event: Consumed, unit: Unit) -> Emitted | None            the books, one at a time
    async def handler(events: list[Consumed], unit: Unit) -> list[Emitted]      the books, a batch in one transaction
    async def handler(events: list[Consumed], unit: Unit, seen: Seen) -> …      the books, after a reading of the world
    async def handler(event: Consumed, psp: Psp) -> Emitted | OtherEmitted      the world

The first parameter says what is consumed, the return type what is emitted, and the second parameter whether the handler
touches the books or the world. Never both: a transaction that waits for somebody else's network is a lock that we do
not control. What a decision needs to know of the world is a Reading, which the worker takes before it opens the unit.

A handler never catches Rejected. The worker does: it rolls the unit back, then announces what `refused` makes of the
refusal (for the events that its signature names; for others it parks the message), so that a "no" never leaves half a
"yes" in the books. Timers are books handlers without an event.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, ClassVar, Protocol, Union, get_args, get_origin, get_type_hints

from pasys.adapters import WORLD
from pasys.config import Settings
from pasys.db import Database, Unit
from pasys.errors import Rejected
from pasys.events import Event


class Reading(Protocol):
    """A value that is read from the world before a unit opens. `door` says whom to ask."""

    door: ClassVar[type]

    @classmethod
    async def read(cls, door: Any, events: list[Any]) -> Reading: ...


Refusal = Callable[[Any, Rejected], Event | None]
OpenDoor = Callable[[Settings, Database], Awaitable[Any]]


@dataclass(frozen=True)
class Handler:
    call: Callable[..., Awaitable[Any]]
    consumes: tuple[type[Event], ...]
    emits: frozenset[type[Event]]
    uses: type
    batch: bool
    reads: type[Reading] | None

    @property
    def name(self) -> str:
        return getattr(self.call, "__name__", "handler")

    @property
    def touches_books(self) -> bool:
        return self.uses is Unit

    @classmethod
    def of(cls, call: Callable[..., Awaitable[Any]]) -> Handler:
        """Read the wiring from a signature. Raises AssertionError at import for one that mixes books and world."""
        hints = get_type_hints(call)
        emits = emitted_by(hints)
        name = getattr(call, "__name__", "handler")
        parameters = list(inspect.signature(call).parameters)
        assert 2 <= len(parameters) <= 3, f"{name} takes an event, one thing to use, and perhaps a reading"
        first, uses = (hints[parameter] for parameter in parameters[:2])
        reads = hints[parameters[2]] if len(parameters) == 3 else None
        batch = get_origin(first) is list
        consumes = _members(get_args(first)[0] if batch else first)
        assert all(isinstance(kind, type) and issubclass(kind, Event) for kind in consumes), f"{name} consumes {first}"
        assert uses is Unit or uses in WORLD, f"{name} may not use {uses}"
        assert uses is Unit or not batch, f"{name} asks the world, which answers one question at a time"
        if reads is not None:
            assert uses is Unit and hasattr(reads, "read") and reads.door in WORLD, f"{name} may not read {reads}"
        return cls(call, tuple(consumes), emits, uses, batch, reads)


@dataclass(frozen=True)
class Timer:
    call: Callable[[Unit], Awaitable[Any]]
    every: float | str
    emits: frozenset[type[Event]]

    @property
    def name(self) -> str:
        return getattr(self.call, "__name__", "timer")

    def seconds(self, settings: Settings) -> float:
        return float(getattr(settings, self.every) if isinstance(self.every, str) else self.every)


class Daemon:
    def __init__(self, name: str, *, refused: Refusal | None = None, doors: dict[type, OpenDoor] | None = None) -> None:
        self.name = name
        self.refused: Refusal = refused or _silence
        self.refusable, self.refusals = _refusal_wiring(self.refused)
        self.doors = doors or {}
        self.handlers: list[Handler] = []
        self.timers: list[Timer] = []

    def on(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """Wire a handler by its signature; hand the function back untouched."""
        self.handlers.append(Handler.of(call))
        return call

    def every(self, period: float | str) -> Callable[[Callable[[Unit], Awaitable[Any]]], Any]:
        """Wire a timer: seconds, or the name of the setting that holds them. One copy of the daemon at a time ticks."""

        def wire(call: Callable[[Unit], Awaitable[Any]]) -> Callable[[Unit], Awaitable[Any]]:
            hints = get_type_hints(call)
            assert hints[next(iter(inspect.signature(call).parameters))] is Unit, "a timer touches the books only"
            self.timers.append(Timer(call, period, emitted_by(hints)))
            return call

        return wire

    def topology(self) -> Iterator[tuple[str, str, tuple[str, ...]]]:
        """(what starts it, handler, what it emits), a row for each handler and timer."""
        for handler in self.handlers:
            refusable = self.refusable & set(handler.consumes)
            emits = handler.emits | (self.refusals if refusable else frozenset())
            yield " + ".join(kind.subject for kind in handler.consumes), handler.name, _subjects(emits)
        for timer in self.timers:
            period = timer.every if isinstance(timer.every, str) else f"{timer.every:g} s"
            yield f"every {period}", timer.name, _subjects(timer.emits)

    def picture(self) -> list[str]:
        """The topology as lines: what starts it -> handler -> what it emits."""
        return [f"{start} -> {name} -> {' | '.join(emits) or 'nothing'}" for start, name, emits in self.topology()]


def emitted_by(hints: dict[str, Any]) -> frozenset[type[Event]]:
    """The event types that a return annotation names: E, E | F, list[E | F], None."""
    kind = hints["return"]
    members = _members(get_args(kind)[0] if get_origin(kind) is list else kind)
    return frozenset(member for member in members if member is not NoneType)


def _members(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _subjects(kinds: frozenset[type[Event]]) -> tuple[str, ...]:
    return tuple(sorted(kind.subject for kind in kinds))


def _silence(event: Event, no: Rejected) -> None:
    """A daemon without a `refused` of its own has no words for a no: what a rule stops there is parked."""


def _refusal_wiring(refused: Refusal) -> tuple[frozenset[type[Event]], frozenset[type[Event]]]:
    """For which events a refusal is announced, and as what: `refused` says so in its signature."""
    hints = get_type_hints(refused)
    first = next(iter(inspect.signature(refused).parameters))
    return frozenset(_members(hints[first])), emitted_by(hints)
