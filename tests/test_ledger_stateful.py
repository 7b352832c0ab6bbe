"""Whatever happens to the ledger, and whatever happens at once, its books are those of one transfer after the other."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from pasys.config import Settings
from pasys.domain.ledger import Kind, Result
from tests.ledger_killed import POINTS
from tests.ledger_machine import LedgerMachine
from tests.ledger_world import Tally

OPERATIONS = 100_000
Spaces = Callable[[], AbstractContextManager[Settings]]


def run(spaces: Spaces, tally: Tally, **how: int) -> None:
    machine = type("Machine", (LedgerMachine,), {"spaces": staticmethod(spaces), "tally": tally})
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    chosen = settings(deadline=None, database=None, suppress_health_check=quiet, print_blob=True, **how)  # type: ignore[arg-type]
    run_state_machine_as_test(machine, settings=settings(chosen, phases=[Phase.generate]))


def test_the_ledger_is_the_oracle(spaces: Spaces) -> None:
    """Posting, holds, chains, replays, conflicts, limits, frozen accounts, posters and units at once, lost connections
    and killed processes: after each step journal, accounts, holds and answers are the oracle's."""
    run(spaces, Tally(), max_examples=10, stateful_step_count=25)


@pytest.mark.slow
def test_the_ledger_is_the_oracle_at_length(spaces: Spaces) -> None:
    """The same, for at least 100,000 operations, among them every kind of transfer, every answer and every death."""
    tally, began = Tally(), time.monotonic()
    while tally.operations < OPERATIONS:
        run(spaces, tally, max_examples=25, stateful_step_count=50)
    seconds = time.monotonic() - began
    print(f"\n{tally.operations} operations in {seconds:.0f} s: {dict(tally.seen.most_common())}")
    wanted = {kind.name.lower() for kind in Kind} | {result.rule for result in Result} | {"replayed", "linked"}
    wanted |= {f"kill {point}" for point in POINTS}
    assert tally.operations >= OPERATIONS
    assert not wanted - tally.seen.keys()
