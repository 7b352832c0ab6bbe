"""scripts/bench/verify.py verifies what it says: the books are read in both forms, and changes in them are found."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "scripts" / "bench" / "verify.py"
BEGUN, HELD, SIZE = 2 * 500, 2_000, 8_000  # each account is funded and met once


def ran(*words: str) -> tuple[int, str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PASYS_")}
    ended = subprocess.run([sys.executable, SCRIPT, *words], env=clean, capture_output=True, text=True, check=False)
    return ended.returncode, ended.stdout, ended.stderr


def test_both_forms_are_measured_and_too_slow_is_a_failure() -> None:
    """Four batches of each kind of transfer in full, and the last of them behind a checkpoint; four changes are found;
    no machine reaches the rate that is asked for, and the exit code says so."""
    code, said, complained = ran(
        "--transfers", str(4 * SIZE), "--accounts", "500", "--repeat", "2", "--at-least", str(10**15)
    )
    assert code == 1, said + complained
    assert "full is slower" in complained and "incremental is slower" in complained
    mix = re.findall(r"([\d,]+) (direct|pending|post|void)", said)
    counts = {kind: int(count.replace(",", "")) for count, kind in mix}
    assert counts["pending"] == 4 * HELD and counts["post"] + counts["void"] == 3 * HELD * 19 // 20
    assert sum(counts.values()) == BEGUN + 4 * SIZE
    assert said.count("\n  ") == 4 and "NOT FOUND" not in said
    assert f"full         {BEGUN + 4 * SIZE:,} transfers, 501 accounts" in said
    assert f"incremental  {SIZE:,} transfers, 501 accounts" in said


def test_too_small_a_journal_is_refused() -> None:
    """A bench of nothing says what it needs."""
    code, _, complained = ran("--transfers", "100")
    assert code == 2 and "at least 32,000 transfers" in complained
