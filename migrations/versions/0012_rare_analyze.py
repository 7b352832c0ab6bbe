"""Statistics of the journal are taken when it has doubled, and of a tenth of what they were taken of."""

from __future__ import annotations

from migrations.sql import run_file

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_file(__file__, exchanges=True)
