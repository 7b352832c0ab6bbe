"""pasys dash: the system in one terminal, live, by keyboard."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from datetime import datetime
from typing import Annotated

import typer

from pasys.cli.console import Noun, chosen, say, settings
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
    examples="pasys dash\npasys --actor bob dash --screen review\npasys dash --screen overview --once\n"
    "pasys dash --web",
)
def dash(
    screen: Annotated[
        str,
        typer.Option(
            "--screen", metavar="NAME", autocompletion=screens, help=f"Begin with this one: {', '.join(SCREENS)}."
        ),
    ] = "overview",
    once: Annotated[bool, typer.Option("--once", help="Print the screen as text, and exit.")] = False,
    web: Annotated[bool, typer.Option("--web", help="Serve it to a browser, by a link that opens it once.")] = False,
    host: Annotated[
        str | None, typer.Option("--host", metavar="ADDRESS", help="With --web: listen here, not on 127.0.0.1.")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=1, max=65_535, help="With --web: this port, not any that is free.")
    ] = None,
) -> None:
    """Watch the system in this terminal: services, payments, what waits for a person.

    Numbers change screens, / filters, Enter opens, q leaves. It is read-only until it is armed (a). Then keys act, each
    after it has shown the command that does the same. With --web the same is in a browser.
    """
    import asyncio

    from pasys.cli import health
    from pasys.tui import app as tui

    if (host or port) and not web:
        raise InvalidInput(field="host" if host else "port", reason="it says where --web listens; add --web")
    if web and once:
        raise InvalidInput(field="once", reason="it prints one screen and exits; --web serves them")
    doors = tui.Doors(load=settings, look=health.look, moment=_moment)
    settings()  # what is wrong with them is said before the screen is taken
    if once:
        size = shutil.get_terminal_size()
        print(asyncio.run(tui.once(doors, screen, width=size.columns, height=size.lines)))
        return
    served = "TEXTUAL_DRIVER" in os.environ  # to a browser, by `dash --web`
    dashboard = tui.Dash(doors, screen=screen, served_by=os.getppid() if served else None)
    if web:
        return asyncio.run(_serve(screen, host or "127.0.0.1", port or 0))
    if not (sys.stdin.isatty() and sys.stdout.isatty()) and not served:
        raise InvalidInput(
            field="output", reason="the dashboard needs a terminal; `--once` prints a screen without one"
        )
    dashboard.run()
    if dashboard.failure is not None:
        raise dashboard.failure


async def _serve(screen: str, host: str, port: int) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    import asyncio
    import ipaddress

    from pasys.tui.web import Site

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    known = settings()
    words = [sys.executable, "-P", "-c", "from pasys.cli.main import main; main()", "--home", known.home]
    words += ["--actor", chosen.actor] if chosen.actor else []
    site = Site([*words, "dash", "--screen", screen], known.dash, host=host, port=port)
    with contextlib.suppress(ValueError):
        if not ipaddress.ip_address(host).is_loopback:
            say(f"{host} can be reached from other machines, and HTTP is read on the way: put TLS before it.")

    def says(link: str) -> None:
        say("Open this once; the browser that does stays in. Ctrl-C ends it.")
        print(link, flush=True)

    await site.serve_until(stop, says)


def _moment(text: str) -> datetime:
    return moment(text, field="filter")
