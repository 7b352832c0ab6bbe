"""A body or a query is `name=value` pairs, and brackets in a name nest: `metadata[order]=7`, `expand[0]=customer`.

Numbered brackets stay a mapping here, because only the field knows whether it is a list: `metadata[0]` is a key.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from pasys.simulator.refusal import invalid

PAIRS_MAX = 1000
DEPTH_MAX = 6

Pairs = list[tuple[str, str]]


def decode(raw: bytes) -> Pairs:
    if not raw:
        return []
    try:
        return parse_qsl(raw.decode(), keep_blank_values=True, max_num_fields=PAIRS_MAX, errors="strict")
    except ValueError as error:
        raise invalid(f"Invalid request: the parameters cannot be read ({error}).") from None


def nest(pairs: Pairs) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in pairs:
        if "[" in name:
            _place(nested, name, value)
        else:
            nested[name] = value
    return nested


def _place(nested: dict[str, Any], name: str, value: str) -> None:
    head, *rest = name.split("[")
    keys = [head, *(part.removesuffix("]") for part in rest)]
    if len(keys) > DEPTH_MAX or not head or not all(part.endswith("]") for part in rest):
        raise invalid(f"Invalid parameter name: {name}", param=name)
    place = nested
    for key in keys[:-1]:
        place = place.setdefault(key, {})
        if not isinstance(place, dict):
            raise invalid(f"Parameter {head} is given both as a value and as a mapping.", param=head)
    # `expand[]=a&expand[]=b` numbers itself.
    place[keys[-1] or str(len(place))] = value
