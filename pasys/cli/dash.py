"""pasys dash: the system in one terminal, live, by keyboard."""

from __future__ import annotations

import shutil
import sys
from datetime import datetime
from typing import Annotated

import typer

from pasys.cli.console import Noun, settings
from pasys.cli.options import moment
from pasys.errors import InvalidInput

app = Noun("dash", "The system in one terminal: live, by keyboard.")
# Here too, so that --help loads no Textual.
SCREENS = ("overview", "transactions", "accounts", "review", "reconciliation", "events", "dead-letters", "logs")


def screens(incomplete: str) -> list[str]:
    """For completion, without loading Textual."""
    return [name for name in SCREENS if name.startswith(incomplete)]


@app.command(
    "dash",
    examples="pasys dash\npasys --actor bob dash --screen review\npasys dash --screen overview --once",
)
def dash(
    screen: Annotated[
        str,
        typer.Option(
            "--screen", metavar="NAME", autocompletion=screens, help=f"Begin with this one: {', '.join(SCREENS)}."
        ),
    ] = "overview",
    once: Annotated[bool, typer.Option("--once", help="Print the screen as text, and exit.")] = False,
) -> None:
    """Watch the system in this terminal: services, payments, what waits for a person.

    It is read-only until it is armed (a). Then keys act, each after it has shown the command that does the same.
    """
    import asyncio

    from pasys.cli import health
    from pasys.tui import app as tui

    doors = tui.Doors(load=settings, look=health.look, moment=_moment)
    settings()  # what is wrong with them is said before the screen is taken
    if once:
        size = shutil.get_terminal_size()
        print(asyncio.run(tui.once(doors, screen, width=size.columns, height=size.lines)))
        return
    dashboard = tui.Dash(doors, screen=screen)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise InvalidInput(
            field="output", reason="the dashboard needs a terminal; `--once` prints a screen without one"
        )
    dashboard.run()


def _moment(text: str) -> datetime:
    return moment(text, field="filter")
