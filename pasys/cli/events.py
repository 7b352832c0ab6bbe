"""The bus from the command line: who says what to whom, what passes by, what stands aside, and saying it again."""

from __future__ import annotations

import json
import sys
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from pasys.cli.console import Noun, ask, ask_bus, confirm, say, show
from pasys.cli.options import TABLE, DryRun, Format, Output, Yes, moment
from pasys.errors import BusUnavailable, InvalidInput, UnreadableEvent

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from nats.aio.msg import Msg

    from pasys.bus import Bus, DeadLetter
    from pasys.db import Unit

app = Noun("events", "The bus: who says what to whom, tail, dead letters, replay.")

Subjects = Annotated[str, typer.Argument(metavar="SUBJECT", help="transaction, transaction.created, refund.*.USD …")]


@dataclass(frozen=True, slots=True)
class Seen:
    """An event as it passed."""

    at: datetime
    subject: str
    asset: str
    entity_id: str
    event_id: str
    actor: str | None
    causation_id: str | None
    correlation_id: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter, with its message as it was."""

    sequence: int
    subject: str
    handler: str
    event_id: str
    reason: str
    deliveries: int
    parked_at: datetime
    message: Any
    traceback: str


@dataclass(frozen=True, slots=True)
class Replay:
    since: datetime
    events: int
    dry_run: bool


@app.command("topology", examples="pasys events topology --json\npasys events topology --page")
def topology(
    page: Annotated[bool, typer.Option("--page", help="Write the whole catalogue as a page in Markdown.")] = False,
    output: Output = TABLE,
) -> None:
    """Show who emits and who consumes each subject, from the code, with the older topic's name."""
    from pasys.cli import topology as wiring

    if page:
        typer.echo(wiring.page())
        return
    columns = ["subject", "version", "emitted_by", "consumed_by", "older_name"]
    show(wiring.read(), output, name="subjects", columns=columns if output is TABLE else None)


@app.command(
    "tail",
    examples="pasys events tail\npasys events tail transaction.created\npasys events tail --last 20 --count 20 --json",
)
def tail(
    subject: Subjects = ">",
    last: Annotated[int, typer.Option("--last", min=0, help="Begin with the newest N messages of the bus.")] = 0,
    count: Annotated[int | None, typer.Option("--count", min=1, help="Stop after so many.")] = None,
    timeout: Annotated[float | None, typer.Option("--timeout", min=0.0, metavar="SECONDS", help="Stop then.")] = None,
    output: Output = TABLE,
) -> None:
    """Show events as they pass, until Ctrl-C, --count or --timeout."""
    endless = count is None and timeout is None
    if endless and output in (Format.JSON, Format.CSV):
        raise InvalidInput(field="output", reason="without --count or --timeout it prints lines or JSON lines")
    kept: list[Seen] = []

    async def look(bus: Bus) -> None:
        from pasys.events import pattern

        passed = 0
        passing = cast("AsyncGenerator[Msg]", bus.tail(pattern(subject), last=last))
        async with aclosing(passing) as messages:
            async for message in messages:
                passed += 1
                if (seen := _seen(message)) is not None:
                    if output in (Format.JSON, Format.CSV):
                        kept.append(seen)
                    else:
                        _print(seen, output)
                if passed == count:
                    return

    async def question(bus: Bus) -> None:
        import asyncio

        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                await look(bus)
        except TimeoutError:
            if not limit.expired():
                raise BusUnavailable(reason="it did not answer in time") from None

    ask_bus(question)
    if output in (Format.JSON, Format.CSV):
        show(kept, output, name="events")


def _seen(message: Msg) -> Seen | None:
    """What a message says; one that cannot be read is named, and passed over."""
    from pasys.cli.output import fields_of
    from pasys.events import decode

    try:
        envelope, event = decode(message.data, subject=message.subject)
    except UnreadableEvent as error:
        return say(f"error: {error}")
    return Seen(
        at=envelope.time,
        subject=envelope.subject,
        asset=event.asset,
        entity_id=event.entity_id,
        event_id=envelope.id,
        actor=envelope.actor,
        causation_id=envelope.causation_id,
        correlation_id=envelope.correlation_id,
        data=fields_of(event),
    )


