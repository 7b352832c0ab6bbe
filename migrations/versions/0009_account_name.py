"""A part of an account's name is found by an index, where the server has trigrams."""

from __future__ import annotations

from alembic import op
from sqlalchemy.exc import DBAPIError

from migrations.sql import run_file_on_the_side

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None
# Not there, or not ours to install: insufficient_privilege, feature_not_supported, undefined_file.
_REFUSALS = ("42501", "0A000", "58P01")


def upgrade() -> None:
    if _trigrams():
        run_file_on_the_side(__file__)


def _trigrams() -> bool:
    """Whether the extension is there, now. Payments do not wait for a search: without it names are read one by one."""
    try:
        with op.get_bind().begin_nested():
            op.get_bind().exec_driver_sql("create extension if not exists pg_trgm")
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) not in _REFUSALS:
            raise
        return False
    return True
