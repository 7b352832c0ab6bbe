"""A flow of lines that stays calm: it is drawn twice a second, some lines at a time, and what was not shown is counted.

What is kept is bounded, whatever passes. Paused, what is kept can be walked through, and what comes is counted.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.widgets import DataTable, Input, Log, Static

from pasys.errors import PasysError
from pasys.tui.live import Live
from pasys.tui.rows import fit

T = TypeVar("T")
KEPT = 500  # lines
DRAWN = 12  # lines at a time: what comes faster nobody reads
EVERY_S = 0.5
PACE_S = 5.0  # over which the pace is counted


class Flow(Generic[T]):
    """What comes: the newest wait to be shown, and everything is counted."""

    def __init__(self) -> None:
        self.passed = 0
        self.skipped = 0
        self._waiting: deque[T] = deque(maxlen=KEPT)
        self._arrived = 0  # since it was last taken
        self._paces: deque[tuple[float, int]] = deque()

    def add(self, item: T) -> None:
        self.passed += 1
        self._arrived += 1
        self._waiting.append(item)

    def take(self, most: int) -> list[T]:
        """The newest of those that have come since, oldest first; the others are counted as skipped."""
        found = list(self._waiting)[-most:] if most else []
        self.skipped += self._arrived - len(found)
        self._arrived = 0
        self._waiting.clear()
        return found

    @property
    def waiting(self) -> int:
        return self._arrived

    def pace(self, now: float) -> float:
        """How many have come a second, lately. `now` is a monotonic time in seconds."""
        self._paces.append((now, self.passed))
        while len(self._paces) > 1 and now - self._paces[0][0] > PACE_S:
            self._paces.popleft()
        then, passed = self._paces[0]
        return (self.passed - passed) / (now - then) if now > then else 0.0


class Flowing(Live):
    """A screen of a flow. Space pauses it and makes it a list, in which Enter opens a line."""

    COLUMNS: ClassVar[Sequence[str]] = ()
    HINT = ""
    NOTHING = ""  # what is said where nothing has come yet, and what to do then
    every_s: ClassVar[float] = EVERY_S
    BINDINGS: ClassVar[list[BindingType]] = [
        ("space", "pause", "Pause"),
        ("slash", "filter", "Filter"),
        ("e", "app.switch_mode('events')", "Events"),
        ("d", "app.switch_mode('dead-letters')", "Dead letters"),
        ("l", "app.switch_mode('logs')", "Logs"),
        ("escape", "lines", "Lines"),
    ]
    DEFAULT_CSS = """
    Flowing #filter { height: 1; border: none; padding: 0; }
    Flowing #says { height: auto; color: $text-muted; }
    Flowing Log, Flowing DataTable { height: 1fr; scrollbar-size-horizontal: 0; }
    Flowing DataTable { display: none; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.flow: Flow[Any] = Flow()
        self.kept: deque[Any] = deque(maxlen=KEPT)
        self.paused = False

    def body(self) -> ComposeResult:
        yield Input(placeholder=f"/ {self.HINT}", id="filter")
        yield Static("", id="says", markup=False)
        yield Log(max_lines=KEPT)
        yield DataTable(cursor_type="row", zebra_stripes=True, id="rows")

    def on_mount(self) -> None:
        table = self.query_one(DataTable)
        for name in self.COLUMNS:
            table.add_column(name, key=name)
        self.query_one(Log).focus()

    # What a flow says of itself ---------------------------------------------------------------------------------------

    def read(self, item: Any) -> Any:
        """What came, as it is kept and drawn."""
        return item

    def line(self, row: Any) -> str:
        raise NotImplementedError

    def cells(self, row: Any) -> list[Text | str]:
        raise NotImplementedError

    def narrow(self, text: str) -> None:
        """Take what was typed. Raises PasysError for what means nothing."""

    def says(self) -> str:
        """What is counted."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------------------------------------

    def draw(self, answer: Any) -> None:
        if not self.paused:
            self.show(self.flow.take(DRAWN))
        self.query_one("#says", Static).update(self._says())

    def show(self, items: Sequence[Any]) -> None:
        """Draw these below what stands there, and keep them."""
        rows = [self.read(item) for item in items]
        self.kept.extend(rows)
        if rows:
            self.query_one(Log).write_lines(map(self.line, rows))

    def _says(self) -> str:
        if self.paused:
            return f"PAUSED: {len(self.kept)} kept, {self.flow.waiting:,} came since. Space: go on, Enter: one in full"
        if not self.kept and not self.flow.passed:
            return self.NOTHING
        return self.says()

    def pace(self) -> float:
        return self.flow.pace(time.monotonic())

    def begin_anew(self) -> None:
        """Forget what came: from now on something else does."""
        self.flow = Flow()
        self.kept.clear()
        self.query_one(Log).clear()

    def action_pause(self) -> None:
        self.paused = not self.paused
        table, log = self.query_one(DataTable), self.query_one(Log)
        table.display, log.display = self.paused, not self.paused
        if self.paused:
            self._fill(table)
            table.focus()
        else:
            log.focus()
        self.query_one("#says", Static).update(self._says())

    def _fill(self, table: DataTable[Any]) -> None:
        """What is kept, as a list with the newest under the cursor."""
        table.clear()
        cells = [self.cells(row) for row in self.kept]
        fit(table, cells)
        for row in cells:
            table.add_row(*row)
        table.move_cursor(row=max(len(cells) - 1, 0), animate=False)

    def chosen(self) -> Any:
        place = self.query_one(DataTable).cursor_row
        return self.kept[place] if self.paused and place < len(self.kept) else None

    def action_filter(self) -> None:
        self.query_one("#filter").focus()

    def action_lines(self) -> None:
        self.query_one(DataTable if self.paused else Log).focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        try:
            self.narrow(event.value.strip())
        except PasysError as error:
            self.say(str(error))
            return
        self.say(None)
        if self.paused:
            self.action_pause()
        self.begin_anew()
        self.query_one(Log).focus()
        self.action_again()