def _print(seen: Seen, output: Format) -> None:
    from pasys.cli.output import text

    if output is Format.JSONL:
        show(seen, output)
    else:
        shown = {key: text(value) for key, value in seen.data.items() if key != "asset" and value != seen.entity_id}
        facts = " ".join(f"{key}={value}" for key, value in shown.items() if value)
        print(f"{text(seen.at)}  {seen.subject + '.' + seen.asset:<32} {seen.entity_id}  {facts}")
    sys.stdout.flush()


@app.command("dead", examples="pasys events dead\npasys events dead 17 --json")
def dead(
    sequence: Annotated[int | None, typer.Argument(metavar="SEQUENCE", help="One of them, in full.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many at most.")] = 1_000,
    output: Output = TABLE,
) -> None:
    """Show the messages that could not be handled, with the reason; one of them with its traceback."""
    columns = ["sequence", "parked_at", "handler", "subject", "event_id", "deliveries", "reason"]

    async def question(bus: Bus) -> list[Letter]:
        from pasys.service import event

        if sequence is not None:
            return [_letter(await bus.dead_letter(sequence))]
        return [_letter(found) for found in await event.dead_letters(bus, limit=limit)]

    letters = ask_bus(question)
    if sequence is not None:
        show(letters[0], output)
    else:
        show(letters, output, name="dead", columns=columns, empty="Nothing stands aside.")


def _letter(found: DeadLetter) -> Letter:
    try:
        message = json.loads(found.body)
    except ValueError:
        message = found.body.decode("utf-8", "backslashreplace")
    return Letter(
        sequence=found.sequence,
        subject=found.subject,
        handler=found.handler,
        event_id=found.event_id,
        reason=found.reason,
        deliveries=found.deliveries,
        parked_at=found.parked_at,
        message=message,
        traceback=found.traceback,
    )


@app.command(
    "replay",
    examples="pasys events replay 17\npasys events replay --all --yes\npasys events replay --since 2h --dry-run",
)
def replay(
    sequence: Annotated[int | None, typer.Argument(metavar="SEQUENCE", help="The dead letter to send again.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All dead letters.")] = False,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="All events announced since then, to refill a bus.")
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    output: Output = TABLE,
) -> None:
    """Send events again: one dead letter, all of them, or the log of events since a time.

    Handlers ignore what they have had.
    """
    if (sequence is not None) + everything + (since is not None) != 1:
        raise InvalidInput(field="sequence", reason="name a dead letter, or say --all or --since")
    if since is not None:
        return _refill(moment(since, field="since"), dry_run=dry_run, yes=yes, output=output)
    if everything and not dry_run:
        confirm("Send all dead letters again?", yes)

    async def question(bus: Bus) -> list[Any]:
        from pasys.service import event

        if dry_run:
            letters = [await bus.dead_letter(sequence)] if sequence is not None else await event.dead_letters(bus)
            return [event.Replayed(found.sequence, found.subject, found.handler, found.event_id) for found in letters]
        if sequence is not None:
            return [await event.replay_dead(bus, sequence)]
        return await event.replay_all_dead(bus)

    show(ask_bus(question), output, name="replayed", empty="Nothing stands aside.")
    if dry_run:
        say("Nothing was sent: --dry-run.")


def _refill(since: datetime, *, dry_run: bool, yes: bool, output: Format) -> None:
    async def count(unit: Unit) -> int:
        from pasys.service import event

        return await event.announced_since(unit, since)

    async def announce(unit: Unit) -> int:
        from pasys.service import event

        return await event.announce_again(unit, since)

    events = ask(count)
    if not dry_run:
        confirm(f"Announce {events} events again?", yes)
        events = ask(announce)
    show(Replay(since, events, dry_run), output)
    if output is TABLE:
        say("Nothing was announced: --dry-run." if dry_run else "They go out as fast as the relays publish them.")
