"""Every difference between a line and the books has a name, an amount, and an entry or a reason for none."""

from __future__ import annotations

from typing import Any

import pytest

from pasys.domain import reconciliation as rules
from pasys.domain.reconciliation import Corrected, Expected, Line
from pasys.errors import (
    NoCorrection,
)
from tests.reconciliation_world import NOW, PSP, RECEIVABLE


def _line(**changed: Any) -> Line:
    facts = {"line_id": "txn_1", "type": "charge", "asset": "USD", "amount_minor": 10_000, "fee_minor": 320}
    return Line(**{**facts, "status": "available", "created_at": NOW, "source_id": "ch_1", **changed})


def _expected(**changed: Any) -> Expected:
    facts = {"entity_id": "tx_1", "asset": "USD", "amount_minor": 10_000, "fee_minor": 320, "status": "succeeded"}
    return Expected(**{**facts, "reference": "ch_1", **changed})


@pytest.mark.parametrize(
    ("expected", "line", "corrected", "differences"),
    [
        (_expected(), _line(), Corrected(), []),
        (_expected(), _line(amount_minor=10_007), Corrected(), [("amount", 7)]),
        (_expected(), _line(amount_minor=9_990), Corrected(), [("amount", -10)]),
        (_expected(), _line(fee_minor=350), Corrected(), [("fee", 30)]),
        (_expected(), _line(amount_minor=10_001, fee_minor=300), Corrected(), [("amount", 1), ("fee", -20)]),
        (_expected(fee_minor=None), _line(), Corrected(), []),
        (_expected(), _line(asset="EUR"), Corrected(), [("currency", 0)]),
        (_expected(booked=False, status="failed"), _line(), Corrected(), [("status", 9_680)]),
        (None, _line(), Corrected(), [("missing_in_ledger", 9_680)]),
        (None, _line(type="adjustment", amount_minor=-500, fee_minor=0), Corrected(), [("missing_in_ledger", -500)]),
        (_expected(), _line(occurrence=2), Corrected(), [("duplicate", 9_680)]),
        (_expected(line_id="txn_0"), _line(), Corrected(), [("duplicate", 9_680)]),
        (_expected(), _line(source_id="ch_2"), Corrected(), [("duplicate", 9_680)]),
        (_expected(line_id="txn_1"), _line(), Corrected(), []),
        (_expected(), _line(amount_minor=10_007), Corrected(amount_minor=7), []),
        (_expected(), _line(), Corrected(amount_minor=7), [("amount", -7)]),
        (_expected(), _line(fee_minor=350), Corrected(fee_minor=30), []),
        (None, _line(), Corrected(absence_minor=9_680), []),
        (_expected(), _line(), Corrected(absence_minor=-9_680), [("late", 9_680)]),
        (_expected(), _line(), Corrected(absence_minor=9_680), [("late", -9_680)]),
    ],
)
def test_every_difference_has_a_name_and_an_amount(expected, line, corrected, differences):
    """What the statement says beyond the books, by kind; corrections that were posted belong to the books."""
    found = rules.compare(expected, line, corrected)
    assert [(one.kind.value, one.difference_minor) for one in found] == differences


def test_what_the_statement_lacks_is_the_opposite_of_what_was_booked():
    """A payment counts with its net, a refund with its amount."""
    assert rules.missing_at_psp(_expected()).difference_minor == -9_680
    assert rules.missing_at_psp(_expected(amount_minor=-4_000, fee_minor=0)).difference_minor == 4_000


@pytest.mark.parametrize(
    ("kind", "difference_minor", "entry"),
    [
        ("amount", 7, (RECEIVABLE, "suspense", 7)),
        ("amount", -7, ("suspense", RECEIVABLE, 7)),
        ("fee", 30, ("fees:psp", RECEIVABLE, 30)),
        ("fee", -30, (RECEIVABLE, "fees:psp", 30)),
        ("missing_in_ledger", 9_680, (RECEIVABLE, "suspense", 9_680)),
        ("missing_at_psp", -9_680, ("suspense", RECEIVABLE, 9_680)),
        ("late", 9_680, (RECEIVABLE, "suspense", 9_680)),
    ],
)
def test_an_entry_moves_the_receivable_to_what_the_statement_says(kind, difference_minor, entry):
    """Fees go against fees:psp, all else against suspense."""
    made = rules.correction("brk_1", kind, difference_minor, psp=PSP, found={"occurrence": 1})
    assert (made.debit, made.credit, made.amount_minor) == entry


@pytest.mark.parametrize(("kind", "occurrence"), [("currency", 1), ("status", 1), ("duplicate", 2)])
def test_what_moved_no_money_has_no_entry(kind, occurrence):
    """A line that is listed twice, another currency and another status are put right elsewhere."""
    with pytest.raises(NoCorrection):
        rules.correction("brk_1", kind, 100, psp=PSP, found={"occurrence": occurrence})
