"""Reconciliation: what was read of PSPs' statements, what differs from the books since when, and both sides of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import DataTable, Static

from pasys.adapters import installed_psps
from pasys.db import Unit
from pasys.domain.reconciliation import BreakStatus, side_by_side
from pasys.errors import BreakResolved, NoCorrection, PasysError
from pasys.money import Money
from pasys.service import reconciliation
from pasys.service.reconciliation import Ages, BreakRow, RunRow
from pasys.tui import reconciliation_action
from pasys.tui.action import sentence
from pasys.tui.live import Live, Said
from pasys.tui.rows import Rows, age, clock

FIRST = ("amount", "fee", "status", "asset", "type")  # the rest are ids and times
DIFFERS = {"amount": "amount", "fee": "fee", "currency": "asset", "status": "status"}  # which fact a kind is about
RUNS_MAX = 50
BREAKS_MAX = 500
NO_RUNS = "No statement was ever read. Press a and then n to have one read, or run: pasys reconcile run --psp {psp}"
NO_BREAKS = "No break is open: the books and the statements agree. Enter on a run shows what it had found."


@dataclass(frozen=True, slots=True)
class Answer:
    """`breaks` are those of one run, or all that are open; `would` is what closing `chosen` by an entry would do."""

    runs: list[RunRow]
    ages: list[Ages]
    breaks: Sequence[BreakRow]
    chosen: str | None
    would: str


class ReconciliationScreen(Live):
    """Runs above, breaks in the middle, the evidence of one of them below. Tab goes between the lists."""

    TITLE = "Reconciliation"
    BINDINGS: ClassVar[list[BindingType]] = [
        ("e", "post", "Post entry"),
        ("c", "accept", "Close as is"),
        ("n", "run", "New run"),
        ("escape", "open_breaks", "All open"),
    ]
    DEFAULT_CSS = """
    ReconciliationScreen #top { height: auto; max-height: 9; }
    ReconciliationScreen #runs { width: 1fr; height: auto; min-height: 4; max-height: 5; overflow-x: hidden; }
    ReconciliationScreen #ages { width: auto; height: auto; max-height: 9; padding-left: 1; }
    ReconciliationScreen #which { height: auto; color: $text-muted; }
    ReconciliationScreen #breaks { height: 1fr; min-height: 4; }
    ReconciliationScreen #sides { height: auto; max-height: 50%; border-top: solid $primary; }
    ReconciliationScreen #would { text-style: bold; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._run: str | None = None  # whose breaks are shown; else all that are open
        self._answer = Answer([], [], [], None, "")

    def body(self) -> ComposeResult:
        with Horizontal(id="top"):
            yield Rows[RunRow](
                (" read", "psp", "open", "matched", "status"),
                key=lambda row: row.run_id,
                cells=run_cells,
                id="runs",
                cell_padding=0,  # beside the ages 80 columns are few
            )
            yield Static("", id="ages", markup=False)
        yield Said(id="failures", markup=False)
        yield Static("", id="which", markup=False)
        yield Rows[BreakRow](
            ("open for", "kind", "difference", "psp", "about"),
            key=lambda row: row.id,
            cells=break_cells,
            id="breaks",
        )
        with VerticalScroll(id="sides", can_focus=False):
            yield Static("", id="would", markup=False)
            yield Static("", id="evidence", markup=False)

    def on_mount(self) -> None:
        self.breaks.focus()

    @property
    def runs(self) -> Rows[RunRow]:
        return self.query_one("#runs", Rows)

    @property
    def breaks(self) -> Rows[BreakRow]:
        return self.query_one("#breaks", Rows)

    async def fetch(self) -> Answer:
        chosen = self.breaks.chosen

        async def whole(unit: Unit) -> Answer:
            breaks = await self._breaks(unit)
            kept = next((one for one in breaks if chosen and one.id == chosen.id), breaks[0] if breaks else None)
            return Answer(
                runs=await reconciliation.listing(unit, limit=RUNS_MAX),
                ages=await reconciliation.ages(unit),
                breaks=breaks,
                chosen=kept and kept.id,
                would=await would(unit, kept) if kept else "",
            )

        return await self.source.ask(whole)

    async def _breaks(self, unit: Unit) -> Sequence[BreakRow]:
        if self._run is not None:
            return (await reconciliation.run(unit, self._run)).breaks
        return await reconciliation.breaks(unit, status="open", longest=True, limit=BREAKS_MAX)

    def draw(self, answer: Answer) -> None:
        self._answer = answer
        self.query_one("#top").display = bool(answer.runs or answer.ages)
        self.runs.show(answer.runs)
        self.query_one("#ages", Static).update(ages_table(answer.ages) if answer.ages else "")
        self.query_one("#failures", Said).say(failures(answer.runs))
        self.query_one("#which", Static).update(which(answer, self._run))
        self.breaks.display = bool(answer.breaks)
        self.breaks.show(answer.breaks)
        self._show_sides()

    def _show_sides(self) -> None:
        chosen = self.breaks.chosen
        self.query_one("#sides").display = chosen is not None
        if chosen is not None:
            known = self._answer.would if self._answer.chosen == chosen.id else "…"
            self.query_one("#would", Static).update(f"{chosen.id}: {known}")
            self.query_one("#evidence", Static).update(sides(chosen))

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        if event.data_table.id == "breaks" and self.breaks.chosen is not None:
            self._show_sides()
            if self.breaks.chosen.id != self._answer.chosen:
                self.action_again()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        if event.data_table.id == "runs":
            self._run = str(event.row_key.value)
            self.action_again()

    def action_open_breaks(self) -> None:
        self._run = None
        self.breaks.focus()
        self.action_again()

    async def action_post(self) -> None:
        chosen = self.breaks.chosen
        if chosen is None or not self.armed:
            self.offer(None, otherwise="There is no break to close.")
            return
        try:
            entries = await self.source.ask(lambda unit: reconciliation.preview(unit, chosen.id))
        except PasysError as error:
            self.say(sentence(error))
            return
        self.offer(reconciliation_action.post(chosen, entries))

    def action_accept(self) -> None:
        chosen = self.breaks.chosen
        self.offer(chosen and reconciliation_action.accept(chosen), otherwise="There is no break to close.")

    def action_run(self) -> None:
        self.offer(reconciliation_action.run(usual_psp(self._answer.runs)))


