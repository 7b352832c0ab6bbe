"""A filter of accounts as one types it: `type:customer status:frozen asset:USD alice`. Each word narrows."""

from __future__ import annotations

from typing import Any

from pasys.domain.account import reserved
from pasys.errors import InvalidInput

ARGUMENTS = {"type": "type", "status": "status", "asset": "asset", "name": "name_like"}


def parse(text: str) -> dict[str, Any]:
    """The arguments of account.listing that a filter stands for; a word by itself is a part of the name.

    Raises InvalidInput for a word that means nothing, or narrows what another has narrowed.
    """
    found: dict[str, Any] = {}
    for word in text.split():
        name, colon, value = word.partition(":")
        if not colon or reserved(word):  # the system's own names have colons
            name, value = "name", word
        if name not in ARGUMENTS or not value:
            known = ", ".join(f"{known}:…" for known in ARGUMENTS)
            raise InvalidInput(field="filter", reason=f"{word!r} is none of {known}, or a part of a name")
        if ARGUMENTS[name] in found:
            raise InvalidInput(field="filter", reason=f"{word!r} is a second {name}; there is one already")
        found[ARGUMENTS[name]] = value.upper() if name == "asset" else value
    return found
