"""The door for tests below /_simulator: faults, the journal of calls, and what only a bank or a person does."""

from __future__ import annotations

from typing import Any

import msgspec

from pasys.simulator import form, journal, payment_intents, payouts
from pasys.simulator.currency import currency
from pasys.simulator.events import TYPES
from pasys.simulator.execution import ROUTES, Answer, Executor
from pasys.simulator.refusal import Refusal, invalid, unrecognized_url
from pasys.simulator.store import Object, encode


class Control:
    """Answers in JSON, takes JSON."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    async def answer(self, method: str, path: str, query: bytes, body: bytes) -> Answer:
        """The answer, after what it changed is committed; raises Refusal."""
        parts = path.removeprefix("/_simulator/").split("/")
        match (method, *parts):
            case ("GET" | "PUT" | "POST" | "DELETE", "faults"):
                result = self._faults(method, body)
            case ("DELETE", "faults", rule_id):
                result = self._rules(self._executor.faults.remove(rule_id))
            case ("GET", "calls"):
                result = journal.listing(self._executor.store, form.nest(form.decode(query)))
            case ("GET", "webhooks"):
                result = {"undelivered": self._executor.delivery.undelivered()}
            case ("POST", "payouts"):
                result = self._pay_all(body)
            case ("POST", "payment_intents", intent_id, "authenticate"):
                result = self._authenticate(intent_id, body)
            case ("DELETE", "data"):
                result = self._empty()
            case _:
                raise unrecognized_url(method, path)
        await self._executor.store.settled()
        return Answer(200, encode(result), self._executor.unit().request_id)

    def _faults(self, method: str, body: bytes) -> Object:
        faults = self._executor.faults
        if method == "GET":
            return self._rules(faults.listing())
        if method == "DELETE":
            return self._rules(faults.remove(None))
        return self._rules(faults.add(body, ROUTES.names, TYPES, replace=method == "PUT"))

    @staticmethod
    def _rules(rules: list[Any]) -> Object:
        return {"rules": rules}

    def _pay_all(self, body: bytes) -> Object:
        code = currency("currency", _json(body).get("currency"))
        return self._executor.run(lambda unit: payouts.pay_all(unit, code))

    def _authenticate(self, intent_id: str, body: bytes) -> Object:
        outcome = _json(body).get("outcome", "succeeded")
        if outcome not in ("succeeded", "failed"):
            raise invalid("outcome must be succeeded or failed", param="outcome")
        try:
            return self._executor.run(
                lambda unit: payment_intents.authenticate(unit, intent_id, succeeded=outcome == "succeeded")
            )
        except Refusal as refusal:
            if not refusal.has_effects:
                raise
            return refusal.body["error"]["payment_intent"]

    def _empty(self) -> Object:
        """Everything but the webhook endpoints, which are how the simulator was set up."""
        executor = self._executor
        executor.faults.remove(None)
        executor.store.empty()
        executor.delivery.clear()
        return {"deleted": True}


def _json(body: bytes) -> Object:
    try:
        return msgspec.json.decode(body or b"{}", type=dict[str, Any])
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise invalid(f"Invalid JSON: {error}") from None