def usual_psp(runs: Sequence[RunRow]) -> str:
    """Whose statement was read last; before the first time the PSP that is installed first."""
    return runs[0].psp if runs else next(iter(installed_psps()), "stripe")


async def would(unit: Unit, found: BreakRow) -> str:
    """What closing a break by an entry would do, or why it cannot be."""
    if found.status != BreakStatus.OPEN:
        return f"closed: {found.resolution}, by {found.actor}" + (f" ({found.note})" if found.note else "")
    try:
        return "e posts " + reconciliation_action.entry_line(await reconciliation.preview(unit, found.id))
    except (NoCorrection, BreakResolved) as error:
        return f"no entry can close it, {error.facts.get('reason', error)}; c closes it as it is"


def which(answer: Answer, run: str | None) -> str:
    """Which breaks the list shows."""
    if run is not None:
        return f"{len(answer.breaks)} breaks of {run}; Esc: all that are open"
    if answer.breaks:
        cut = " or more" if len(answer.breaks) == BREAKS_MAX else ""
        return f"{len(answer.breaks)}{cut} open, longest first; Tab and Enter: those of a run"
    return NO_BREAKS if answer.runs else NO_RUNS.format(psp=usual_psp(answer.runs))


def failures(runs: Sequence[RunRow]) -> str | None:
    """Why a PSP's last run ended without an answer, in full: in the list there is no room for it."""
    last = {row.psp: row for row in reversed(runs)}
    return "\n".join(f"The last run of {row.psp} failed: {row.reason}" for row in last.values() if row.reason) or None


def run_cells(row: RunRow) -> list[Any]:
    matched = f"{row.matched:,} of {row.lines:,}"
    return [f" {clock(row.started_at)[:-3]}", row.psp, f"{row.open_breaks:4,}", matched, row.status]


def break_cells(row: BreakRow) -> list[Any]:
    since = age(row.found_at, datetime.now(UTC)) if row.status == BreakStatus.OPEN else row.resolution or row.status
    return [
        Text(since, justify="right"),
        row.kind.replace("_", " "),
        Text(str(Money(row.difference_minor, row.asset)), justify="right"),
        row.psp,
        Text(row.entity_id or row.line_id or ""),
    ]


def ages_table(ages: Sequence[Ages]) -> Table:
    """Open breaks by kind and age."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for name in ("open breaks", "<1h", "<1d", "old"):
        table.add_column(name, justify="left" if name == "open breaks" else "right", no_wrap=True)
    for row in ages:
        counts = (f"{count:,}" if count else "·" for count in (row.hour, row.day, row.longer))
        table.add_row(row.kind.replace("_", " "), *counts)
    return table


def sides(found: BreakRow) -> Table:
    """The evidence, ours beside theirs: first what differs, which is marked, also where there is no colour."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name, width in (("", 12), ("ours", 10), ("theirs", 10)):
        table.add_column(name, no_wrap=True, min_width=width)
    about = DIFFERS.get(found.kind)
    facts = side_by_side(found.expected, found.found)
    for one in sorted(facts, key=lambda one: FIRST.index(one.fact) if one.fact in FIRST else len(FIRST)):
        told = [Text("" if side is None else str(side)) for side in (one.books, one.statement)]
        table.add_row(f"{'≠' if one.fact == about else ' '} {one.fact}", *told)
    return table
