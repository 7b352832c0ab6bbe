"""An event is what happened to an object, with the object as it was then; webhooks carry events.

A few noisy types (`unit.ONLY_IF_WANTED`) are recorded only while a webhook endpoint wants them.
"""

from __future__ import annotations

from pasys.simulator import listing
from pasys.simulator.fields import EXPAND, PAGE, strings, text
from pasys.simulator.operations import Call, Operation
from pasys.simulator.refusal import invalid
from pasys.simulator.store import Object
from pasys.simulator.unit import Unit

_NAMES = """
    charge.captured charge.dispute.closed charge.dispute.created charge.dispute.funds_reinstated
    charge.dispute.funds_withdrawn charge.dispute.updated charge.failed charge.refund.updated charge.refunded
    charge.succeeded charge.updated customer.created customer.deleted customer.updated
    payment_intent.amount_capturable_updated payment_intent.canceled payment_intent.created
    payment_intent.payment_failed payment_intent.requires_action payment_intent.succeeded
    payment_method.attached payment_method.detached payment_method.updated payout.created payout.paid payout.updated
    refund.created refund.failed refund.updated
"""
TYPES = frozenset(_NAMES.split())


def _list(unit: Unit, call: Call) -> Object:
    types = call.asked.get("types")
    if types and call.asked.get("type"):
        raise invalid("You may pass either type or types, but not both.", param="types")
    return listing.page(unit.store, "event", call.asked, call.path, types=types)


def _retrieve(unit: Unit, call: Call) -> Object:
    return unit.load("event", call.id)


OPERATIONS = [
    Operation("events.list", "GET", "events", _list, {**PAGE, "type": text, "types": strings}),
    Operation("events.retrieve", "GET", "events/:id", _retrieve, EXPAND),
]
