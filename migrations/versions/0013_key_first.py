"""Idempotency keys are found by the key itself."""

from __future__ import annotations

from migrations.sql import run_file_on_the_side

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_file_on_the_side(__file__)
