"""The stack from the command line: up, down, restart, status, logs, doctor."""

from __future__ import annotations

import signal
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import typer

from pasys.cli.console import Noun, chosen, confirm, say, settings, show
from pasys.cli.options import TABLE, Format, Output, Yes, moment
from pasys.errors import InvalidInput

app = Noun("stack", "The stack.")

Only = Annotated[list[str] | None, typer.Option("--only", metavar="NAME", help="This and what it needs. May repeat.")]
Ready = Annotated[float, typer.Option("--timeout", min=1.0, metavar="SECONDS", help="Give up waiting after so long.")]
Names = Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Servers and daemons; all of them if absent.")]
REFRESH_S = 1.0
UNHEALTHY = 7


def home() -> Any:
    """The chosen home, made absolute by the settings, whose mistakes are reported before anything starts."""
    return settings().home_path


@app.command("up", examples="pasys up -d\npasys up\npasys --home ./trial up -d --only settlement")
def up(
    detach: Annotated[bool, typer.Option("-d", "--detach", help="Return once it is ready.")] = False,
    only: Only = None,
    timeout: Ready = 60.0,
    output: Output = TABLE,
) -> None:
    """Start what is missing, wait until it is ready, say where it is. A second `up` changes nothing.

    Without -d it stays in the foreground, shows what happens, and stops everything on Ctrl-C.
    """
    from pasys.cli.progress import Progress
    from pasys.stack import client

    place = home()
    progress = Progress(quiet=output is not TABLE)
    if detach:
        with progress:
            found = client.up(place, only=only, timeout_s=timeout, progress=progress)
        return announce(found, output)
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    def ready(found: Any) -> None:
        with progress.paused():
            announce(found, output)
            if not found.already_running:
                say("Ctrl-C stops it.")

    try:
        with progress:
            client.run_foreground(place, only=only, timeout_s=timeout, progress=progress, ready=ready)
    except KeyboardInterrupt:
        say("Stopped. The data stay.")
        raise


def announce(found: Any, output: Format) -> None:
    """Say what runs, where it answers, and what to do next. Passwords and keys stay in the home."""
    endpoints = {name: without_secret(url) for name, url in found.endpoints.items() if name.endswith(("_url", "_base"))}
    if output is not TABLE:
        services = [{"name": s.name, "kind": s.kind, "state": s.state, "pid": s.pid} for s in found.services]
        row = {"home": str(home()), "already_running": found.already_running, "seconds": round(found.seconds, 2)}
        return show(row | {"endpoints": endpoints, "services": services}, output)
    count = sum(service.healthy for service in found.services)
    did = "It was running already" if found.already_running else f"Ready in {found.seconds:.1f} s"
    say(f"{did}: {count} services in {home()}.")
    show(endpoints, output)
    say(f"Next: `{again('account open alice --type customer --asset USD')}`, or `{again('status')}`.")


def without_secret(url: str) -> str:
    """An address without user and password."""
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    shown = parts._replace(scheme="", netloc="").geturl()
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{shown}"


def again(command: str) -> str:
    """A command line for the same home."""
    return f"pasys --home {chosen.home} {command}" if chosen.home else f"pasys {command}"


@app.command("down", examples="pasys down\npasys down --destroy --yes")
def down(
    destroy: Annotated[bool, typer.Option("--destroy", help="Delete the data too.")] = False, yes: Yes = False
) -> None:
    """Stop everything cleanly. The data stay, unless --destroy says otherwise."""
    from pasys.stack import client

    place = home()
    if destroy:
        confirm(f"Delete all data of {place}, for good?", yes)
    stopped = client.down(place, destroy=destroy)
    say("Stopped." if stopped else f"Nothing ran in {place}.")
    say("The data are deleted; backups stay." if destroy else "The data stay.")


@app.command("restart", examples="pasys restart settlement\npasys restart postgres")
def restart(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A server or a daemon, with all its copies.")],
    timeout: Ready = 60.0,
    output: Output = TABLE,
) -> None:
    """Restart one server or daemon, and wait until it is ready."""
    from pasys.stack import client

    rows = client.restart(home(), name, timeout_s=timeout)
    show(rows, output, name="services", columns=["name", "kind", "state", "pid", "restarts"])


