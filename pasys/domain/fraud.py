"""Whether a payment may be settled: rules as a document, the facts, and the decision that follows from both.

The score is a noisy-or: each rule that a payment triggers has a weight, the chance that it is right, and the score is
the chance that at least one of them is. More reasons never lower it. The thresholds turn it into an outcome. The block
list flags whatever else is true; the allow list clears what is not blocked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from pasys.errors import InvalidAmount, InvalidInput, UnknownAsset
from pasys.money import parse

WINDOWS_S = (60, 600, 3_600, 86_400)  # how far back an account's payments and declines are counted
SCORE_DECIMALS = 6
LIST_MAX = 10_000

# A PSP's refusal that says something about the card or its holder. The others are about the amount, or about ourselves.
CARD_DECLINES = frozenset(
    {
        "declined",
        "insufficient_funds",
        "card_lost_or_stolen",
        "card_expired",
        "card_number_invalid",
        "security_code_wrong",
        "authentication_required",
        "payment_method_invalid",
        "suspected_fraud",
    }
)


class Outcome(StrEnum):
    CLEARED = "cleared"
    REVIEW = "review"
    FLAGGED = "flagged"


# Facts ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known about one payment; `account` is the payer's name."""

    asset: str
    amount_minor: int
    account: str
    payment_method: str | None


@dataclass(frozen=True, slots=True)
class Velocity:
    """What an account has done lately, this payment included: window in seconds -> (count, sum in minor units)."""

    payments: dict[int, tuple[int, int]]
    declines: dict[int, int]


@dataclass(frozen=True, slots=True)
class Scored:
    """A model's opinion, 0 (good) to 1 (fraud), and which model it was."""

    score: float
    model_version: str


# The rules, as they are written --------------------------------------------------------------------------------------

Weight = Annotated[float, msgspec.Meta(ge=0, le=1)]
Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Most = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
Entry = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Entries = Annotated[list[Entry], msgspec.Meta(max_length=LIST_MAX)]
Window = Literal[60, 600, 3_600, 86_400]


