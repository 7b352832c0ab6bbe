"""Lists are newest first, cut into pages by a cursor that is an object's id, and never read more than a page.

Search takes Stripe's query language as far as `field:"value"`, `field>number` and `AND`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from pasys.simulator.refusal import invalid, resource_missing
from pasys.simulator.schema import KINDS, Kind
from pasys.simulator.store import Object, Store, decode

LIMIT_DEFAULT = 10
LIMIT_MAX = 100

_BOUNDS = {"eq": "=", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
# These narrow a list so little that SQLite should prefer any other index.
_COARSE = ("type", "currency", "status")
_CLAUSE = re.compile(
    r"""\s*(?:metadata\[(?P<quote>["'])(?P<key>.+?)(?P=quote)\]|(?P<field>[a-z_]+))\s*(?P<sign>:|>=|<=|>|<|=)\s*"""
    r"""(?:"(?P<double>[^"]*)"|'(?P<single>[^']*)'|(?P<number>-?\d{1,15}))\s*"""
)
_SEARCH_FIELDS = ("amount", "created", "currency", "customer", "status", "email", "name", "payment_intent")

# Turns one stored line into the lines that are shown; only a statement fault makes it anything but one to one.
View = Callable[[Object], list[Object]]


def page(
    store: Store, noun: str, asked: Object, url: str, view: View | None = None, *, types: list[str] | None = None
) -> Object:
    """One page of `noun`; every parameter of `asked` that is not a cursor is a filter on the column of that name."""
    kind = KINDS[noun]
    limit = _limit(asked)
    where, values = _filters(kind, asked)
    if types:
        where.append(f"type IN ({', '.join('?' * len(types))})")
        values += types
    ascending = "ending_before" in asked
    bound = _cursor(store, kind, asked)
    # A line that a fault doubles stays on one page with its double, so pages count stored lines.
    groups: list[list[Object]] = []
    while len(groups) <= limit:
        rows = _rows(store, kind, where, values, bound, ascending=ascending, limit=limit + 1 - len(groups))
        for seq, created, body in rows:
            item = decode(body)
            lines = [item] if view is None else view(item)
            if lines:
                groups.append(lines)
            bound = (created, seq)
        if not rows or view is None:
            break
    items = [line for lines in groups[:limit] for line in lines]
    return {
        "object": "list",
        "url": url,
        "has_more": len(groups) > limit,
        "data": items[::-1] if ascending else items,
    }


def search(store: Store, noun: str, asked: Object, url: str) -> Object:
    kind = KINDS[noun]
    limit = _limit(asked)
    where, values = [], []
    for match in _clauses(asked["query"] or ""):
        sql, extra = _clause(kind, match)
        where.append(sql)
        values += extra
    bound = _cursor(store, kind, {"starting_after": asked["page"]} if asked.get("page") else {})
    rows = _rows(store, kind, where, values, bound, ascending=False, limit=limit + 1)
    items = [decode(body) for _, _, body in rows[:limit]]
    more = len(rows) > limit
    return {
        "object": "search_result",
        "url": url,
        "has_more": more,
        "next_page": items[-1]["id"] if more else None,
        "data": items,
    }


def _limit(asked: Object) -> int:
    limit = asked.get("limit", LIMIT_DEFAULT)
    if not 1 <= limit <= LIMIT_MAX:
        raise invalid(f"Invalid limit: it must be between 1 and {LIMIT_MAX}.", param="limit")
    return limit


def _filters(kind: Kind, asked: Object) -> tuple[list[str], list[Any]]:
    where: list[str] = []
    values: list[Any] = []
    fine = any(asked.get(name) for name in kind.filters if name not in _COARSE)
    for name in kind.filters:
        if asked.get(name) is not None:
            where.append(f"{'+' if fine and name in _COARSE else ''}{name} = ?")
            values.append(asked[name])
    for bound, value in asked.get("created", {}).items():
        where.append(f"created {_BOUNDS[bound]} ?")
        values.append(value)
    return where, values


def _cursor(store: Store, kind: Kind, asked: Object) -> tuple[int, int] | None:
    if asked.get("starting_after") and asked.get("ending_before"):
        raise invalid("You can only pass one of starting_after and ending_before.", param="ending_before")
    for name in ("starting_after", "ending_before"):
        if not asked.get(name):
            continue
        row = store.row(f"SELECT created, seq FROM {kind.table} WHERE id = ?", (asked[name],))
        if row is None:
            raise resource_missing(kind.name, asked[name], param=name, status=400)
        return row[0], row[1]
    return None


def _rows(
    store: Store,
    kind: Kind,
    where: list[str],
    values: list[Any],
    bound: tuple[int, int] | None,
    *,
    ascending: bool,
    limit: int,
) -> list[tuple[int, int, bytes]]:
    order, sign = ("ASC", ">") if ascending else ("DESC", "<")
    if bound is not None:
        where = [*where, f"(created, seq) {sign} (?, ?)"]
        values = [*values, *bound]
    sql = (
        f"SELECT seq, created, body FROM {kind.table}{' WHERE ' if where else ''}{' AND '.join(where)} "
        f"ORDER BY created {order}, seq {order} LIMIT {limit}"
    )
    return store.rows(sql, values)  # pyright: ignore[reportReturnType]  three columns are selected


def _clauses(query: str) -> list[re.Match[str]]:
    matches = []
    for part in re.split(r"\s+AND\s+", query, flags=re.IGNORECASE):
        match = _CLAUSE.fullmatch(part)
        if match is None:
            raise invalid(f"We were unable to parse your search query at '{part}'.", param="query")
        matches.append(match)
    return matches


def _clause(kind: Kind, match: re.Match[str]) -> tuple[str, list[Any]]:
    value = next(match[name] for name in ("double", "single", "number") if match[name] is not None)
    if match["key"] is not None:
        if match["sign"] != ":":
            raise invalid("Metadata is searched with ':'.", param="query")
        return (
            "id IN (SELECT id FROM search WHERE object = ? AND key = ? AND value = ?)",
            [kind.name, match["key"], value],
        )
    if match["field"] not in _SEARCH_FIELDS:
        raise invalid(f"Field '{match['field']}' is an unsupported search field.", param="query")
    numeric = match["number"] is not None
    sign = "=" if match["sign"] == ":" else match["sign"]
    if sign != "=" and not numeric:
        raise invalid(f"Field '{match['field']}' takes a number after '{match['sign']}'.", param="query")
    column = f"json_extract(CAST(body AS TEXT), '$.{match['field']}')"
    return f"{column} {sign} ?", [int(value) if numeric else value]
