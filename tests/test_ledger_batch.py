"""Accounts of a batch are found by number, in whatever way is cheapest for so many."""

from __future__ import annotations

import numpy as np
import pytest

from pasys.domain.ledger_batch import SORTED_FROM, Accounts


@pytest.mark.parametrize("count", [0, 1, SORTED_FROM - 1, SORTED_FROM, 3 * SORTED_FROM])
def test_accounts_are_found_however_many_are_asked_for(count: int) -> None:
    """Where each number stands; those between, before and behind the accounts are not there."""
    draw = np.random.default_rng(count)
    numbers = np.unique(draw.integers(0, 5_000, 2 * SORTED_FROM)) * 2 + 10
    assert len(numbers) > SORTED_FROM
    none = np.zeros(len(numbers), np.int64)
    accounts = Accounts(numbers, none != 0, none, none, none, none, none, none, none)
    asked = draw.integers(0, 10_050, count)
    at, known = accounts.position(asked)
    where = {number: place for place, number in enumerate(numbers.tolist())}
    assert known.tolist() == [number in where for number in asked.tolist()]
    assert at[known].tolist() == [where[number] for number in asked.tolist() if number in where]
