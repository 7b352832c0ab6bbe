"""A list that is narrowed by typing and shown a window at a time, so that a million rows are as near as a hundred."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.widgets import DataTable, Input, Static

from pasys.db import Unit
from pasys.errors import PasysError
from pasys.tui.live import Live
from pasys.tui.rows import fit

WINDOW = 100  # rows; a window is found by the key of its first, so the last is as near as the second


class Windowed(Live):
    """Give it its words, and say how a window is asked for and how a row looks."""

    COLUMNS: ClassVar[Sequence[str]] = ()
    HINT = ""  # what one may type into the filter
    NOTHING = ""  # what is said where there is no row at all, and what to do then
    LAST = "the last"  # what is said of the last window
    BINDINGS: ClassVar[list[BindingType]] = [
        ("slash", "filter", "Filter"),
        ("n", "older", "Next"),
        ("p", "newer", "Previous"),
    ]
    DEFAULT_CSS = """
    Windowed #window { height: auto; color: $text-muted; }
    Windowed #rows { height: 1fr; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._typed = ""
        self._afters: list[Any] = []  # behind which row each window began, but for the first
        self._shown: list[Any] = []
        self._more = False

    def body(self) -> ComposeResult:
        yield Input(placeholder=f"/ {self.HINT}", id="filter", compact=True)
        yield Static("", id="window", markup=False)
        yield DataTable(cursor_type="row", zebra_stripes=True, id="rows")

    @property
    def table(self) -> DataTable[Any]:
        return self.query_one("#rows", DataTable)

    def on_mount(self) -> None:
        for name in self.COLUMNS:
            self.table.add_column(name, key=name)
        self.table.focus()

    # What a list says of itself ---------------------------------------------------------------------------------------

    async def window(self, unit: Unit, after: Any) -> Sequence[Any]:
        """Up to WINDOW rows and one more, those behind `after`, or the first ones. Raises PasysError."""
        raise NotImplementedError

    def key(self, row: Any) -> Any:
        """What is unlike in any two rows, and stands for the place of a row."""
        raise NotImplementedError

    def cells(self, row: Any) -> list[Text | str]:
        raise NotImplementedError

    def narrow(self, text: str) -> None:
        """Take what was typed. Raises PasysError for what means nothing."""

    # ------------------------------------------------------------------------------------------------------------------

    async def fetch(self) -> Any:
        after = self._afters[-1] if self._afters else None
        return await self.source.ask(lambda unit: self.window(unit, after))

    def draw(self, answer: Sequence[Any]) -> None:
        """Draw the window anew, if it changed; the cursor stays on its row, wherever that has moved to."""
        self._more, rows = len(answer) > WINDOW, list(answer[:WINDOW])
        self.query_one("#window", Static).update(self._says(rows))
        if rows == self._shown:
            return
        table = self.table
        here = self.key(self._shown[table.cursor_row]) if 0 < table.cursor_row < len(self._shown) else None
        cells = [self.cells(row) for row in rows]
        table.clear()
        fit(table, cells)
        for row, shown in zip(rows, cells, strict=True):
            table.add_row(*shown, key=str(self.key(row)))
        self._shown = rows
        found = next((place for place, row in enumerate(rows) if self.key(row) == here), 0)
        table.move_cursor(row=found, animate=False)

    def _says(self, rows: Sequence[Any]) -> str:
        if not rows:
            return "0 shown; nothing is like that. / changes the filter." if self._typed else self.NOTHING
        rest = "n: next window" if self._more else self.LAST
        return f"{len(rows)} shown; window {len(self._afters) + 1}, {rest}"

    def chosen(self) -> Any:
        """The row under the cursor, or None."""
        return self._shown[self.table.cursor_row] if self.table.cursor_row < len(self._shown) else None

    def action_filter(self) -> None:
        self.query_one("#filter").focus()

    def action_rows(self) -> None:
        self.table.focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        try:
            self.narrow(event.value.strip())
        except PasysError as error:
            self.say(str(error))
            return
        self.say(None)
        self._typed, self._afters = event.value.strip(), []
        self.table.focus()
        self.action_again()

    def action_older(self) -> None:
        if self._more and self._shown:
            self._afters.append(self.key(self._shown[-1]))
            self.action_again()

    def action_newer(self) -> None:
        if self._afters:
            self._afters.pop()
            self.action_again()
