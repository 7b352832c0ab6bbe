"""Signed checkpoints of the journal, and what the books amount to at the last one."""

from __future__ import annotations

from migrations.sql import run_file

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_file(__file__)
