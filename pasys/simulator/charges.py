"""A charge is one attempt at a payment intent: refused, authorized or captured, and what came back of it since."""

from __future__ import annotations

from pasys.simulator import listing
from pasys.simulator.cards import Card, sentence
from pasys.simulator.fields import EXPAND, PAGE, integer, mapping, merged, metadata, text
from pasys.simulator.operations import Call, Operation
from pasys.simulator.store import Object
from pasys.simulator.unit import Unit

_CARD_DETAILS = ("brand", "checks", "country", "exp_month", "exp_year", "fingerprint", "funding", "last4")


def attempt(unit: Unit, intent: Object, card: Card, payment_method: Object) -> Object:
    """A new charge for the intent, already refused or authorized as the card has it."""
    code, decline_code = card.code, card.decline_code
    return unit.insert(
        "charge",
        amount=intent["amount"],
        amount_captured=0,
        amount_refunded=0,
        application_fee_amount=None,
        balance_transaction=None,
        billing_details=payment_method["billing_details"],
        calculated_statement_descriptor=intent["statement_descriptor"] or "PASYS",
        captured=False,
        currency=intent["currency"],
        customer=intent["customer"],
        description=intent["description"],
        disputed=False,
        failure_balance_transaction=None,
        failure_code=code,
        failure_message=sentence(code, decline_code) if code else None,
        fraud_details={},
        metadata=intent["metadata"],
        outcome=_outcome(decline_code),
        paid=code is None,
        payment_intent=intent["id"],
        payment_method=payment_method["id"],
        payment_method_details={"card": _card_details(intent, payment_method), "type": "card"},
        receipt_email=intent["receipt_email"],
        receipt_number=None,
        receipt_url=None,
        refunded=False,
        review=None,
        shipping=intent["shipping"],
        statement_descriptor=intent["statement_descriptor"],
        statement_descriptor_suffix=intent["statement_descriptor_suffix"],
        status="failed" if code else "succeeded",
        transfer_group=intent["transfer_group"],
    )


def _outcome(decline_code: str | None) -> Object:
    """What the network and Stripe's own risk rules said."""
    blocked = decline_code == "fraudulent"
    return {
        "network_status": "not_sent_to_network"
        if blocked
        else "declined_by_network"
        if decline_code
        else "approved_by_network",
        "reason": "highest_risk_level" if blocked else decline_code,
        "risk_level": "highest" if blocked else "normal",
        "risk_score": 92 if blocked else 21,
        "seller_message": "Payment complete." if decline_code is None else "The payment was declined.",
        "type": "blocked" if blocked else "issuer_declined" if decline_code else "authorized",
    }


def _card_details(intent: Object, payment_method: Object) -> Object:
    card = payment_method["card"]
    shown = {name: card[name] for name in _CARD_DETAILS}
    # An authorization is a code of six digits; it follows from the intent, so a replay shows the same.
    code = f"{int(intent['id'][-6:], 16) % 1_000_000:06d}"
    return {**shown, "amount_authorized": intent["amount"], "authorization_code": code, "network": card["brand"]}


def refundable(charge: Object) -> int:
    """What was captured and has not gone back."""
    return charge["amount_captured"] - charge["amount_refunded"]


def _retrieve(unit: Unit, call: Call) -> Object:
    return unit.load("charge", call.id)


def _update(unit: Unit, call: Call) -> Object:
    found = unit.load("charge", call.id)
    asked = {name: value for name, value in call.asked.items() if name not in ("expand", "metadata")}
    found.update(asked, metadata=merged(found["metadata"], call.asked.get("metadata")))
    unit.change(found, metadata=True)
    unit.announce("charge.updated", found)
    return found


def _list(unit: Unit, call: Call) -> Object:
    return listing.page(unit.store, "charge", call.asked, call.path)


def _search(unit: Unit, call: Call) -> Object:
    return listing.search(unit.store, "charge", call.asked, call.path)


OPERATIONS = [
    Operation("charges.list", "GET", "charges", _list, {**PAGE, "customer": text, "payment_intent": text}),
    Operation(
        "charges.search",
        "GET",
        "charges/search",
        _search,
        {**EXPAND, "limit": integer, "page": text, "query": text},
        ("query",),
    ),
    Operation("charges.retrieve", "GET", "charges/:id", _retrieve, EXPAND),
    Operation(
        "charges.update",
        "POST",
        "charges/:id",
        _update,
        {**EXPAND, "description": text, "metadata": metadata, "receipt_email": text, "shipping": mapping},
    ),
]
