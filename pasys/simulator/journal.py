"""The journal is every call that was received, and whether it was executed, replayed, refused or faulted."""

from __future__ import annotations

import time
from typing import Any

from pasys.simulator.fields import PAGE, Check, checked, choice, integer, mapping, text
from pasys.simulator.refusal import Refusal
from pasys.simulator.store import Object, Store, decode, encode

KEPT_S = 24 * 3600
PRUNED_AT_ONCE_MAX = 5000
LIMIT_DEFAULT = 100
LIMIT_MAX = 1000

_COLUMNS = ("at", "operation", "path", "idempotency_key", "outcome", "fault", "status", "object", "metadata")
_INSERT = f"INSERT INTO call ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"
_FILTERS: dict[str, Check] = {
    "created": PAGE["created"],
    "idempotency_key": text,
    "limit": integer,
    "metadata": mapping,
    "object": text,
    "operation": text,
    "outcome": choice("executed", "replayed", "refused", "faulted"),
}
_BOUNDS = {"eq": "=", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


def record(
    store: Store,
    operation: str,
    path: str,
    key: str | None,
    outcome: str,
    status: int | None,
    *,
    fault: str | None = None,
    object_id: str | None = None,
    metadata: dict[str, str] | None = None,
) -> None:
    """`faulted` is a call that a fault stopped before it had any effect; a fault after the effect leaves `executed`."""
    described = encode(metadata).decode() if metadata else None
    store.write(_INSERT, (time.time(), operation, path, key, outcome, fault, status, object_id, described))


def listing(store: Store, asked: dict[str, Any]) -> Object:
    """How many calls match, by outcome, and the newest of them; raises Refusal for an unknown filter."""
    asked = checked(asked, _FILTERS)
    limit = asked.get("limit", LIMIT_DEFAULT)
    if not 1 <= limit <= LIMIT_MAX:
        raise Refusal(400, "invalid_request_error", None, f"limit must be between 1 and {LIMIT_MAX}")
    where, values = _where(asked)
    counts = dict(store.rows(f"SELECT outcome, count(*) FROM call{where} GROUP BY outcome", values))
    rows = store.rows(f"SELECT {', '.join(_COLUMNS)} FROM call{where} ORDER BY seq DESC LIMIT ?", [*values, limit])
    return {
        "object": "list",
        "count": sum(counts.values()),
        **{outcome: counts.get(outcome, 0) for outcome in ("executed", "replayed", "refused", "faulted")},
        "data": [_shown(row) for row in rows],
    }


def _where(asked: dict[str, Any]) -> tuple[str, list[Any]]:
    clauses, values = ["1"], []
    for name in ("idempotency_key", "object", "operation", "outcome"):
        if asked.get(name):
            clauses.append(f"{name} = ?")
            values.append(asked[name])
    for key, value in (asked.get("metadata") or {}).items():
        # The key stands in a JSON path, where a quotation mark would end it.
        clauses.append("json_extract(metadata, ?) = ?")
        values += ['$."' + key.replace('"', "") + '"', value]
    for bound, value in asked.get("created", {}).items():
        clauses.append(f"at {_BOUNDS[bound]} ?")
        values.append(value)
    return " WHERE " + " AND ".join(clauses), values


def _shown(row: tuple[Any, ...]) -> Object:
    shown: Object = dict(zip(_COLUMNS, row, strict=True))
    shown["metadata"] = decode(row[-1]) if row[-1] else {}
    return shown


def prune(store: Store) -> None:
    store.write(
        "DELETE FROM call WHERE at < ? AND seq IN (SELECT seq FROM call ORDER BY seq LIMIT ?)",
        (time.time() - KEPT_S, PRUNED_AT_ONCE_MAX),
    )