@app.command("status", examples="pasys status\npasys status --watch\npasys status --json")
def status(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look again every second, until Ctrl-C.")] = False,
    output: Output = TABLE,
) -> None:
    """Show every server and daemon: state, pid, uptime, lag, rate, last error. Exits 7 unless all are healthy."""
    from pasys.cli import health

    if watch and output in (Format.JSON, Format.CSV):
        raise InvalidInput(field="output", reason="--watch prints a table or JSON lines, for ever")
    known = settings()
    if watch:
        _watch(known, output)
    found = health.look(known)
    if output is Format.CSV:
        show(found["services"], output, name="services")
    elif output is not TABLE:
        show(found, output)
    else:
        _print(found)
    if not found["healthy"]:
        raise typer.Exit(UNHEALTHY)


def _watch(known: Any, output: Format) -> None:
    from pasys.cli import health

    while True:
        found = health.look(known)
        if output is TABLE:
            print("\x1b[2J\x1b[H" if sys.stdout.isatty() else "", end="")
            _print(found)
        else:
            show(found, output)
        sys.stdout.flush()
        time.sleep(REFRESH_S)


def _print(found: dict[str, Any]) -> None:
    columns = ["name", "kind", "state", "pid", "uptime", "lag", "rate", "handled", "restarts", "last_error"]
    if found["services"]:
        show([_readable(row) for row in found["services"]], TABLE, name="services", columns=columns)
    if error := found.get("error"):
        say(f"error: {error['message']}\n{error['fix']}")


def _readable(row: dict[str, Any]) -> dict[str, Any]:
    from pasys.cli.output import duration

    seconds = row["uptime_s"]
    return row | {"uptime": None if seconds is None else duration(seconds)}


COLOURS = {"error": "31", "warning": "33", "debug": "2"}


@dataclass(frozen=True, slots=True)
class Line:
    service: str
    at: datetime | None
    text: str


@app.command("logs", examples="pasys logs settlement -f\npasys logs --since 10m\npasys logs --tx tx_… --json")
def logs(
    names: Names = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as lines come, until Ctrl-C.")] = False,
    tx: Annotated[str | None, typer.Option("--tx", metavar="ID", help="Only lines that name this id.")] = None,
    since: Annotated[str | None, typer.Option("--since", metavar="TIME", help="An age (10m) or a time.")] = None,
    output: Output = TABLE,
) -> None:
    """Show the logs of servers and daemons, merged in the order of time."""
    from pasys.stack.logs import logs as read

    if follow and output in (Format.JSON, Format.CSV):
        raise InvalidInput(field="output", reason="--follow prints lines or JSON lines, for ever")
    after = moment(since, field="since") if since else None
    found = read(home(), names or None, follow=follow, since=after)
    lines = (Line(line.service, line.at, line.text) for line in found if tx is None or tx in line.text)
    if output in (Format.JSON, Format.CSV):
        return show(list(lines), output, name="lines")
    line = None
    for line in lines:
        if output is Format.JSONL:
            show(line, output)
        else:
            print(_coloured(line) if sys.stdout.isatty() else f"{line.service:<14} {line.text}")
        if follow:
            sys.stdout.flush()
    if line is None:
        say("No such lines.")


def _coloured(line: Line) -> str:
    from pasys.stack.logs import level_of

    level = COLOURS.get(level_of(line.text) or "", "0")
    service = 32 + sum(line.service.encode()) % 5
    return f"\x1b[{service}m{line.service:<14}\x1b[0m \x1b[{level}m{line.text}\x1b[0m"


@app.command("doctor", examples="pasys doctor\npasys doctor --json")
def doctor(output: Output = TABLE) -> None:
    """Name each fault of this machine and this home, with a fix that cures it. Exits 7 where there is one."""
    from pasys.config import default_home
    from pasys.stack.doctor import doctor as examine

    findings = examine((chosen.home or default_home()).absolute())
    faults = [finding for finding in findings if not finding.ok]
    if output is not TABLE:
        show(findings, output, name="findings")
    else:
        for finding in findings:
            print(f"{'ok   ' if finding.ok else 'FAULT'} {finding.name}: {finding.says}")
            if not finding.ok:
                print(f"      {finding.fix}")
    if faults:
        raise typer.Exit(UNHEALTHY)
