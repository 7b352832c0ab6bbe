"""What the bus has lost is looked for."""

from __future__ import annotations

from migrations.sql import run_file

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_file(__file__)
