"""Runs the .sql file beside a revision exactly as it is written: colons, percent signs and dollar quotes included."""

from __future__ import annotations

from pathlib import Path

from alembic import op

# A function that is nearly right: what changes is said, and the rest is not repeated. It must have what is exchanged.
_EXCHANGE = """
create or replace function pg_temp.exchange(one regprocedure, was text, becomes text) returns void
language plpgsql as $$
begin
    if strpos(pg_get_functiondef(one), was) = 0 then
        raise exception '% does not have %', one, was;
    end if;
    execute replace(pg_get_functiondef(one), was, becomes);
end $$;
"""


def run_file(revision_file: str, *, exchanges: bool = False) -> None:
    """The whole file in the revision's own transaction. Where it exchanges text within functions that are there,
    it has pg_temp.exchange(function, was, becomes)."""
    text = (_EXCHANGE if exchanges else "") + _text(revision_file)
    op.get_bind().execution_options(no_parameters=True).exec_driver_sql(text)


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
