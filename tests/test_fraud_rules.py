"""The rules are data: limits, lists, weights and thresholds; what makes no sense is refused where it stands."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasys.domain.fraud import (
    Facts,
    Limit,
    Listed,
    Outcome,
    Rules,
    Scored,
    Thresholds,
    Velocity,
    VelocityRule,
    decide,
    prepare,
    read,
    relist,
)
from pasys.errors import InvalidInput
from tests.fraud_kit import QUIET, facts, velocity


@pytest.mark.parametrize(
    ("asked", "seen", "outcome", "rules"),
    [
        (facts("12.50"), QUIET, "cleared", []),
        (facts("5000.00"), QUIET, "cleared", []),
        (facts("5000.01"), QUIET, "review", ["amount"]),
        (facts("50000.00"), QUIET, "review", ["amount"]),
        (facts("50000.01"), QUIET, "flagged", ["amount"]),
        (facts("750000", "JPY"), QUIET, "cleared", []),
        (facts("750001", "JPY"), QUIET, "review", ["amount"]),
        (facts("7500001", "JPY"), QUIET, "flagged", ["amount"]),
        (facts("1500.000", "KWD"), QUIET, "cleared", []),
        (facts("1500.001", "KWD"), QUIET, "review", ["amount"]),
        (facts("15000.001", "KWD"), QUIET, "flagged", ["amount"]),
        (facts("99999999", "NGN"), QUIET, "cleared", []),
        (facts(), velocity(payments=30), "cleared", []),
        (facts(), velocity(payments=31), "review", ["payments_a_minute"]),
        (facts(), velocity(payments=301), "flagged", ["payments_a_minute", "payments_an_hour"]),
        (facts(), velocity(sum_minor=2_500_000), "cleared", []),
        (facts(), velocity(sum_minor=2_500_001), "review", ["money_a_day"]),
        (facts("1", "NGN"), velocity(sum_minor=10**15), "cleared", []),
        (facts(), velocity(declines=4), "cleared", []),
        (facts(), velocity(declines=5), "flagged", ["card_testing"]),
        (facts("6000.00"), velocity(payments=31), "flagged", ["amount", "payments_a_minute"]),
    ],
)
def test_the_first_version_of_the_rules(asked: Facts, seen: Velocity, outcome: str, rules: list[str]) -> None:
    """What is at a limit passes, what is above does not, in the asset's own units of 0, 2 or 3 decimals."""
    decision = decide(prepare(Rules(), version=1), asked, seen)
    assert (decision.outcome, [reason.rule for reason in decision.reasons]) == (outcome, rules)


def test_reasons_carry_facts() -> None:
    """Each reason says by what number the payment broke which limit, for a program to read."""
    decision = decide(prepare(Rules(), version=1), facts("6000.00"), velocity(payments=31))
    assert [msgspec.to_builtins(reason) for reason in decision.reasons] == [
        {"rule": "amount", "weight": 0.6, "facts": {"asset": "USD", "amount_minor": 600000, "above_minor": 500000}},
        {
            "rule": "payments_a_minute",
            "weight": 0.6,
            "facts": {"window_s": 60, "payments": 31, "payments_max": 30},
        },
    ]
    assert decision.score == 0.84


@pytest.mark.parametrize("part", ["accounts", "payment_methods"])
def test_block_beats_allow(part: str) -> None:
    """What is allowed is cleared whatever it costs; what is also blocked is flagged all the same."""
    entry = {"accounts": "alice", "payment_methods": "pm_card_visa"}[part]
    allowed = relist(Rules(), name="allow", field=part, value=entry, present=True)
    blocked = relist(allowed, name="block", field="accounts", value="alice", present=True)
    expensive = facts("99999.00")
    assert decide(prepare(Rules(), version=1), expensive, QUIET).outcome is Outcome.FLAGGED
    cleared = decide(prepare(allowed, version=1), expensive, velocity(declines=99))
    assert (cleared.outcome, cleared.score, cleared.reasons[0].rule) == (Outcome.CLEARED, 0.0, "allow_list")
    flagged = decide(prepare(blocked, version=1), facts("0.01"), QUIET)
    assert (flagged.outcome, flagged.score, flagged.reasons[0].rule) == (Outcome.FLAGGED, 1.0, "block_list")
    gone = relist(blocked, name="block", field="accounts", value="alice", present=False)
    assert gone == allowed


def test_a_payment_without_a_method_is_on_no_list() -> None:
    """An unknown payment method matches nothing, not even an empty list."""
    rules = Rules(block=Listed(payment_methods=["pm_stolen"]))
    assert decide(prepare(rules, version=1), facts(method=None), QUIET).outcome is Outcome.CLEARED


