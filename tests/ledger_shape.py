"""The sizes that decide which way the ledger's engine takes: small, so that a short run takes every way."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from pasys.service import ledger_books, ledger_cache, ledger_memory, ledger_poster


@dataclass(frozen=True)
class Shape:
    """What decides which way the engine takes: small, so that a short run takes every way. `skew_s` are the seconds by
    which the second poster's clock is behind."""

    lag_from: int = 64
    lag_max: int = 131_072
    copy_from: int = 2_000
    accounts_max: int = 1_000_000
    holds_max: int = 100_000
    wary: int = 8
    group_max: int = 8_192
    partition_rows: int = 1_000_000
    skew_s: int = 0
    huge: float = 0.0
    idle_ms: int = 50

    def put_on(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(ledger_memory, "LAG_FROM", self.lag_from)
        patch.setattr(ledger_memory, "LAG_MAX", self.lag_max)
        patch.setattr(ledger_poster, "IDLE_S", self.idle_ms / 1_000)
        patch.setattr(ledger_memory, "WARY", self.wary)
        patch.setattr(ledger_books, "COPY_FROM", self.copy_from)
        patch.setattr(ledger_cache, "ACCOUNTS_MAX", self.accounts_max)
        patch.setattr(ledger_cache, "HOLDS_MAX", self.holds_max)
