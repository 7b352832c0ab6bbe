"""Some accounts are read as they are, without adding up what happened to all others."""

from __future__ import annotations

from migrations.sql import run_file

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_file(__file__)
