"""Overview: what runs, how payments fare, what is in flight, what waits for a person, and whether the books add up."""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widgets import Sparkline, Static

from pasys.db import Unit
from pasys.service import overview
from pasys.service.overview import Hour, Overview
from pasys.tui.live import Live

HOUR_EVERY_S = 15.0  # the hour costs more to count than the moment, and changes less
WELL = ("ready", "external")


@dataclass(frozen=True, slots=True)
class Answer:
    now: Overview
    dead_letters: int | None
    services: dict[str, Any]


class OverviewScreen(Live):
    """The first screen."""

    TITLE = "Overview"
    DEFAULT_CSS = """
    OverviewScreen #top { height: auto; }
    OverviewScreen #pace { width: 1fr; height: auto; }
    OverviewScreen #waiting { width: 1fr; height: auto; }
    OverviewScreen #hours { height: 3; }
    OverviewScreen #hours Vertical { width: 1fr; }
    OverviewScreen #hours Static { height: 1; }
    OverviewScreen Sparkline { height: 2; width: 1fr; margin-right: 1; }
    OverviewScreen #books { height: 1; }
    OverviewScreen #books.wrong { background: $error; color: $text; text-style: bold; }
    OverviewScreen #services { height: auto; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._hour = Hour([], [])
        self._hour_at = float("-inf")

    def body(self) -> ComposeResult:
        with VerticalScroll():
            with Horizontal(id="top"):
                yield Static(id="pace", markup=False)
                yield Static(id="waiting", markup=False)
            with Horizontal(id="hours"):
                for name in ("created", "failed"):
                    with Vertical():
                        yield Static("", id=f"{name}-says", markup=False)
                        yield Sparkline([], id=name)
            yield Static(id="books", markup=False)
            yield Static(id="services", markup=False)

    async def fetch(self) -> Answer:
        now, dead_letters, services = await asyncio.gather(
            self.source.ask(self._figures), self.source.dead_letters(), self.source.services()
        )
        return Answer(now, dead_letters, services)

    async def _figures(self, unit: Unit) -> Overview:
        if time.monotonic() - self._hour_at > HOUR_EVERY_S:
            self._hour, self._hour_at = await overview.hour(unit), time.monotonic()
        return await overview.overview(unit)

    def draw(self, answer: Answer) -> None:
        self.query_one("#pace", Static).update(pace(answer.now))
        self.query_one("#waiting", Static).update(waiting(answer, self.ink("warning")))
        for name, says, counts in (
            ("created", "Last hour: {} came", self._hour.created),
            ("failed", "{} failed", self._hour.failed),
        ):
            self.query_one(f"#{name}-says", Static).update(hour_line(says, counts))
            self.query_one(f"#{name}", Sparkline).data = [float(count) for count in counts]
        books = self.query_one("#books", Static)
        books.update(books_line(answer.now))
        books.set_class(bool(answer.now.off), "wrong")
        services = services_table(answer.services["services"], self.ink("error"))
        self.query_one("#services", Static).update(services)


def pace(now: Overview) -> Table:
    """How payments fare, and what is on its way."""
    table = _pairs()
    table.add_row("transactions", f"{now.rate:,.1f}/s")
    table.add_row("success", "none ended" if now.success is None else f"{now.success:.1%}")
    table.add_row("p95 to settle", "none settled" if now.p95_ms is None else f"{now.p95_ms:,.0f} ms")
    flying = [f"{row.amount} in {row.transactions:,}" for row in now.in_flight]
    for says, row in itertools.zip_longest(("in flight",), flying or ["nothing"], fillvalue=""):
        table.add_row(says, row)
    return table


def waiting(answer: Answer, ink: str) -> Table:
    """What a person has to decide; what is not nothing is marked, also where there is no colour."""
    counted = answer.now.waiting
    table = _pairs()
    for says, count in (
        ("fraud reviews", counted.reviews),
        ("refunds to approve", counted.approvals),
        ("unknown outcomes", counted.unknown),
        ("open breaks", counted.breaks),
        ("dead letters", answer.dead_letters),
    ):
        shown = "?" if count is None else f"{count:,}"
        table.add_row(says, Text(f"{shown} !", f"bold {ink}") if count else shown)
    return table


def hour_line(says: str, counts: list[int]) -> str:
    """What stands over the bars: how many in all, and in the highest of them."""
    return f"{says.format(f'{sum(counts):,}')}, at most {max(counts, default=0):,}/min"


def books_line(now: Overview) -> str:
    """The trial balance in one line."""
    if now.off:
        return f"THE BOOKS DO NOT BALANCE: off by {', '.join(map(str, now.off))}. Run: pasys ledger verify"
    return f"Trial balance: debits equal credits in {now.assets} asset{'' if now.assets == 1 else 's'}"


def services_table(rows: list[dict[str, Any]], ink: str) -> Table | Text:
    """Every server and daemon; what does not run well comes first, and is marked in words, not by colour alone."""
    if not rows:
        return Text("Nothing runs here. Start it: pasys up -d")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", expand=False)
    for name in ("service", "state", "lag", "rate/s", "last error"):
        table.add_column(name, justify="right" if name in ("lag", "rate/s") else "left", no_wrap=True)
    for row in sorted(rows, key=lambda row: row["state"] in WELL):
        state = Text(row["state"]) if row["state"] in WELL else Text(f"{row['state']} !", f"bold {ink}")
        lag = "" if row["lag"] is None else f"{row['lag']:,}"
        rate = "" if row["rate"] is None else f"{row['rate']:,.0f}"
        table.add_row(row["name"], state, lag, rate, row["last_error"] or "")
    return table


def _pairs() -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(no_wrap=True, justify="left")
    return table
