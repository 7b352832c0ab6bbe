"""Dead letters: the messages that could not be handled, each with its reason, its message and its traceback."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
from rich.text import Text
from textual.binding import BindingType
from textual.widgets import DataTable

from pasys.bus import Bus, DeadLetter
from pasys.db import Unit
from pasys.service import event
from pasys.tui.action import Action, Values
from pasys.tui.event import Page
from pasys.tui.source import Source
from pasys.tui.window import WINDOW, Windowed


class DeadLetterScreen(Windowed):
    """What stands aside, oldest first. Enter shows one in full, `s` sends it again."""

    TITLE = "Dead letters"
    COLUMNS = ("no", "parked", "handler", "subject", "tries", "reason")
    HINT = "settlement: a part of the handler, the subject or the reason"
    NOTHING = "Nothing stands aside: every message was handled. e: events, l: logs"
    BINDINGS: ClassVar[list[BindingType]] = [
        ("s", "send_again", "Send again"),
        ("e", "app.switch_mode('events')", "Events"),
        ("l", "app.switch_mode('logs')", "Logs"),
        ("escape", "rows", "List"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._part = ""
        self._known: tuple[Any, list[DeadLetter]] = (None, [])  # of which state these are the letters

    def narrow(self, text: str) -> None:
        self._part = text

    async def fetch(self) -> list[DeadLetter]:
        after = self._afters[-1] if self._afters else 0
        return await self.source.ask_bus(lambda bus: self._letters(bus, after))

    async def _letters(self, bus: Bus, after: int) -> list[DeadLetter]:
        """Letters never change, so they are fetched again only when one came or went."""
        state = (await event.dead_state(bus), after, self._part)
        if state != self._known[0]:
            self._known = (state, await self._found(bus, after))
        return self._known[1]

    async def _found(self, bus: Bus, after: int) -> list[DeadLetter]:
        found: list[DeadLetter] = []
        while len(found) <= WINDOW:
            page = await event.dead_letters(bus, limit=WINDOW + 1, after=after)
            if not page:
                break
            found += [letter for letter in page if self._part in f"{letter.handler} {letter.subject} {letter.reason}"]
            after = page[-1].sequence
        return found[: WINDOW + 1]

    def key(self, row: DeadLetter) -> int:
        return row.sequence

    def cells(self, row: DeadLetter) -> list[Text | str]:
        return [
            str(row.sequence),
            f"{row.parked_at.astimezone():%m-%d %H:%M:%S}",
            row.handler,
            row.subject,
            str(row.deliveries),
            Text(row.reason),
        ]

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        if (row := self.chosen()) is not None:
            words = ("events", "replay", str(row.sequence))
            self.app.push_screen(Page(in_full(row, self.source.in_a_shell(*words, what="In a shell", changes=True))))

    def action_send_again(self) -> None:
        row = self.chosen()
        self.offer(row and send_again(self.source, row))


def in_full(row: DeadLetter, replay: str) -> str:
    """A letter with its message and its traceback, and the command that gives it back."""
    lines = [
        f"Dead letter {row.sequence}: {row.subject}, parked by {row.handler} after {row.deliveries} deliveries",
        f"at      {row.parked_at.astimezone():%Y-%m-%d %H:%M:%S}",
        f"event   {row.event_id}",
        f"reason  {row.reason}",
        "",
        message(row.body),
        "",
        row.traceback,
        "",
        replay,
    ]
    return "\n".join(lines)


def message(body: bytes) -> str:
    """A message as one can read it."""
    try:
        return msgspec.json.format(body, indent=2).decode()
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body.decode("utf-8", "backslashreplace")


def send_again(source: Source, row: DeadLetter) -> Action:
    """Give a message back to its handler, which parks it anew if it still cannot handle it."""

    async def verb(unit: Unit, typed: Values) -> str:
        sent = await source.ask_bus(lambda bus: event.replay_dead(bus, row.sequence))
        return f"{sent.subject} is on its way to {sent.handler} again."

    return Action(
        title=f"Send dead letter {row.sequence} again",
        about=f"{row.subject} to {row.handler}, which said: {row.reason}. A handler that has had it ignores it.",
        words=lambda typed: ["events", "replay", str(row.sequence)],
        verb=verb,
        look=["events", "dead"],
    )
