"""Logs: what all processes of this home write, merged, as it comes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from rich.text import Text
from textual.widgets import DataTable

from pasys.stack.logs import LogLine, Newest, level_of
from pasys.tui import log_filter
from pasys.tui.event import Page
from pasys.tui.flow import KEPT, Flowing
from pasys.tui.log_filter import LogFilter

MARKS = {"error": "ERROR", "warning": "WARN", "info": "", "debug": ""}


@dataclass(frozen=True, slots=True)
class Written:
    """A line with its level, which is that of the line above it where it has none of its own."""

    line: LogLine
    level: str | None


class LogScreen(Flowing):
    """The merged logs. They are read only while somebody looks."""

    TITLE = "Logs"
    COLUMNS = ("service", "level", "line")
    HINT = "level:warning service:settlement tx_…"
    NOTHING = "No process of this home has written a log. Start them: pasys up -d. e: events, d: dead letters"

    def __init__(self) -> None:
        super().__init__()
        self._filter = LogFilter()
        self._newest: Newest | None = None
        self._levels: dict[str, str | None] = {}

    def narrow(self, text: str) -> None:
        self._filter = log_filter.parse(text)
        self._newest = None  # what was passed over may be wanted now

    async def fetch(self) -> None:
        if self._newest is None:
            self._newest = Newest(self.source.home())
            self._levels.clear()
            self.begin_anew()
        first = not self.flow.passed
        for line in await asyncio.to_thread(self._newest.read):
            level = level_of(line.text) or self._levels.get(line.service)
            self._levels[line.service] = level
            if self._filter.lets(line.service, level, line.text):
                self.flow.add(Written(line, level))
        if first:  # what stands there already is no flood
            self.show(self.flow.take(KEPT))

    def line(self, row: Written) -> str:
        return f"{row.line.service:<14} {MARKS.get(row.level or '', ''):<5} {row.line.text}"

    def cells(self, row: Written) -> list[Text | str]:
        return [row.line.service, row.level or "", Text(row.line.text)]

    def says(self) -> str:
        skipped = f", {self.flow.skipped:,} not shown" if self.flow.skipped else ""
        return f"{self.pace():,.0f} lines/s, {self.flow.passed:,} read{skipped}. e: events, d: dead letters"

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        if (row := self.chosen()) is not None:
            self.app.push_screen(Page(f"{row.line.service}\n\n{row.line.text}"))
