"""A call is executed once: parameters checked, function run, rows, kept answer and journal written as one group."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from typing import Any, NamedTuple

from pasys.simulator import (
    balance,
    charges,
    customers,
    disputes,
    events,
    journal,
    payment_intents,
    payment_methods,
    payouts,
    refunds,
    webhook_endpoints,
)
from pasys.simulator.deferred import Deferred
from pasys.simulator.delivery import Delivery
from pasys.simulator.expansion import expand
from pasys.simulator.faults import Faults, Plan
from pasys.simulator.fields import checked
from pasys.simulator.idempotency import Idempotency, Kept
from pasys.simulator.operations import Call, Operation, Routes
from pasys.simulator.refusal import Refusal
from pasys.simulator.store import Object, Store, encode
from pasys.simulator.unit import Settings, Unit

ROUTES = Routes(
    [
        operation
        for noun in (
            balance,
            charges,
            customers,
            disputes,
            events,
            payment_intents,
            payment_methods,
            payouts,
            refunds,
            webhook_endpoints,
        )
        for operation in noun.OPERATIONS
    ]
)

log = logging.getLogger("pasys.simulator")


class Asked(NamedTuple):
    """A call as it arrived, with its route found and its parameters unchecked."""

    operation: Operation
    object_id: str
    path: str
    parameters: dict[str, Any]
    key: str | None
    fingerprint: bytes


class Answer(NamedTuple):
    """What goes back over the wire; `replay_of` is the request that was answered first."""

    status: int
    body: bytes
    request_id: str
    replay_of: str | None = None


class Executor:
    """Everything that may change the books goes through here."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store = store
        self.settings = settings
        self.faults = Faults(store)
        self.idempotency = Idempotency(store)
        self.delivery = Delivery(store, self.faults)
        self.deferred = Deferred(store, self._settle_refund)

    def unit(self, key: str | None = None) -> Unit:
        return Unit(self.store, self.faults, self.settings, self.delivery.wanted, key)

    def execute(self, asked: Asked, plan: Plan) -> Answer:
        """The answer, not yet committed: it is released after `store.settled()`."""
        try:
            return self._replay(asked, plan) or self._run(asked, plan)
        except Refusal as refusal:
            # The key belongs to another request.
            answer = Answer(refusal.status, encode(refusal.body), self.unit().request_id)
            self._journal(asked, plan, "refused", answer, {})
            return answer

    def run(self, function: Callable[[Unit], Object]) -> Object:
        """Runs what the control door asks, outside of any call; raises Refusal."""
        unit = self.unit()
        try:
            result = function(unit)
        except Refusal as refusal:
            if refusal.has_effects:
                self.finish(unit)
            raise
        self.finish(unit)
        return result

    def finish(self, unit: Unit) -> None:
        """Writes what a unit holds; from here on it will be committed, or the whole group fails."""
        try:
            announced = unit.flush()
            if unit.endpoints_changed:
                self.delivery.reload()
            self.delivery.enqueue(announced)
        except sqlite3.Error as error:
            log.exception("a call could not be written; its group is undone")
            self.store.abort(error)
            raise
        if unit.deferred:
            self.store.after_commit(self.deferred.wake)

    def _replay(self, asked: Asked, plan: Plan) -> Answer | None:
        if asked.key is None:
            return None
        kept = self.idempotency.find(asked.key, asked.fingerprint)
        if kept is None:
            return None
        answer = Answer(kept.status, kept.body, self.unit().request_id, kept.request_id)
        self._journal(asked, plan, "replayed", answer, {})
        return answer

    def _run(self, asked: Asked, plan: Plan) -> Answer:
        unit = self.unit(asked.key)
        outcome = "executed"
        try:
            parameters = checked(asked.parameters, asked.operation.fields, asked.operation.required)
            result = asked.operation.function(unit, Call(asked.path, asked.object_id, parameters))
            shown = expand(unit, result, parameters["expand"]) if "expand" in parameters else result
            status = 200
        except Refusal as refusal:
            status, shown = refusal.status, refusal.body
            outcome = "executed" if refusal.has_effects else "refused"
        answer = Answer(status, encode(shown), unit.request_id)
        if outcome == "executed" and asked.operation.method != "GET":
            self.finish(unit)
        if asked.key is not None:
            self.idempotency.keep(asked.key, asked.fingerprint, self._kept(answer, plan))
        self._journal(asked, plan, outcome, answer, shown)
        return answer

    def _kept(self, answer: Answer, plan: Plan) -> Kept:
        """A 500 after the effect is Stripe's own and is kept; 502 to 504 come from in front of it and are not."""
        rule = plan.after
        if rule is not None and rule.kind == "error_after" and rule.status == 500 and answer.status in (200, 402):
            return Kept(500, encode(error_body(500)), answer.request_id)
        return Kept(answer.status, answer.body, answer.request_id)

    def _journal(self, asked: Asked, plan: Plan, outcome: str, answer: Answer, shown: Object) -> None:
        about = shown.get("error", {}).get("payment_intent", shown) if "error" in shown else shown
        rule = plan.rule
        journal.record(
            self.store,
            asked.operation.name,
            asked.path,
            asked.key,
            outcome,
            answer.status,
            fault=rule.kind if rule else "delay" if plan.delay_s else None,
            object_id=about.get("id") or asked.object_id or None,
            metadata=about.get("metadata") or given_metadata(asked),
        )

    def journal_fault(self, asked: Asked, plan: Plan, status: int | None) -> None:
        assert plan.rule is not None
        journal.record(
            self.store,
            asked.operation.name,
            asked.path,
            asked.key,
            "faulted",
            status,
            fault=plan.rule.kind,
            object_id=asked.object_id or None,
            metadata=given_metadata(asked),
        )

    def _settle_refund(self, refund_id: str) -> None:
        unit = self.unit()
        refunds.settle(unit, refund_id)
        self.finish(unit)

    def prune(self) -> None:
        self.idempotency.prune()
        journal.prune(self.store)


def given_metadata(asked: Asked) -> dict[str, str]:
    given = asked.parameters.get("metadata")
    return {key: value for key, value in given.items() if isinstance(value, str)} if isinstance(given, dict) else {}


def error_body(status: int) -> Object:
    if status == 429:
        return {"error": {"type": "invalid_request_error", "code": "rate_limit", "message": "Too many requests."}}
    return {"error": {"type": "api_error", "message": "An unknown error occurred."}}
