"""Runs the .sql file beside a revision exactly as it is written: colons, percent signs and dollar quotes included."""

from __future__ import annotations

from pathlib import Path

from alembic import op


def run_file(revision_file: str) -> None:
    """The whole file in the revision's own transaction."""
    op.get_bind().execution_options(no_parameters=True).exec_driver_sql(_text(revision_file))


def run_file_on_the_side(revision_file: str) -> None:
    """Each statement by itself, for what PostgreSQL does without locking a table, and therefore not in a transaction.

    A semicolon at the end of a line ends a statement. What was interrupted runs again from the first one.
    """
    with op.get_context().autocommit_block():
        for statement in _text(revision_file).split(";\n"):
            if statement.strip():
                op.get_bind().execution_options(no_parameters=True).exec_driver_sql(statement)


def _text(revision_file: str) -> str:
    return Path(revision_file).with_suffix(".sql").read_text(encoding="utf-8")
