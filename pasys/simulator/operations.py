"""Which function answers which method and path; each noun's file brings its own operations.

An operation's function takes the unit and the call, and returns the object that is the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from pasys.simulator.fields import Check
from pasys.simulator.store import Object
from pasys.simulator.unit import Unit


class Call(NamedTuple):
    """What was asked: the path's id and the checked parameters."""

    path: str
    id: str
    asked: dict[str, Any]


Function = Callable[[Unit, Call], Object]


class Operation(NamedTuple):
    """`name` is what faults and the journal call it: "payment_intents.capture"."""

    name: str
    method: str
    # Path below /v1 with ":id" where an id stands.
    path: str
    function: Function
    fields: dict[str, Check]
    required: tuple[str, ...] = ()


class Routes:
    """Every operation, found by method and path in two look-ups."""

    def __init__(self, operations: list[Operation]) -> None:
        self.names = sorted({operation.name for operation in operations})
        self._table = {(operation.method, operation.path): operation for operation in operations}
        self._paths = {operation.path for operation in operations}

    def find(self, method: str, path: str) -> tuple[Operation, str] | None:
        """The operation and the id in the path below /v1/."""
        operation = self._table.get((method, path))
        if operation is not None:
            return operation, ""
        parts = path.split("/")
        if len(parts) < 2 or path in self._paths:
            return None
        operation = self._table.get((method, "/".join((parts[0], ":id", *parts[2:]))))
        return None if operation is None else (operation, parts[1])
