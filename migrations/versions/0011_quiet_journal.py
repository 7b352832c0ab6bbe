"""The journal is not gone through again while it is written."""

from __future__ import annotations

from migrations.sql import run_file

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_file(__file__, exchanges=True)
