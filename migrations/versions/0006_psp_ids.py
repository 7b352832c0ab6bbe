"""A PSP's own ids of charges, refunds and notices are indexed."""

from __future__ import annotations

from migrations.sql import run_file_on_the_side

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_file_on_the_side(__file__)
