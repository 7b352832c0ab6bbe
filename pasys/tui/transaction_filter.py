"""A filter as one types it: `status:failed asset:USD amount>100 since:2h unknown`. Each word narrows."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

from pasys.errors import InvalidInput
from pasys.money import parse as parse_money

TEXTS = ("status", "kind", "rail", "asset", "account", "batch")
TIMES = ("since", "until")
FLAGS: dict[str, dict[str, Any]] = {"unknown": {"outcome": "unknown"}, "review": {"review": True}}
_AMOUNT = re.compile(r"amount([<>])(.+)")


def parse(text: str, moment: Callable[[str], datetime]) -> dict[str, Any]:
    """The arguments of transaction_query.listing that a filter stands for. Raises InvalidInput, InvalidAmount."""
    found: dict[str, Any] = {}
    bounds: list[tuple[str, str]] = []
    for word in text.split():
        name, colon, value = word.partition(":")
        if match := _AMOUNT.fullmatch(word):
            bounds.append(("above" if match[1] == ">" else "below", match[2]))
        elif word in FLAGS:
            found |= FLAGS[word]
        elif colon and value and name in TEXTS:
            found[name] = value.upper() if name == "asset" else value
        elif colon and value and name in TIMES:
            found[name] = moment(value)
        else:
            raise InvalidInput(field="filter", reason=f"{word!r} is none of {_known()}")
    if bounds and "asset" not in found:
        raise InvalidInput(field="filter", reason="an amount needs its asset: asset:USD amount>100")
    return found | {bound: parse_money(amount, found["asset"]) for bound, amount in bounds}


def _known() -> str:
    return ", ".join([*(f"{name}:…" for name in (*TEXTS, *TIMES)), "amount>…", "amount<…", *FLAGS])
