"""Runs the .sql file beside a revision exactly as it is written: colons, percent signs and dollar quotes included."""

from __future__ import annotations

from pathlib import Path

from alembic import op


def run_file(revision_file: str) -> None:
    sql = Path(revision_file).with_suffix(".sql").read_text(encoding="utf-8")
    op.get_bind().execution_options(no_parameters=True).exec_driver_sql(sql)
