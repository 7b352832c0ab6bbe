"""Where a command meets the rest of pasys: ask a service function, wait for an answer, show it, be sure.

    from pasys.cli.console import Noun, ask, show
    from pasys.cli.options import TABLE, Limit, Output

    app = Noun("refund", "Refunds: all or part of a payment goes back.")

    @app.command("list", examples="pasys refund list --limit 20\\npasys refund list --json")
    def list_(limit: Limit = 50, output: Output = TABLE) -> None:
        '''List refunds, newest first.'''
        from pasys.service import refund

        rows = ask(lambda unit: refund.listing(unit, limit=limit))
        show(rows, output, name="refunds", columns=["id", "status", "amount", "created_at"])

`--json` comes with `output`. A bare `--wait` is options.FINAL. An entity that ended refused is shown by `show_refused`.
Every PasysError that leaves the function becomes two sentences or an envelope, and its exit code.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import typer

from pasys.cli.command import Noun
from pasys.cli.options import Format
from pasys.cli.output import fields_of, is_row, plain, say, show, write_json
from pasys.errors import BusUnavailable, PasysError, PromptNeedsTerminal, WaitTimedOut

if TYPE_CHECKING:
    from pasys.bus import Bus
    from pasys.config import Settings
    from pasys.db import Database, Unit

__all__ = ["Noun", "ask", "ask_bus", "ask_database", "chosen", "confirm", "money", "poll", "say", "settings", "show"]

T = TypeVar("T")
LOOK_FIRST_S = 0.05
LOOK_EVERY_S = 0.5
CONNECT_TIMEOUT_S = 5.0


@dataclass
class Chosen:
    """What was said before the command: `pasys --home DIR --actor NAME --debug …`."""

    home: Path | None = None
    actor: str | None = None
    debug: bool = False


chosen = Chosen()


def settings() -> Settings:
    """The settings of the chosen home, with the chosen actor."""
    from pasys.config import load

    return load(chosen.home, actor=chosen.actor)


def ask(question: Callable[[Unit], Awaitable[T]]) -> T:
    """One question, in one unit: what it wrote is committed when it returns."""

    async def within(database: Database) -> T:
        async with database.unit() as unit:
            return await question(unit)

    return ask_database(within)


def ask_database(question: Callable[[Database], Awaitable[T]]) -> T:
    """A question that needs several units, such as an import or a wait."""

    import asyncio

    async def cross() -> T:
        from pasys.db import Database

        database = Database(settings())
        try:
            return await question(database)
        finally:
            await database.close()

    return asyncio.run(cross())


def ask_bus(question: Callable[[Bus], Awaitable[T]]) -> T:
    """A question to the bus."""

    import asyncio

    async def cross() -> T:
        from pasys.bus import Bus

        try:
            bus = await asyncio.wait_for(Bus(settings()).connect(name="pasys-cli"), CONNECT_TIMEOUT_S)
        except TimeoutError:
            raise BusUnavailable(reason=f"no connection in {CONNECT_TIMEOUT_S:g} s") from None
        try:
            return await question(bus)
        finally:
            await bus.close()

    return asyncio.run(cross())


def poll(
    question: Callable[[Unit], Awaitable[T]],
    *,
    until: Callable[[T], bool],
    timeout_s: float,
    entity_id: str,
    status: Callable[[T], Any] = lambda row: getattr(row, "status", "not final"),
) -> T:
    """Ask again and again, each time in a unit of its own, until the answer will do. Raises WaitTimedOut."""

    import asyncio

    async def look(database: Database) -> T:
        started, pause_s = time.monotonic(), LOOK_FIRST_S
        while True:
            async with database.unit() as unit:
                answer = await question(unit)
            left_s = started + timeout_s - time.monotonic()
            if until(answer):
                return answer
            if left_s <= 0:
                raise WaitTimedOut(entity_id=entity_id, status=text_of(status(answer)), waited_s=f"{timeout_s:g}")
            await asyncio.sleep(min(pause_s, left_s))
            pause_s = min(pause_s * 1.5, LOOK_EVERY_S)

    return ask_database(look)


def text_of(value: Any) -> str:
    return str(getattr(value, "value", value))


def show_refused(row: Any, output: Format, error: PasysError, **shown: Any) -> NoReturn:
    """Print an entity that exists and ended refused, with its `error`; the command ends with the error's exit code."""
    from pasys.cli.failure import envelope, print_error

    reason = envelope(error)
    if output in (Format.JSON, Format.JSONL):
        write_json((plain(row) if is_row(row) else fields_of(row)) | {"error": reason})
    else:
        show(row, output, **shown)
        print_error(reason)
    raise typer.Exit(error.exit_code)


def confirm(question: str, yes: bool, *, flag: str = "--yes") -> None:
    """Go on only when the person agrees; `yes` is the flag that answers. Raises PromptNeedsTerminal."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise PromptNeedsTerminal(flag=flag)
    say(f"{question} [y/N] ")
    if input().strip().lower() not in ("y", "yes"):
        say("Nothing was changed.")
        raise typer.Exit(130)


def money(amount: str, asset: str) -> Any:
    """An amount as it was typed. Raises InvalidAmount, UnknownAsset. Tokens of pasys.toml are known."""
    from pasys.money import parse

    settings()
    return parse(amount, asset)
