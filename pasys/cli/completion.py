"""Live ids for a shell that completes a word. Where the stack is down there are none, and nothing is said."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pasys.cli.console import ask, chosen

if TYPE_CHECKING:
    from pasys.db import Unit

SHOWN_MAX = 50


def account_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """The names of accounts that contain what was typed."""

    async def names(unit: Unit) -> list[str]:
        from pasys.service import account

        rows = await account.listing(unit, name_like=incomplete or None, limit=SHOWN_MAX)
        return sorted({row.name for row in rows if row.type != "system"})

    return _quietly(ctx, names)


def transaction_ids(ctx: typer.Context, incomplete: str) -> list[str]:
    """The newest transactions whose id begins with what was typed."""

    async def found(unit: Unit) -> list[str]:
        from pasys.service import transaction_query

        rows = await transaction_query.listing(unit, limit=SHOWN_MAX)
        return [row.id for row in rows if row.id.startswith(incomplete)]

    return _quietly(ctx, found)


def _quietly(ctx: typer.Context, question: Callable[[Unit], Awaitable[list[str]]]) -> list[str]:
    home: Any = ctx.find_root().params.get("home")
    chosen.home = Path(home).expanduser() if home else None
    try:
        return ask(question)
    except Exception:  # whatever it is, the person pressed a key and is owed no traceback
        return []
