"""What a transaction may become, what kind it is, and which accounts and rail a kind has: rules as tables."""

from __future__ import annotations

from itertools import product

import pytest

from pasys.domain.transaction import MOVES, Kind, Status, check_move, check_shape, infer_kind
from pasys.errors import IllegalTransition, InvalidInput

PICTURE = {
    "initialized": "pending succeeded cancelled",
    "pending": "succeeded failed fraud cancelled",
    "succeeded": "refunding fraud",
    "failed": "refunding",
    "fraud": "refunding",
    "cancelled": "refunding",
    "refunding": "refunded succeeded failed fraud",
    "refunded": "",
}


def test_moves_are_those_of_the_picture():
    """Every pair of statuses either is an arrow of the picture, or is refused as an illegal transition."""
    for was, wanted in product(Status, Status):
        if str(wanted) in PICTURE[was].split():
            check_move("tx_1", was, wanted)
            assert wanted in MOVES[was]
        else:
            with pytest.raises(IllegalTransition):
                check_move("tx_1", was, wanted)


@pytest.mark.parametrize(
    ("debit", "credit", "rail", "kind"),
    [
        (None, "customer", "book", Kind.DEPOSIT),
        (None, "customer", "stripe", Kind.DEPOSIT),
        ("customer", None, "book", Kind.WITHDRAWAL),
        ("customer", "customer", "book", Kind.TRANSFER),
        ("customer", "merchant", "book", Kind.PAYMENT),
        ("customer", "merchant", "stripe", Kind.PAYMENT),
        ("customer", "customer", "stripe", Kind.PAYMENT),
    ],
)
def test_the_kind_follows_from_the_accounts(debit: str | None, credit: str | None, rail: str, kind: Kind):
    """Who does not say the kind gets the one that the accounts and the rail mean."""
    assert infer_kind(debit_type=debit, credit_type=credit, rail=rail) is kind


@pytest.mark.parametrize(
    ("kind", "debit", "credit", "rail", "field"),
    [
        (Kind.PAYMENT, False, True, "book", "from"),
        (Kind.PAYMENT, True, False, "stripe", "to"),
        (Kind.TRANSFER, True, False, "book", "to"),
        (Kind.DEPOSIT, True, True, "book", "from"),
        (Kind.DEPOSIT, False, False, "book", "to"),
        (Kind.WITHDRAWAL, True, True, "book", "to"),
        (Kind.WITHDRAWAL, True, False, "stripe", "rail"),
        (Kind.TRANSFER, True, True, "stripe", "rail"),
    ],
)
def test_a_kind_has_its_shape(kind: Kind, debit: bool, credit: bool, rail: str, field: str):
    """An account too many, one too few or a rail that a kind does not go by is refused, with the field's name."""
    with pytest.raises(InvalidInput) as refused:
        check_shape(kind, debit=debit, credit=credit, rail=rail)
    assert refused.value.facts["field"] == field
