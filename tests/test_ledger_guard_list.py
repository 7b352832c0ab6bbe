"""The list of the ledger's guards fits the code. No guard names this file: it would notice every one of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "scripts" / "mutate_ledger.py"


def test_every_guard_of_the_list_stands_where_it_says() -> None:
    """What is to be taken away is still there, once; else the run would end before it begins."""
    listed = subprocess.run([sys.executable, SCRIPT, "--list"], capture_output=True, text=True, check=False)
    assert listed.returncode == 0, listed.stderr
    assert len(listed.stdout.splitlines()) > 150
