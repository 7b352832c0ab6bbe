"""The database's schema from the command line: what is missing, bring it up to date, where it stands."""

from __future__ import annotations

from dataclasses import dataclass

from pasys.cli.console import Noun, say, settings, show
from pasys.cli.options import TABLE, Output

app = Noun("migrate", "The database's schema: plan, bring up to date, look.")


@dataclass(frozen=True)
class Planned:
    revision: str
    title: str
    sql: str


@app.command("plan", examples="pasys migrate plan\npasys migrate plan --json")
def plan(output: Output = TABLE) -> None:
    """Show the SQL that `migrate up` would run. Changes nothing."""
    from pasys import migration

    planned = [Planned(revision.revision, revision.title, sql) for revision, sql in migration.plan(settings())]
    if output is TABLE and planned:
        for row in planned:
            print(f"-- {row.revision} {row.title}\n{row.sql}")
        return
    show(planned, output, name="revisions", empty="The schema is up to date.")


@app.command("up", examples="pasys migrate up")
def up(output: Output = TABLE) -> None:
    """Bring the schema up to date. Forward only, one process at a time, and nothing where nothing is missing."""
    from pasys import migration

    applied = set(migration.upgrade(settings()))
    rows = [revision for revision in migration.status(settings()) if revision.revision in applied]
    show(rows, output, name="revisions", columns=["revision", "title"], empty="The schema is up to date.")
    if rows:
        say("The schema is up to date.")


@app.command("status", examples="pasys migrate status\npasys migrate status --json")
def status(output: Output = TABLE) -> None:
    """List every revision, and whether the database has it."""
    from pasys import migration

    show(migration.status(settings()), output, name="revisions")
