"""A base backup from the command line, the list of those there are, and how many of them stay."""

from __future__ import annotations

from typing import Annotated

import typer

from pasys.cli.console import Noun, say, settings, show
from pasys.cli.options import TABLE, Output
from pasys.errors import InvalidInput

app = Noun("backup", "Base backups of the embedded database.")
COLUMNS = ["id", "started_at", "ended_at", "timeline", "size_bytes", "damage"]


@app.command("backup", examples="pasys backup\npasys backup --keep 7\npasys backup --list\npasys backup --list --json")
def backup(
    list_: Annotated[bool, typer.Option("--list", help="List the backups, each verified; take none.")] = False,
    keep: Annotated[
        int | None,
        typer.Option("--keep", min=1, metavar="N", help="Then delete all but the newest N, and WAL that nobody needs."),
    ] = None,
    output: Output = TABLE,
) -> None:
    """Take a base backup of the embedded database while everything works, and verify it.

    With the first one the archive begins: from then on all WAL goes there, at most a minute late, so that
    `pasys restore --to` reaches any moment after a backup's end. Both lie in `backup_dir`, best on another disk.
    """
    from pasys.stack import backup as backups

    if list_ and keep is not None:
        raise InvalidInput(field="keep", reason="--list only looks; leave one of the two out")
    known = settings()
    if list_:
        backups.ours(known, verb="back up")
        return show(backups.listing(known), output, name="backups", columns=COLUMNS, empty="There is no backup yet.")
    taken = backups.take(known)
    gone = backups.prune(known, keep=keep) if keep is not None else []
    show(taken, output)
    for one in gone:
        say(f"Deleted {one.id}.")
    if output is TABLE:
        say(f"Any moment from {taken.ended_at.isoformat()} on can be restored.")
