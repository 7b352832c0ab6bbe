"""Tables that are hardly ever anything but added to are left alone while millions of rows are written."""

from __future__ import annotations

from migrations.sql import run_file

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_file(__file__)
