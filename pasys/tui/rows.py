"""A table of rows that come anew all the time: it is drawn when they changed, and the cursor stays on its row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Generic, TypeVar

from rich.cells import cell_len
from textual.coordinate import Coordinate
from textual.widgets import DataTable

T = TypeVar("T")


class Rows(DataTable[Any], Generic[T]):
    """Rows of one kind. `key` tells one from another, and `cells` draws one."""

    def __init__(
        self,
        columns: Sequence[str],
        *,
        key: Callable[[T], str],
        cells: Callable[[T], Sequence[Any]],
        id: str | None = None,
        cell_padding: int = 1,
    ) -> None:
        super().__init__(cursor_type="row", zebra_stripes=True, cell_padding=cell_padding, id=id)
        self._names = columns
        self._key, self._cells_of = key, cells
        self._shown: list[T] = []
        self._drawn: list[Sequence[Any]] = []

    def on_mount(self) -> None:
        for name in self._names:
            self.add_column(name, key=name)

    @property
    def chosen(self) -> T | None:
        """The row under the cursor."""
        return self._shown[self.cursor_row] if self.cursor_row < len(self._shown) else None

    def show(self, rows: Sequence[T]) -> None:
        """Draw these instead. Where the cursor's row is gone, the cursor stays where it is."""
        keys, drawn = [self._key(row) for row in rows], [self._cells_of(row) for row in rows]
        before, chosen, place = [self._key(row) for row in self._shown], self.chosen, self.cursor_row
        self._shown = list(rows)
        if keys == before and not self._outgrown(drawn):
            self._refresh_cells(drawn)
        else:
            self.clear()
            fit(self, drawn)
            for key, cells in zip(keys, drawn, strict=True):
                self.add_row(*cells, key=key)
            same = self._key(chosen) if chosen is not None else None
            place = keys.index(same) if same in keys else min(place, len(rows) - 1)
            self.move_cursor(row=max(place, 0), animate=False)
        self._drawn = drawn

    def _outgrown(self, drawn: Sequence[Sequence[Any]]) -> bool:
        """Whether a cell is wider than its column, as 10 min after 9 min."""
        return any(
            cell_len(str(cell)) > column.width
            for cells in drawn
            for cell, column in zip(cells, self.ordered_columns, strict=True)
        )

    def _refresh_cells(self, drawn: Sequence[Sequence[Any]]) -> None:
        """The same rows: only what is new in them is drawn, so that nothing jumps."""
        for row, (now, was) in enumerate(zip(drawn, self._drawn, strict=True)):
            for column, (cell, old) in enumerate(zip(now, was, strict=True)):
                if cell != old:
                    self.update_cell_at(Coordinate(row, column), cell)


def fit(table: DataTable[Any], rows: Sequence[Sequence[Any]]) -> None:
    """Make columns as wide as what will stand in them: left to itself, a table paints once before it measures.

    Where cells are not padded, a space is between columns.
    """
    last = len(table.ordered_columns) - 1
    for place, column in enumerate(table.ordered_columns):
        column.auto_width = False
        between = 1 if table.cell_padding == 0 and place < last else 0
        needed = max(column.content_width, *(cell_len(str(row[place])) for row in rows), 0) + between
        column.width = max(column.width, needed)


def age(since: datetime, now: datetime) -> str:
    """How long ago, in the largest unit that fits: 12 s, 5 min, 3 h, 2 d."""
    seconds = max(int((now - since).total_seconds()), 0)
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def clock(at: datetime) -> str:
    """A moment of the last days, in the local zone."""
    return f"{at.astimezone():%m-%d %H:%M:%S}"
