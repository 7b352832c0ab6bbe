"""A transfer that comes alone is written in plain numbers."""

from __future__ import annotations

from migrations.sql import run_file

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_file(__file__)
