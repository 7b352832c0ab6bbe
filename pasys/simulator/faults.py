"""A fault is a rule that says what goes wrong, at which operation, how often; it strikes the same way every time.

Rule n of a seed strikes or spares by a hash of the seed and its own count of matching calls (for statement lines: of
the line's id), so a run can be repeated. Rules and counts are rows, and survive `kill -9`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Annotated, Any, Literal, get_args

import msgspec

from pasys.simulator.refusal import Refusal
from pasys.simulator.store import Store, encode

RULES_MAX = 200
LINES_MAX = 10_000
DELAY_MAX_S = 3600
STALL_DEFAULT_S = 60.0

Kind = Literal[
    "delay",
    "timeout_before",
    "timeout_after",
    "error_before",
    "error_after",
    "disconnect_before",
    "disconnect_after",
    "webhook_lost",
    "webhook_duplicated",
    "webhook_delayed",
    "statement_amount",
    "statement_missing",
    "statement_duplicate",
]
ERROR_STATUSES = (429, 500, 502, 503, 504)


class Rule(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One rule as it is given, with what it has done so far.

    `operation` is a name such as "refunds.create", a family such as "refunds.*", or "*"; for webhooks it is an event's
    type, for statements a balance transaction's type. `delay_s` is the delay, or how long a timeout stays silent.
    """

    kind: Kind
    id: str = ""
    operation: str = "*"
    rate: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
    seed: int = 0
    times: Annotated[int, msgspec.Meta(ge=0)] | None = None
    delay_s: Annotated[float, msgspec.Meta(ge=0, le=DELAY_MAX_S)] | None = None
    status: int = 500
    metadata: dict[str, str] = {}
    amount_delta: int = 1
    # How many matching calls were seen, how many were struck, and which statement lines.
    seen: int = 0
    struck: int = 0
    lines: list[str] = []


class Plan(msgspec.Struct):
    """What goes wrong with one call: it waits, and then one rule at most strikes before or after the effect."""

    delay_s: float = 0.0
    rule: Rule | None = None

    @property
    def before(self) -> Rule | None:
        return self.rule if self.rule is not None and self.rule.kind.endswith("_before") else None

    @property
    def after(self) -> Rule | None:
        return self.rule if self.rule is not None and self.rule.kind.endswith("_after") else None


