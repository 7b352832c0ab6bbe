"""Daemons and commands work as a role that may add to the books, and change nothing of them."""

from __future__ import annotations

from migrations.sql import run_file

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_file(__file__, exchanges=True)
