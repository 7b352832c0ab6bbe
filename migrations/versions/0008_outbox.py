"""What is wanted out at once is found behind whatever backlog."""

from __future__ import annotations

from migrations.sql import run_file

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_file(__file__)