class Faults:
    """The rules in force, in the order they were given."""

    def __init__(self, store: Store) -> None:
        self._store = store
        rows = store.rows("SELECT body FROM fault ORDER BY seq")
        self._rules: list[Rule] = [msgspec.json.decode(body, type=Rule) for (body,) in rows]
        self._sort()

    # -- the rules ---------------------------------------------------------------------------------------------------

    def listing(self) -> list[Rule]:
        return list(self._rules)

    def add(self, raw: bytes, operations: Iterable[str], event_types: Iterable[str], *, replace: bool) -> list[Rule]:
        """The rules after adding those in the JSON; raises Refusal and changes nothing if one of them is wrong."""
        rules = _parse(raw)
        for rule in rules:
            _check(rule, set(operations), set(event_types))
        kept = [] if replace else self._rules
        if len(kept) + len(rules) > RULES_MAX:
            raise _wrong(f"At most {RULES_MAX} rules can be in force.")
        if replace:
            self._store.write("DELETE FROM fault")
        for rule in rules:
            rule.id, rule.seen, rule.struck, rule.lines = self._store.new_id("fault"), 0, 0, []
            self._store.write("INSERT INTO fault (id, body) VALUES (?, ?)", (rule.id, encode(rule)))
        self._rules = [*kept, *rules]
        self._sort()
        return self.listing()

    def remove(self, rule_id: str | None) -> list[Rule]:
        """Removes one rule or all; raises Refusal (404) for one that is not in force."""
        if rule_id is not None and not any(rule.id == rule_id for rule in self._rules):
            raise Refusal(404, "invalid_request_error", "resource_missing", f"No such fault: '{rule_id}'")
        for rule in self._rules:
            if rule_id in (None, rule.id):
                self._store.write("DELETE FROM fault WHERE id = ?", (rule.id,))
        self._rules = [rule for rule in self._rules if rule_id not in (None, rule.id)]
        self._sort()
        return self.listing()

    def _sort(self) -> None:
        self._of_calls = [rule for rule in self._rules if not rule.kind.startswith(("webhook_", "statement_"))]
        self._of_webhooks = [rule for rule in self._rules if rule.kind.startswith("webhook_")]
        self._of_statements = [rule for rule in self._rules if rule.kind.startswith("statement_")]

    # -- striking ----------------------------------------------------------------------------------------------------

    @property
    def on_calls(self) -> bool:
        return bool(self._of_calls)

    @property
    def on_statements(self) -> bool:
        return bool(self._of_statements)

    def plan(self, operation: str, metadata: dict[str, str]) -> Plan:
        """What goes wrong with this call. Delays add up; of the others the first that strikes is taken."""
        plan = Plan()
        for rule in self._of_calls:
            if rule.kind != "delay" and plan.rule is not None:
                continue
            if _matches(rule, operation, metadata) and self._strikes(rule):
                if rule.kind == "delay":
                    plan.delay_s += rule.delay_s or 0.0
                else:
                    plan.rule = rule
        return plan

    def webhooks(self, event_type: str, metadata: dict[str, str]) -> list[float]:
        """The delays of the deliveries of one event: none if it is lost, two if it is doubled."""
        delays = [0.0]
        for rule in self._of_webhooks:
            if _matches(rule, event_type, metadata) and self._strikes(rule):
                if rule.kind == "webhook_lost":
                    return []
                if rule.kind == "webhook_duplicated":
                    delays.append(delays[0])
                else:
                    delays = [delay + (rule.delay_s or 0.0) for delay in delays]
        return delays

    def statement(self, line: dict[str, Any], metadata: dict[str, str]) -> list[dict[str, Any]]:
        """The lines shown for one balance transaction; the balance transaction itself stays as it is."""
        lines = [line]
        for rule in self._of_statements:
            if not _matches(rule, line["type"], metadata) or not self._strikes_line(rule, line["id"]):
                continue
            if rule.kind == "statement_missing":
                return []
            if rule.kind == "statement_duplicate":
                lines = [*lines, *lines]
            else:
                wrong = line["amount"] + rule.amount_delta
                lines = [{**line, "amount": wrong, "net": wrong - line["fee"]} for _ in lines]
        return lines

    def _strikes(self, rule: Rule) -> bool:
        if rule.times is not None and rule.struck >= rule.times:
            return False
        rule.seen += 1
        strikes = _draw(rule.seed, str(rule.seen)) < rule.rate
        rule.struck += strikes
        self._keep(rule)
        return strikes

    def _strikes_line(self, rule: Rule, line_id: str) -> bool:
        if _draw(rule.seed, line_id) >= rule.rate:
            return False
        if rule.times is None or line_id in rule.lines:
            return True
        if len(rule.lines) >= min(rule.times, LINES_MAX):
            return False
        # A limited rule remembers its lines, or the same page would show other faults when read again.
        rule.lines = [*rule.lines, line_id]
        rule.struck += 1
        self._keep(rule)
        return True

    def _keep(self, rule: Rule) -> None:
        self._store.write("UPDATE fault SET body = ? WHERE id = ?", (encode(rule), rule.id))


def _draw(seed: int, what: str) -> float:
    digest = hashlib.blake2s(f"{seed}:{what}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big") / 2**56


def _matches(rule: Rule, operation: str, metadata: dict[str, str]) -> bool:
    if rule.operation not in ("*", operation):
        family = rule.operation.removesuffix("*")
        if family == rule.operation or not operation.startswith(family):
            return False
    return all(metadata.get(key) == value for key, value in rule.metadata.items())


def _parse(raw: bytes) -> list[Rule]:
    """One rule, a list of rules, or {"rules": [...]}."""
    try:
        body = msgspec.json.decode(raw)
        if isinstance(body, dict) and "rules" in body:
            body = body["rules"]
        return msgspec.convert(body if isinstance(body, list) else [body], list[Rule])
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise _wrong(f"Invalid fault rule: {error}") from None


def _check(rule: Rule, operations: set[str], event_types: set[str]) -> None:
    if rule.kind.startswith("webhook_"):
        known, noun = event_types, "event type"
    elif rule.kind.startswith("statement_"):
        known, noun = {"charge", "refund", "refund_failure", "adjustment", "payout"}, "balance transaction type"
    else:
        known, noun = operations, "operation"
    family = rule.operation.removesuffix("*")
    in_family = family != rule.operation and any(name.startswith(family) for name in known)
    if rule.operation not in known and not in_family:
        raise _wrong(f"Invalid fault rule: '{rule.operation}' is no {noun}; known are *, {', '.join(sorted(known))}.")
    if rule.kind in ("delay", "webhook_delayed") and rule.delay_s is None:
        raise _wrong(f"Invalid fault rule: {rule.kind} needs delay_s.")
    if rule.kind.startswith("error_") and rule.status not in ERROR_STATUSES:
        raise _wrong(f"Invalid fault rule: status must be one of {', '.join(map(str, ERROR_STATUSES))}.")
    if rule.kind == "statement_amount" and rule.amount_delta == 0:
        raise _wrong("Invalid fault rule: amount_delta must not be 0.")


def _wrong(message: str) -> Refusal:
    return Refusal(400, "invalid_request_error", "fault_invalid", f"{message} Kinds: {', '.join(get_args(Kind))}.")
