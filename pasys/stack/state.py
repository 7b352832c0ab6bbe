"""What the stack is doing, as one frozen picture: published by the supervisor on every change, read by all others."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import msgspec

from pasys import errors
from pasys.errors import PasysError

Kind = Literal["server", "program", "daemon", "face"]
Condition = Literal["starting", "ready", "stopping", "stopped", "backoff", "crash_loop", "failed", "external"]
HEALTHY: tuple[Condition, ...] = ("ready", "external")


@dataclass(frozen=True, slots=True)
class ServiceState:
    """One server, program, daemon or face. `last_exit` and `last_error` are sentences for a person."""

    name: str
    kind: Kind
    state: Condition
    pid: int | None = None
    started_at: datetime | None = None
    restarts: int = 0
    last_exit: str | None = None
    last_error: str | None = None

    @property
    def healthy(self) -> bool:
        return self.state in HEALTHY


@dataclass(frozen=True, slots=True)
class SupervisorState:
    """`birth` tells a process from a later one with the same pid."""

    pid: int
    started_at: datetime
    version: str
    birth: str | None = None


@dataclass(frozen=True, slots=True)
class Trouble:
    """An error of pasys that concerns the whole stack, on its way to another process."""

    name: str
    facts: dict[str, Any]

    @classmethod
    def of(cls, error: PasysError) -> Trouble:
        return cls(type(error).__name__, {name: _plain(fact) for name, fact in error.facts.items()})

    def error(self) -> PasysError:
        kind = getattr(errors, self.name)
        return kind(**self.facts)


@dataclass(frozen=True, slots=True)
class StackStatus:
    """`running` says that a supervisor lives, `stopping` that it is on its way out; `trouble` is what keeps the whole
    stack from working, if anything; `warning` is what will, if nobody looks after it."""

    running: bool = False
    supervisor: SupervisorState | None = None
    services: list[ServiceState] = field(default_factory=list)
    trouble: Trouble | None = None
    warning: Trouble | None = None
    stopping: bool = False

    @property
    def healthy(self) -> bool:
        return self.running and not (self.trouble or self.warning) and all(service.healthy for service in self.services)


def encode(status: StackStatus) -> bytes:
    return msgspec.json.encode(status)


def decode(content: bytes) -> StackStatus | None:
    """None for what is not a whole picture."""
    try:
        return msgspec.json.decode(content, type=StackStatus)
    except msgspec.DecodeError:
        return None


def _plain(fact: Any) -> Any:
    return fact if isinstance(fact, str | int | float | bool | None) else str(fact)
