"""What every table is made with: one metadata, the names of constraints, the types of ids and of time."""

from __future__ import annotations

from sqlalchemy import DDL, CheckConstraint, DateTime, MetaData, Text, event, text

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s_check",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    }
)

event.listen(metadata, "before_create", DDL("create extension if not exists pg_trgm"))

Id = Text(collation="C")
Time = DateTime(timezone=True)
NOW = text("now()")
# Of a table that is hardly ever anything but added to: what is new needs no cleaning, and has no news for the planner.
ONLY_ADDED_TO = {"autovacuum_vacuum_insert_threshold": "-1", "autovacuum_analyze_scale_factor": "1"}


def one_of(column: str, *values: str) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} in ({listed})", name=column)
