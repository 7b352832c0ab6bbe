"""The planner is told nothing about columns that nobody searches by."""

from __future__ import annotations

from migrations.sql import run_file

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_file(__file__)
