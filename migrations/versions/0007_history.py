"""Account history by index and by page, and a journal whose oldest partitions can be archived."""

from __future__ import annotations

from migrations.sql import run_file

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_file(__file__, exchanges=True)
