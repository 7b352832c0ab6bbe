"""What an import shows: a bar while it runs, on a terminal, and afterwards what was created and what was refused."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pasys.cli.console import say, show, show_refused
from pasys.cli.options import Format
from pasys.cli.output import fields_of
from pasys.errors import InvalidRows, RowsRefused

if TYPE_CHECKING:
    from pasys.cli.import_file import Outcome
    from pasys.cli.import_source import Progress

LISTED_MAX = 20  # rows that a person is shown; programs get all
_ROW_LISTS = ("refusals", "invalid_rows", "answers")


@contextmanager
def bar() -> Iterator[Progress]:
    """A bar on stderr, where that is a terminal. Rows that are not valid are listed when it ends."""
    try:
        if not sys.stderr.isatty():
            yield lambda *_: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as drawn:
            task = drawn.add_task("checking", total=None)
            yield lambda doing, done, rows: drawn.update(task, description=doing, completed=done, total=rows or None)
    except InvalidRows as no:
        _list(no.facts["invalid_rows"], no.facts["count"])
        raise


def report(outcome: Outcome, output: Format, *, dry_run: bool) -> None:
    """Print what an import did; exits 6 where a rule refused a row."""
    if output is not Format.JSON and dry_run:
        show(outcome.answers, output, name="answers")
        say(_sentence(outcome))
        _end(outcome)
        return
    row = _summary(outcome, output, dry_run=dry_run)
    if output is Format.TABLE:
        say(_sentence(outcome))
        _list(outcome.invalid_rows, outcome.invalid)
        _list(outcome.refusals, outcome.refused)
    if outcome.refused:
        show_refused(row, output, _refused(outcome))
    show(row, output)


def _summary(outcome: Outcome, output: Format, *, dry_run: bool) -> dict[str, Any]:
    fields = fields_of(outcome)
    if output is Format.TABLE:
        return {name: value for name, value in fields.items() if name not in _ROW_LISTS}
    return fields if dry_run else {name: value for name, value in fields.items() if name != "answers"}


def _end(outcome: Outcome) -> None:
    import typer

    if outcome.refused:
        raise typer.Exit(RowsRefused.exit_code)


def _refused(outcome: Outcome) -> RowsRefused:
    first = outcome.refusals[0]
    return RowsRefused(
        file=outcome.file, refused=outcome.refused, rows=outcome.rows, line=first.line, message=first.message
    )


def _sentence(outcome: Outcome) -> str:
    if outcome.state == "finished before":
        return f"{outcome.file} was imported before, as {outcome.batch}: nothing was changed."
    if outcome.state == "dry run":
        counts = f"{outcome.created} would be created, {outcome.replayed} replayed, {outcome.refused} refused"
        return f"Nothing was changed: {counts}."
    went_on = f", from row {outcome.done_before + 1} on" if outcome.done_before else ""
    return f"Imported {outcome.file} as {outcome.batch}{went_on}: {outcome.rate:,.0f} rows/s."


def _list(rows: list[Any], count: int) -> None:
    for row in rows[:LISTED_MAX]:
        key = f" ({row.key})" if row.key else ""
        say(f"line {row.line}{key}: {row.message} [{row.rule}]")
    if count > LISTED_MAX:
        say(f"… and {count - LISTED_MAX} more; -o json lists them.")
