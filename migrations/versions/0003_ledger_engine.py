"""The journal in partitions, each row sealed by a hash chain, and account rows that may follow behind it."""

from __future__ import annotations

from migrations.sql import run_file

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_file(__file__)