def test_a_model_speaks_with_its_weight() -> None:
    """A model's score alone is the score, at full weight; beside a rule it can only raise it."""
    prepared = prepare(Rules(), version=1)
    alone = decide(prepared, facts(), QUIET, Scored(0.55, "m7"))
    assert (alone.outcome, alone.score) == (Outcome.REVIEW, 0.55)
    assert alone.reasons[0].facts == {"score": 0.55, "model_version": "m7"}
    both = decide(prepared, facts("5000.01"), QUIET, Scored(0.55, "m7"))
    assert (both.outcome, both.score) == (Outcome.FLAGGED, 0.82)


unit_interval = st.floats(0, 1, allow_nan=False)


counts = st.integers(0, 2_000)


minors = st.integers(1, 10**10)


@given(
    minors, minors, counts, counts, counts, counts, unit_interval, unit_interval, st.lists(unit_interval, max_size=3)
)
def test_the_score_is_monotone(
    amount: int, more: int, n: int, n2: int, d: int, d2: int, s: float, s2: float, weights: list[float]
) -> None:
    """The score lies in 0 to 1, and never falls when amount, counts, declines or the model's score rise."""
    extra = [VelocityRule(name=f"v{i}", window_s=60, weight=w, payments_max=9 * i) for i, w in enumerate(weights)]
    prepared = prepare(Rules(velocity=[*Rules().velocity, *extra]), version=1)

    def score(amount_minor: int, payments: int, declines: int, model: float) -> float:
        seen = velocity(payments=payments, sum_minor=amount_minor * 3, declines=declines)
        return decide(prepared, Facts("USD", amount_minor, "a", None), seen, Scored(model, "m")).score

    low = score(amount, n, d, min(s, s2))
    high = score(amount + more, n + n2, d + d2, max(s, s2))
    assert 0.0 <= low <= high <= 1.0


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"amount": {}}, "rules.amount"),
        ({"amounts": {"USD": {"review_over": "5"}}}, "rules.amounts.USD.review_over"),
        ({"amounts": {"USD": {"review_above": 5}}}, "rules.amounts.USD.review_above"),
        ({"amounts": {"USD": {"review_above": "-5"}}}, "rules.amounts.USD.review_above"),
        ({"amounts": {"JPY": {"flag_above": "1.5"}}}, "rules.amounts.JPY.flag_above"),
        ({"amounts": {"KWD": {"flag_above": "1.0005"}}}, "rules.amounts.KWD.flag_above"),
        ({"amounts": {"XXQ": {"flag_above": "1"}}}, "rules.amounts.XXQ.flag_above"),
        ({"amounts": {"USD": {"review_above": "9", "flag_above": "8"}}}, "rules.amounts.USD.review_above"),
        ({"velocity": [{"name": "v", "window_s": 61, "weight": 0.5, "payments_max": 1}]}, "rules.velocity[0].window_s"),
        ({"velocity": [{"name": "v", "window_s": 60, "weight": 1.5, "payments_max": 1}]}, "rules.velocity[0].weight"),
        ({"velocity": [{"name": "v", "window_s": 60, "weight": 0.5}]}, "rules.velocity[0]"),
        (
            {"velocity": [{"name": "v", "window_s": 60, "weight": 0.5, "sum_max": {"JPY": "0.5"}}]},
            "rules.velocity[0].sum_max.JPY",
        ),
        (
            {"declines": [{"name": "amount", "window_s": 60, "weight": 0.5, "declines_max": 1}]},
            "rules.declines[0].name",
        ),
        ({"block": {"accounts": [""]}}, "rules.block.accounts[0]"),
        ({"block": {"cards": ["x"]}}, "rules.block.cards"),
        ({"thresholds": {"review": 0.9}}, "rules.thresholds.review"),
        ({"weights": {"amount_review": 0.95}}, "rules.weights.amount_review"),
        ([], "rules"),
    ],
)
def test_a_bad_rule_is_refused_with_its_path(document: Any, field: str) -> None:
    """Unknown fields, wrong types, amounts that do not exist and contradictions are refused, each where it stands."""
    with pytest.raises(InvalidInput) as refused:
        read(document)
    assert refused.value.facts["field"] == field


def test_a_document_reads_back_as_it_was_written() -> None:
    """The stored document and the rules are the same thing."""
    rules = relist(Rules(thresholds=Thresholds(flag=0.95)), name="block", field="accounts", value="x", present=True)
    assert read(msgspec.json.decode(msgspec.json.encode(rules))) == rules


def test_limits_may_be_left_out() -> None:
    """An asset may have one of its two limits, or none."""
    prepared = prepare(Rules(amounts={"USD": Limit(flag_above="10")}), version=1)
    assert decide(prepared, facts("10.00"), QUIET).outcome is Outcome.CLEARED
    assert decide(prepared, facts("10.01"), QUIET).outcome is Outcome.FLAGGED
