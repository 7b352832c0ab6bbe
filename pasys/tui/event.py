"""Events: what passes on the bus, by subject, and one event in full."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

import msgspec
from nats.aio.msg import Msg
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.widgets import DataTable, Static

from pasys.bus import BUS_ERRORS, Bus
from pasys.errors import UnreadableEvent
from pasys.events import Envelope, Event, decode, pattern
from pasys.money import Money
from pasys.tui.flow import Flowing
from pasys.tui.live import Live

ALL = ">"
FIRST = 40  # messages of before, so that a quiet bus has something to show


@dataclass(frozen=True, slots=True)
class Seen:
    """An event as it passed; `event` is None where this version cannot read it."""

    at: datetime | None
    subject: str
    entity_id: str
    facts: str
    envelope: Envelope | None
    event: Event | None


class EventScreen(Flowing):
    """The tail of the bus. It listens only while somebody looks."""

    TITLE = "Events"
    COLUMNS = ("at", "subject", "about", "facts")
    HINT = "transaction, refund.*.USD, settlement.failed; empty: all"
    NOTHING = "Nothing has passed yet. Send something: pasys demo. d: dead letters, l: logs"

    def __init__(self) -> None:
        super().__init__()
        self._subject = ALL
        self._bus: Bus | None = None
        self._listens: Any = None

    def narrow(self, text: str) -> None:
        self._subject = pattern(text or ALL)
        self._listens_no_more()

    async def fetch(self) -> None:
        bus = await self.source.bus()
        if self._listens is not None and bus is self._bus:
            return
        if not self.paused:
            self.begin_anew()
        flow = self.flow

        async def hear(message: Msg) -> None:
            flow.add((message.subject, message.data))

        if not self.paused:
            for message in await bus.newest(self._subject, among=FIRST):
                await hear(message)
            self.show(flow.take(FIRST))
        self._bus, self._listens = bus, await bus.watch(self._subject, hear)

    def on_screen_suspend(self) -> None:
        self._listens_no_more()

    def _listens_no_more(self) -> None:
        listens, self._listens = self._listens, None
        if listens is not None:
            self.app.run_worker(_end(listens), exit_on_error=False)

    def read(self, item: tuple[str, bytes]) -> Seen:
        return seen(*item)

    def line(self, row: Seen) -> str:
        at = f"{row.at.astimezone():%H:%M:%S}" if row.at else "        "
        return f"{at} {row.subject:<27} {row.entity_id} {row.facts}"

    def cells(self, row: Seen) -> list[Text | str]:
        at = f"{row.at.astimezone():%H:%M:%S.%f}"[:-3] if row.at else ""
        return [at, row.subject, row.entity_id, Text(row.facts)]

    def says(self) -> str:
        name = "all subjects" if self._subject == ALL else self._subject
        skipped = f", {self.flow.skipped:,} not shown" if self.flow.skipped else ""
        return f"{name}: {self.pace():,.0f}/s, {self.flow.passed:,} passed{skipped}. d: dead letters, l: logs"

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        if (row := self.chosen()) is not None:
            self.app.push_screen(Page(in_full(row, self.source.in_a_shell("trace", row.entity_id, what="In a shell"))))


async def _end(listens: Any) -> None:
    with contextlib.suppress(*BUS_ERRORS):  # it has ended with its connection
        await listens.unsubscribe()


class Page(Live):
    """Something in full, which stays as it is."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape", "app.pop_screen", "Back")]
    every_s: ClassVar[float] = 3_600.0

    TITLE = "In full"

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def body(self) -> ComposeResult:
        with VerticalScroll():
            yield Static(id="page", markup=False)

    async def fetch(self) -> str:
        return self._text

    def draw(self, answer: str) -> None:
        self.query_one("#page", Static).update(answer)


def seen(subject: str, data: bytes) -> Seen:
    """A message as it is shown. One that cannot be read is shown, too, with the reason."""
    try:
        envelope, event = decode(data, subject=subject)
    except UnreadableEvent as error:
        return Seen(None, subject, "", f"! {error}", None, None)
    return Seen(envelope.time, f"{envelope.subject}.{event.asset}", event.entity_id, facts(event), envelope, event)


def facts(event: Event) -> str:
    """What an event says beyond whom it is about and in which asset."""
    said = []
    for name in event.__struct_fields__:
        value = getattr(event, name)
        if name in ("asset", event.about) or value is None or value == "":
            continue
        if name.endswith("_minor") and isinstance(value, int):
            name, value = name.removesuffix("_minor"), Money(value, event.asset)
        said.append(f"{name}={value}")
    return " ".join(said)


def in_full(row: Seen, trace: str) -> str:
    """An event with its envelope, and the command that goes on from it."""
    if row.envelope is None or row.event is None:
        return f"{row.subject}\n{row.facts}"
    envelope = row.envelope
    lines = [
        f"{row.subject}, version {envelope.version}",
        f"id           {envelope.id}",
        f"at           {envelope.time.astimezone():%Y-%m-%d %H:%M:%S.%f}",
        f"about        {row.entity_id}",
        f"caused by    {envelope.causation_id or 'nothing before it'}",
        f"story of     {envelope.correlation_id}",
        f"actor        {envelope.actor or 'pasys'}",
        "",
        msgspec.json.format(msgspec.json.encode(row.event), indent=2).decode(),
        "",
        trace,
    ]
    return "\n".join(lines)
