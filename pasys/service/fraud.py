"""Every verdict is a row that nobody can change: given by the rules, by policy where they are late, or by a person.

A verdict is given once. The rules come back to a payment only where policy was faster than they, and then only to say
that it was fraud after all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

import msgspec

from pasys import ids
from pasys.db import Unit, queries
from pasys.domain.fraud import Decision, Facts, Outcome, Prepared, Reason, Scored, Velocity, decide
from pasys.domain.transaction import BOOK, Status
from pasys.errors import (
    DecisionNotFound,
    FlagNotPossible,
    IllegalTransition,
    InvalidInput,
    ReviewNotFound,
    TransactionNotFound,
)
from pasys.events import FraudCleared, FraudFlagged, FraudReview, TransactionCreated
from pasys.service.fraud_rules import ensure_rules, rules_of

SQL = queries("fraud")
POLICY = "policy"  # who decides when the rules are late
OVERDUE_MAX = 500
REVIEWS_MAX = 1_000
Verdict = FraudCleared | FraudReview | FraudFlagged
_EVENTS: dict[Outcome, type[FraudCleared] | type[FraudReview] | type[FraudFlagged]] = {
    Outcome.CLEARED: FraudCleared,
    Outcome.REVIEW: FraudReview,
    Outcome.FLAGGED: FraudFlagged,
}
_json = msgspec.json.Encoder()
_number = lru_cache(65_536)(ids.account_number)  # the same accounts come again and again


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """A verdict as it was given. `signals` are the facts that the rules and the model saw."""

    id: str
    transaction_id: str
    outcome: str
    score: float
    reasons: list[dict[str, Any]]
    signals: dict[str, Any]
    rules_version: int
    model_version: str | None
    decided_by: str
    at: datetime


@dataclass(frozen=True, slots=True)
class ReviewRow:
    """A payment that waits for a person, and why."""

    transaction_id: str
    kind: str
    asset: str
    amount_minor: int
    account: str
    payment_method: str | None
    decision_id: str
    score: float
    reasons: list[dict[str, Any]]
    rules_version: int
    since: datetime


@dataclass(frozen=True, slots=True)
class _Given:
    """A verdict about to be written."""

    transaction_id: str
    asset: str
    decision: Decision
    signals: Any
    model_version: str | None
    decision_id: str

    @property
    def event(self) -> type[FraudCleared] | type[FraudReview] | type[FraudFlagged]:
        return _EVENTS[self.decision.outcome]


# Judging -------------------------------------------------------------------------------------------------------------


async def judge(
    unit: Unit,
    events: Sequence[TransactionCreated],
    velocities: Mapping[str, Velocity],
    scores: Mapping[str, Scored],
) -> list[Verdict]:
    """Judge payments by the newest rules; the verdicts that were recorded. What was cancelled meanwhile gets none."""
    waiting = {
        row.id: row
        for row in await unit.rows(
            SQL["undecided"],
            ids=[event.transaction_id for event in events],
            accounts=[_number(event.account_id) for event in events],
            policy=POLICY,
        )
    }
    if not waiting:
        return []
    rules = await rules_of(unit, next(iter(waiting.values())).rules_version)
    given = []
    for event in events:
        row = waiting.get(event.transaction_id)
        if row is not None:
            velocity, scored = velocities[event.transaction_id], scores.get(event.transaction_id)
            verdict = _judge_one(rules, event, row.account, velocity, scored)
            if not row.late or verdict.decision.outcome is Outcome.FLAGGED:
                given.append(verdict)
    return await _record(unit, given, rules_version=rules.version, decided_by=unit.actor)


def _judge_one(
    rules: Prepared, event: TransactionCreated, account: str, velocity: Velocity, scored: Scored | None
) -> _Given:
    facts = Facts(event.asset, event.amount_minor, account, event.payment_method)
    return _Given(
        event.transaction_id,
        event.asset,
        decide(rules, facts, velocity, scored),
        {"facts": facts, "payments": velocity.payments, "declines": velocity.declines, "model": scored},
        scored.model_version if scored else None,
        ids.new("fd"),
    )


async def _record(unit: Unit, given: Sequence[_Given], *, rules_version: int, decided_by: str) -> list[Verdict]:
    """Write verdicts; those that were written, as events."""
    if not given:
        return []
    rows = await unit.rows(
        SQL["record"],
        ids=[g.decision_id for g in given],
        transactions=[g.transaction_id for g in given],
        outcomes=[g.decision.outcome.value for g in given],
        scores=[g.decision.score for g in given],
        reasons=[_json.encode(g.decision.reasons).decode() for g in given],
        signals=[_json.encode(g.signals).decode() for g in given],
        models=[g.model_version for g in given],
        reviews=[g.transaction_id for g in given if g.decision.outcome is Outcome.REVIEW],
        rules_version=rules_version,
        decided_by=decided_by,
        now=unit.now,
    )
    written = {row.transaction_id for row in rows}
    return [
        g.event(
            transaction_id=g.transaction_id,
            decision_id=g.decision_id,
            score=g.decision.score,
            reasons=[reason.rule for reason in g.decision.reasons],
            rules_version=rules_version,
            model_version=g.model_version,
            asset=g.asset,
        )
        for g in given
        if g.transaction_id in written
    ]


async def overdue(unit: Unit) -> list[FraudCleared | FraudReview]:
    """What policy says of payments that nobody has judged in time: nothing, cleared, or a person has to look."""
    policy = unit.settings.fraud_when_down
    if policy == "hold":
        return []
    outcome = Outcome.CLEARED if policy == "allow" else Outcome.REVIEW
    before = unit.now - timedelta(seconds=unit.settings.fraud_grace_s)
    rows = await unit.rows(SQL["overdue"], before=before, limit=OVERDUE_MAX)
    reason = Reason(f"policy_{policy}", 0.0, {"grace_s": unit.settings.fraud_grace_s})
    given = [_Given(row.id, row.asset, Decision(outcome, 0.0, [reason]), {}, None, ids.new("fd")) for row in rows]
    verdicts = await _record(unit, given, rules_version=await ensure_rules(unit), decided_by=POLICY)
    return [verdict for verdict in verdicts if not isinstance(verdict, FraudFlagged)]


# People --------------------------------------------------------------------------------------------------------------


async def reviews(unit: Unit, limit: int = 50) -> list[ReviewRow]:
    """The payments that wait for a person, longest first."""
    if not 1 <= limit <= REVIEWS_MAX:
        raise InvalidInput(field="limit", reason=f"it is 1 to {REVIEWS_MAX}")
    return [ReviewRow(*row) for row in await unit.rows(SQL["reviews"], limit=limit)]


async def approve(unit: Unit, transaction_id: str, reason: str) -> DecisionRow:
    """A person lets a payment through. Raises ReviewNotFound, IllegalTransition."""
    return await _review(unit, transaction_id, Outcome.CLEARED, reason)


async def reject(unit: Unit, transaction_id: str, reason: str) -> DecisionRow:
    """A person says that a payment is fraud. Raises ReviewNotFound, IllegalTransition."""
    return await _review(unit, transaction_id, Outcome.FLAGGED, reason)


async def _review(unit: Unit, transaction_id: str, outcome: Outcome, reason: str) -> DecisionRow:
    row = await _locked(unit, transaction_id)
    if row is None or row.outcome != Outcome.REVIEW:
        raise ReviewNotFound(transaction_id=transaction_id)
    decision = Decision(outcome, row.score, _said(row, reason))
    if await unit.row(SQL["close_review"], id=transaction_id) is None:
        raise IllegalTransition(entity_id=transaction_id, status=row.status, wanted=outcome.value)
    return await _decide_by_hand(unit, row, decision)


async def flag(unit: Unit, transaction_id: str, reason: str) -> DecisionRow:
    """A person says that a payment is fraud, settled or not. Raises TransactionNotFound, FlagNotPossible,
    IllegalTransition."""
    row = await _locked(unit, transaction_id)
    if row is None:
        raise TransactionNotFound(transaction_id=transaction_id)
    if row.rail == BOOK:
        raise FlagNotPossible(transaction_id=transaction_id)
    if row.outcome == Outcome.FLAGGED:
        raise IllegalTransition(entity_id=transaction_id, status=Outcome.FLAGGED.value, wanted=Outcome.FLAGGED.value)
    if row.status not in (Status.PENDING, Status.SUCCEEDED, Status.REFUNDING):
        raise IllegalTransition(entity_id=transaction_id, status=row.status, wanted=Status.FRAUD.value)
    decision = Decision(Outcome.FLAGGED, 1.0, _said(row, reason))
    if row.review:
        await unit.row(SQL["close_review"], id=transaction_id)
    return await _decide_by_hand(unit, row, decision)


async def _locked(unit: Unit, transaction_id: str) -> Any | None:
    """A transaction with the last verdict about it, whoever gave it while we waited for the lock."""
    await unit.row(SQL["lock"], id=transaction_id)
    return await unit.row(SQL["judged"], id=transaction_id)


def _said(row: Any, reason: str) -> list[Reason]:
    if not reason.strip():
        raise InvalidInput(field="reason", reason="say why")
    return [Reason("reviewer", 0.0, {"reason": reason, "decision_id": row.decision_id})]


async def _decide_by_hand(unit: Unit, row: Any, decision: Decision) -> DecisionRow:
    version = row.rules_version or await ensure_rules(unit)
    given = _Given(row.id, row.asset, decision, {}, row.model_version, ids.new("fd"))
    unit.emit(*await _record(unit, [given], rules_version=version, decided_by=unit.actor))
    return DecisionRow(
        id=given.decision_id,
        transaction_id=row.id,
        outcome=decision.outcome.value,
        score=decision.score,
        reasons=[msgspec.to_builtins(reason) for reason in decision.reasons],
        signals={},
        rules_version=version,
        model_version=row.model_version,
        decided_by=unit.actor,
        at=unit.now,
    )


async def explain(unit: Unit, transaction_id: str) -> list[DecisionRow]:
    """Every verdict about a transaction, first to last. Raises TransactionNotFound, DecisionNotFound."""
    rows = await unit.rows(
        "select id, transaction_id, outcome, score, reasons, signals, rules_version, model_version, decided_by, at"
        " from fraud_decision where transaction_id = %(id)s order by id",
        id=transaction_id,
    )
    if not rows:
        known = await unit.value("select id from transaction where id = %(id)s", id=transaction_id)
        raise (DecisionNotFound if known else TransactionNotFound)(transaction_id=transaction_id)
    return [DecisionRow(*row) for row in rows]
