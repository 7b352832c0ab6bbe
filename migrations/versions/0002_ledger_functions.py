"""The ledger's two functions: lock and read a batch's accounts, and write its journal rows and balances."""

from __future__ import annotations

from migrations.sql import run_file

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_file(__file__)
