"""A refund takes back part of what was captured, never more, and draws it from the balance.

    pending ──▶ succeeded ──▶ failed      (pending ──▶ canceled)

Two test cards walk these ways; with every other card a refund succeeds at once.
"""

from __future__ import annotations

from pasys.simulator import balance, charges, listing
from pasys.simulator.currency import amount, check_decimals
from pasys.simulator.fields import EXPAND, PAGE, choice, merged, metadata, text
from pasys.simulator.operations import Call, Operation
from pasys.simulator.refusal import invalid
from pasys.simulator.store import Object
from pasys.simulator.unit import Unit

FAILURE_REASON = "lost_or_stolen_card"


def _create(unit: Unit, call: Call) -> Object:
    charge = _charge(unit, call.asked)
    refunded = _amount(charge, call.asked)
    card = unit.test_card(charge["payment_method"])
    made = unit.insert(
        "refund",
        amount=refunded,
        balance_transaction=None,
        charge=charge["id"],
        currency=charge["currency"],
        destination_details={"card": {"reference_status": "pending", "type": "refund"}, "type": "card"},
        metadata=merged({}, call.asked.get("metadata")),
        payment_intent=charge["payment_intent"],
        reason=call.asked.get("reason"),
        receipt_number=None,
        source_transfer_reversal=None,
        status="pending" if card.refund == "pending" else "succeeded",
        transfer_reversal=None,
    )
    line = balance.record(unit, "refund", -refunded, charge["currency"], made["id"])
    made["balance_transaction"] = line["id"]
    _add_to_charge(unit, charge, refunded)
    if card.refund != "succeeded":
        unit.later(made["id"], unit.settings.refund_delay_s)
    unit.announce("refund.created", made)
    unit.announce("charge.refunded", charge)
    return made


def _charge(unit: Unit, asked: Object) -> Object:
    """The charge to refund, named itself or by its payment intent."""
    if bool(asked.get("charge")) == bool(asked.get("payment_intent")):
        raise invalid("One of the following params should be provided for this request: payment_intent or charge.")
    if asked.get("charge"):
        charge = unit.load("charge", asked["charge"], param="charge")
    else:
        intent = unit.load("payment_intent", asked["payment_intent"], param="payment_intent")
        if intent["latest_charge"] is None:
            raise invalid(f"This PaymentIntent ({intent['id']}) does not have a successful charge to refund.")
        charge = unit.load("charge", intent["latest_charge"])
    if not charge["captured"]:
        raise invalid(
            f"Charge {charge['id']} has not been captured, so there is nothing to refund.", "charge_not_captured"
        )
    if charge["disputed"]:
        raise invalid(f"Charge {charge['id']} has been charged back; cannot issue a refund.", "charge_disputed")
    return charge


def _amount(charge: Object, asked: Object) -> int:
    left = charges.refundable(charge)
    if left == 0:
        raise invalid(f"Charge {charge['id']} has already been refunded.", "charge_already_refunded")
    refunded = asked.get("amount", left)
    if refunded > left:
        raise invalid(
            f"Refund amount ({refunded}) is greater than unrefunded amount on charge ({left})",
            "amount_too_large",
            param="amount",
        )
    check_decimals(refunded, charge["currency"], param="amount")
    return refunded


def _add_to_charge(unit: Unit, charge: Object, refunded: int) -> None:
    charge["amount_refunded"] += refunded
    charge["refunded"] = charge["amount_refunded"] == charge["amount_captured"]
    assert 0 <= charge["amount_refunded"] <= charge["amount_captured"]
    unit.change(charge)


def settle(unit: Unit, refund_id: str) -> None:
    """What the card's bank says later: a pending refund arrives, a refund to a dead card comes back."""
    refund = unit.load("refund", refund_id)
    unit.later(refund_id, None)
    charge = unit.load("charge", refund["charge"])
    fails = unit.test_card(charge["payment_method"]).refund == "failed"
    if fails and refund["status"] == "succeeded":
        _give_back(unit, refund, charge, "failed", FAILURE_REASON)
        unit.announce("refund.failed", refund)
    elif refund["status"] == "pending":
        refund["status"] = "succeeded"
        unit.change(refund)
        _announce_update(unit, refund)


def _give_back(unit: Unit, refund: Object, charge: Object, status: str, reason: str) -> None:
    """The money of a refund that did not arrive is in the balance again."""
    line = balance.record(unit, "refund_failure", refund["amount"], refund["currency"], refund["id"])
    refund.update(status=status, failure_balance_transaction=line["id"])
    if status == "failed":
        refund["failure_reason"] = reason
    unit.change(refund)
    _add_to_charge(unit, charge, -refund["amount"])
    _announce_update(unit, refund)


def _announce_update(unit: Unit, refund: Object) -> None:
    unit.announce("refund.updated", refund)
    unit.announce("charge.refund.updated", refund)


def _cancel(unit: Unit, call: Call) -> Object:
    refund = unit.load("refund", call.id)
    if refund["status"] != "pending":
        raise invalid(f"You cannot cancel this refund because it has a status of {refund['status']}.")
    unit.later(refund["id"], None)
    _give_back(unit, refund, unit.load("charge", refund["charge"]), "canceled", "merchant_request")
    return refund


def _update(unit: Unit, call: Call) -> Object:
    refund = unit.load("refund", call.id)
    refund["metadata"] = merged(refund["metadata"], call.asked.get("metadata"))
    unit.change(refund)
    _announce_update(unit, refund)
    return refund


def _retrieve(unit: Unit, call: Call) -> Object:
    return unit.load("refund", call.id)


def _list(unit: Unit, call: Call) -> Object:
    return listing.page(unit.store, "refund", call.asked, call.path)


OPERATIONS = [
    Operation(
        "refunds.create",
        "POST",
        "refunds",
        _create,
        {
            **EXPAND,
            "amount": amount,
            "charge": text,
            "metadata": metadata,
            "payment_intent": text,
            "reason": choice("duplicate", "fraudulent", "requested_by_customer"),
        },
    ),
    Operation("refunds.list", "GET", "refunds", _list, {**PAGE, "charge": text, "payment_intent": text}),
    Operation("refunds.retrieve", "GET", "refunds/:id", _retrieve, EXPAND),
    Operation("refunds.update", "POST", "refunds/:id", _update, {**EXPAND, "metadata": metadata}),
    Operation("refunds.cancel", "POST", "refunds/:id/cancel", _cancel, EXPAND),
]