class _Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the rules: whatever it does not know is refused."""


class Limit(_Document, frozen=True, kw_only=True):
    """Amounts in major units of one asset; only what is above is suspicious."""

    review_above: str | None = None
    flag_above: str | None = None


class VelocityRule(_Document, frozen=True, kw_only=True):
    """So many payments of one account, or so much money by asset, are the most that is usual in the window."""

    name: Name
    window_s: Window
    weight: Weight
    payments_max: Most | None = None
    sum_max: dict[str, str] = {}


class DeclineRule(_Document, frozen=True, kw_only=True):
    """So many refused cards of one account are the most that is usual in the window: beyond is card testing."""

    name: Name
    window_s: Window
    weight: Weight
    declines_max: Most


class Listed(_Document, frozen=True, kw_only=True):
    """Payers by the name of their account, and payment methods."""

    accounts: Entries = []
    payment_methods: Entries = []


class Weights(_Document, frozen=True, kw_only=True):
    amount_review: Weight = 0.6
    amount_flag: Weight = 0.9
    model: Weight = 1.0


class Thresholds(_Document, frozen=True, kw_only=True):
    """The lowest scores that a person looks at, and that are fraud."""

    review: Weight = 0.5
    flag: Weight = 0.8


def _usual_amounts() -> dict[str, Limit]:
    dollars = Limit(review_above="5000", flag_above="50000")
    return {
        "USD": dollars,
        "EUR": dollars,
        "GBP": dollars,
        "JPY": Limit(review_above="750000", flag_above="7500000"),
        "KWD": Limit(review_above="1500", flag_above="15000"),
    }


def _usual_velocity() -> list[VelocityRule]:
    day = {"USD": "25000", "EUR": "25000", "GBP": "25000", "JPY": "3750000", "KWD": "7500"}
    return [
        VelocityRule(name="payments_a_minute", window_s=60, weight=0.6, payments_max=30),
        VelocityRule(name="payments_an_hour", window_s=3_600, weight=0.6, payments_max=300),
        VelocityRule(name="money_a_day", window_s=86_400, weight=0.6, sum_max=day),
    ]


def _usual_declines() -> list[DeclineRule]:
    return [DeclineRule(name="card_testing", window_s=600, weight=0.9, declines_max=4)]


class Rules(_Document, frozen=True, kw_only=True):
    """The whole document. What is left out has the defaults of the first version."""

    amounts: dict[str, Limit] = msgspec.field(default_factory=_usual_amounts)
    velocity: list[VelocityRule] = msgspec.field(default_factory=_usual_velocity)
    declines: list[DeclineRule] = msgspec.field(default_factory=_usual_declines)
    allow: Listed = Listed()
    block: Listed = Listed()
    weights: Weights = Weights()
    thresholds: Thresholds = Thresholds()


# Reading them --------------------------------------------------------------------------------------------------------

BUILT_IN = frozenset({"amount", "model", "block_list", "allow_list", "policy", "reviewer"})
_AT = re.compile(r"^(?P<reason>.*?)(?: - at `\$(?P<path>.*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"^Object contains unknown field `(.*)`$", re.DOTALL)
T = TypeVar("T")


def read(document: Any) -> Rules:
    """The rules of a document of plain values. Raises InvalidInput, which names the field by its path."""
    if isinstance(document, dict) and isinstance(document.get("amounts"), dict):
        for code, limit in document["amounts"].items():
            _convert(limit, Limit, f"rules.amounts.{code}")
    rules = _convert(document, Rules, "rules")
    prepare(rules, version=0)
    return rules


def _convert(value: Any, kind: type[T], where: str) -> T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        found = _AT.match(str(error))
        assert found is not None, "the pattern matches every text"
        field, reason = where + (found["path"] or ""), found["reason"]
        if unknown := _UNKNOWN.match(reason):
            field, reason = f"{field}.{unknown[1]}", "there is no such field"
        raise InvalidInput(field=field, reason=reason) from None


# Ready to judge ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Prepared:
    """One version of the rules, with its amounts in minor units."""

    version: int
    rules: Rules
    amounts: dict[str, tuple[int | None, int | None]]
    sums: list[dict[str, int]]  # beside rules.velocity
    blocked: frozenset[str]
    blocked_methods: frozenset[str]
    allowed: frozenset[str]
    allowed_methods: frozenset[str]


def prepare(rules: Rules, *, version: int) -> Prepared:
    """Raises InvalidInput for rules that contradict themselves, or whose amounts do not exist in their asset."""
    if rules.thresholds.review > rules.thresholds.flag:
        raise InvalidInput(field="rules.thresholds.review", reason="it is above the threshold that flags")
    if rules.weights.amount_review > rules.weights.amount_flag:
        raise InvalidInput(field="rules.weights.amount_review", reason="it is above amount_flag: more must weigh more")
    _check_names(rules)
    return Prepared(
        version=version,
        rules=rules,
        amounts={code: _limits(limit, code) for code, limit in rules.amounts.items()},
        sums=[
            {code: _minor(text, code, f"velocity[{i}].sum_max.{code}") for code, text in rule.sum_max.items()}
            for i, rule in enumerate(rules.velocity)
        ],
        blocked=frozenset(rules.block.accounts),
        blocked_methods=frozenset(rules.block.payment_methods),
        allowed=frozenset(rules.allow.accounts),
        allowed_methods=frozenset(rules.allow.payment_methods),
    )


def _check_names(rules: Rules) -> None:
    seen = set(BUILT_IN)
    for part, named in (("velocity", rules.velocity), ("declines", rules.declines)):
        for i, rule in enumerate(named):
            if rule.name in seen:
                raise InvalidInput(field=f"rules.{part}[{i}].name", reason=f"there is another rule {rule.name}")
            seen.add(rule.name)
    for i, rule in enumerate(rules.velocity):
        if rule.payments_max is None and not rule.sum_max:
            raise InvalidInput(field=f"rules.velocity[{i}]", reason="it needs payments_max, sum_max, or both")


def _limits(limit: Limit, code: str) -> tuple[int | None, int | None]:
    review, flag = (
        None if text is None else _minor(text, code, f"amounts.{code}.{field}")
        for field, text in (("review_above", limit.review_above), ("flag_above", limit.flag_above))
    )
    if review is not None and flag is not None and review > flag:
        raise InvalidInput(field=f"rules.amounts.{code}.review_above", reason="it is above flag_above")
    return review, flag


def _minor(text: str, code: str, path: str) -> int:
    try:
        return parse(text, code).minor
    except (InvalidAmount, UnknownAsset) as no:
        raise InvalidInput(field=f"rules.{path}", reason=str(no)) from None


def relist(rules: Rules, *, name: Literal["allow", "block"], field: str, value: str, present: bool) -> Rules:
    """The rules with a value added to one of their lists, or removed from it."""
    listed: Listed = getattr(rules, name)
    entries = [entry for entry in getattr(listed, field) if entry != value] + [value] * present
    if set(entries) == set(getattr(listed, field)):
        return rules
    return msgspec.structs.replace(rules, **{name: msgspec.structs.replace(listed, **{field: entries})})


# Deciding ------------------------------------------------------------------------------------------------------------


class Reason(msgspec.Struct, frozen=True):
    """A rule that spoke, how much it weighs, and the facts that it spoke about."""

    rule: str
    weight: float
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Decision:
    outcome: Outcome
    score: float
    reasons: list[Reason]


def decide(prepared: Prepared, facts: Facts, velocity: Velocity, scored: Scored | None = None) -> Decision:
    """What becomes of a payment: the same facts under the same rules always lead to the same decision."""
    if spoken := _listed("block_list", 1.0, facts, prepared.blocked, prepared.blocked_methods):
        return Decision(Outcome.FLAGGED, 1.0, [spoken])
    if spoken := _listed("allow_list", 0.0, facts, prepared.allowed, prepared.allowed_methods):
        return Decision(Outcome.CLEARED, 0.0, [spoken])
    reasons = [
        *_amount(prepared, facts),
        *_velocity(prepared, facts, velocity),
        *_declines(prepared.rules, velocity),
        *_model(prepared.rules, scored),
    ]
    score = combine(reason.weight for reason in reasons)
    return Decision(outcome_of(prepared.rules.thresholds, score), score, reasons)


def combine(weights: Iterable[float]) -> float:
    """The chance that at least one of independent reasons is right, 0 to 1."""
    good = 1.0
    for weight in weights:
        good *= 1.0 - weight
    return round(1.0 - good, SCORE_DECIMALS)


def outcome_of(thresholds: Thresholds, score: float) -> Outcome:
    if score >= thresholds.flag:
        return Outcome.FLAGGED
    return Outcome.REVIEW if score >= thresholds.review else Outcome.CLEARED


def _listed(rule: str, weight: float, facts: Facts, names: frozenset[str], methods: frozenset[str]) -> Reason | None:
    if facts.account in names:
        return Reason(rule, weight, {"account": facts.account})
    if facts.payment_method in methods:
        return Reason(rule, weight, {"payment_method": facts.payment_method})
    return None


def _amount(prepared: Prepared, facts: Facts) -> Iterator[Reason]:
    review, flag = prepared.amounts.get(facts.asset, (None, None))
    if flag is not None and facts.amount_minor > flag:
        weight, above = prepared.rules.weights.amount_flag, flag
    elif review is not None and facts.amount_minor > review:
        weight, above = prepared.rules.weights.amount_review, review
    else:
        return
    yield Reason("amount", weight, {"asset": facts.asset, "amount_minor": facts.amount_minor, "above_minor": above})


def _velocity(prepared: Prepared, facts: Facts, velocity: Velocity) -> Iterator[Reason]:
    for rule, sums in zip(prepared.rules.velocity, prepared.sums, strict=True):
        count, total = velocity.payments[rule.window_s]
        most = sums.get(facts.asset)
        spoken: dict[str, Any] = {}
        if rule.payments_max is not None and count > rule.payments_max:
            spoken |= {"payments": count, "payments_max": rule.payments_max}
        if most is not None and total > most:
            spoken |= {"asset": facts.asset, "sum_minor": total, "sum_max_minor": most}
        if spoken:
            yield Reason(rule.name, rule.weight, {"window_s": rule.window_s, **spoken})


def _declines(rules: Rules, velocity: Velocity) -> Iterator[Reason]:
    for rule in rules.declines:
        count = velocity.declines[rule.window_s]
        if count > rule.declines_max:
            facts = {"window_s": rule.window_s, "declines": count, "declines_max": rule.declines_max}
            yield Reason(rule.name, rule.weight, facts)


def _model(rules: Rules, scored: Scored | None) -> Iterator[Reason]:
    if scored is not None and scored.score * rules.weights.model > 0:
        facts = {"score": scored.score, "model_version": scored.model_version}
        yield Reason("model", rules.weights.model * scored.score, facts)
