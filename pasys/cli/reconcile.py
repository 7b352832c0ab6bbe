"""Reconciliation from the command line: hold a PSP's statement against the books, look at breaks, put them right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from pasys.cli.console import Noun, ask, poll, say, show, show_refused
from pasys.cli.options import TABLE, DryRun, Format, Limit, Output, Timeout, moment

if TYPE_CHECKING:
    from pasys.service.reconciliation import BreakRow, Proposed, RunReport

app = Noun("reconcile", "The PSP's statement against the books.")

DIFFERENCES_FOUND = 10
RUN_COLUMNS = ["run_id", "status", "psp", "since", "until", "lines", "matched", "reason", "started_at", "finished_at"]
BREAK_COLUMNS = ["id", "kind", "difference", "entity_id", "line_id", "status", "resolution", "found_at"]

Psp = Annotated[str, typer.Option("--psp", metavar="NAME", help="Whose statement: stripe.")]
PspFilter = Annotated[str | None, typer.Option("--psp", metavar="NAME", help="Only this PSP.")]
Since = Annotated[str | None, typer.Option("--since", metavar="TIME", help="Read again from this time, or age (2h).")]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Up to here; else up to now.")]
Breaks = Annotated[bool, typer.Option("--breaks", help="List breaks instead of runs.")]
Status = Annotated[
    str | None, typer.Option("--status", help="Breaks: open, resolved. Runs: reading, completed, failed.")
]
Kind = Annotated[str | None, typer.Option("--kind", help="Only breaks of this kind: amount, fee, missing_at_psp, …")]
Accept = Annotated[bool, typer.Option("--accept", help="Close it as it is, without an entry.")]
Note = Annotated[str | None, typer.Option("--note", help="Why, for those who look at it later.")]
BreakId = Annotated[str, typer.Argument(metavar="BREAK", help="brk_… id.")]
RunOrBreakId = Annotated[str, typer.Argument(metavar="RUN|BREAK", help="run_… or brk_… id.")]


@dataclass(frozen=True)
class Preview:
    break_id: str
    dry_run: bool
    entries: list[Proposed]


@app.command("run", examples="pasys reconcile run --psp stripe\npasys reconcile run --psp stripe --since 2d --json")
def run(psp: Psp, since: Since = None, until: Until = None, timeout: Timeout = 120.0, output: Output = TABLE) -> None:
    """Read a PSP's statement and hold it against the books. Exits 10 when there are open breaks."""
    from pasys.errors import ReconciliationFailed
    from pasys.service import reconciliation

    start = None if since is None else moment(since, field="since")
    end = None if until is None else moment(until, field="until")
    row = ask(lambda unit: reconciliation.start(unit, psp, since=start, until=end))
    say(f"Run {row.run_id} reads the statement of {psp}.")
    ended = poll(
        lambda unit: reconciliation.run_status(unit, row.run_id),
        until=lambda seen: seen.status != "reading",
        timeout_s=timeout,
        entity_id=row.run_id,
    )
    report = ask(lambda unit: reconciliation.run(unit, row.run_id))
    if ended.status == "failed":
        reason = ReconciliationFailed(run_id=row.run_id, psp=psp, reason=ended.reason)
        show_refused(report, output, reason, columns=RUN_COLUMNS)
    _show_report(report, output)
    if ended.open_breaks:
        say(f"{ended.open_breaks} open; `pasys reconcile resolve BREAK --dry-run` shows what would put one right.")
        raise typer.Exit(DIFFERENCES_FOUND)


@app.command("show", examples="pasys reconcile show run_01m7…\npasys reconcile show brk_01m7… --json")
def show_(id: RunOrBreakId, output: Output = TABLE) -> None:
    """Show a run with its breaks, or a break with both sides of its evidence."""
    from pasys.service import reconciliation

    if id.startswith("brk_"):
        _show_break(ask(lambda unit: reconciliation.break_(unit, id)), output)
    else:
        _show_report(ask(lambda unit: reconciliation.run(unit, id)), output)


@app.command("list", examples="pasys reconcile list\npasys reconcile list --breaks --status open --kind fee")
def list_(
    breaks: Breaks = False,
    status: Status = None,
    psp: PspFilter = None,
    kind: Kind = None,
    limit: Limit = 50,
    output: Output = TABLE,
) -> None:
    """List runs or, with --breaks, --kind or a break's status, breaks; newest first."""
    from pasys.service import reconciliation

    if breaks or kind is not None or status in ("open", "resolved"):
        found = ask(lambda unit: reconciliation.breaks(unit, status=status, psp=psp, kind=kind, limit=limit))
        show(found, output, name="breaks", columns=BREAK_COLUMNS)
    else:
        rows = ask(lambda unit: reconciliation.listing(unit, status=status, psp=psp, limit=limit))
        show(rows, output, name="runs", columns=[*RUN_COLUMNS[:7], "open_breaks", *RUN_COLUMNS[7:]])


@app.command(
    "resolve", examples="pasys reconcile resolve brk_01m7… --dry-run\npasys reconcile resolve brk_01m7… --accept"
)
def resolve(
    id: BreakId, accept: Accept = False, note: Note = None, dry_run: DryRun = False, output: Output = TABLE
) -> None:
    """Close a break by the entry that makes the books agree with the statement or, with --accept, as it is."""
    from pasys.service import reconciliation

    if dry_run:
        entries = ask(lambda unit: reconciliation.preview(unit, id, accept=accept))
        show(Preview(id, True, entries), output)
        return
    _show_break(ask(lambda unit: reconciliation.resolve(unit, id, accept=accept, note=note)), output)


def _show_report(report: RunReport, output: Format) -> None:
    if output is not TABLE:
        show(report, output)
        return
    from pasys.cli.output import fields_of

    show({name: value for name, value in fields_of(report).items() if name != "breaks"}, TABLE, columns=RUN_COLUMNS)
    print()
    show(report.breaks, TABLE, name="breaks", columns=BREAK_COLUMNS, empty="No breaks.")


def _show_break(found: BreakRow, output: Format) -> None:
    if output is not TABLE:
        show(found, output)
        return
    from pasys.cli.output import fields_of
    from pasys.domain.reconciliation import side_by_side

    sides = ("expected", "found")
    show({name: value for name, value in fields_of(found).items() if name not in sides}, TABLE)
    print()
    show(side_by_side(found.expected, found.found), TABLE, name="evidence", empty="No evidence.")
