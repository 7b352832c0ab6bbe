"""A payment method is a test card by another name: brand, last four digits and behaviour, never the number.

A `pm_card_…` token is a payment method everywhere; attaching one makes a new payment method for that customer.
"""

from __future__ import annotations

from typing import Any

from pasys.simulator import cards, customers, listing
from pasys.simulator.cards import Card
from pasys.simulator.fields import EXPAND, PAGE, Check, checked, choice, integer, mapping, merged, metadata, text
from pasys.simulator.operations import Call, Operation
from pasys.simulator.refusal import invalid
from pasys.simulator.store import Object
from pasys.simulator.unit import Unit

YEAR_MAX = 2100

_CARD_FIELDS: dict[str, Check] = {
    "cvc": text,
    "exp_month": integer,
    "exp_year": integer,
    "number": text,
    "token": text,
}
NEW_FIELDS: dict[str, Check] = {
    "billing_details": mapping,
    "card": mapping,
    "metadata": metadata,
    "type": choice("card"),
}


def make(unit: Unit, asked: Object) -> Object:
    """A payment method from `type=card` and a card's number or token; raises Refusal for any but a test card."""
    if asked.get("card") is None:
        raise invalid("Missing required param: card.", "parameter_missing", param="card")
    given = checked(asked["card"], _CARD_FIELDS)
    card = _card(given)
    exp_month, exp_year = given.get("exp_month", 12), given.get("exp_year", 2034)
    if not 1 <= exp_month <= 12:
        raise cards.declined("invalid_expiry_month", None, param="exp_month")
    if exp_year < 100:
        exp_year += 2000
    if not _this_year(unit) <= exp_year <= YEAR_MAX:
        raise cards.declined("invalid_expiry_year", None, param="exp_year")
    return _insert(unit, card, exp_month, exp_year, asked)


def _this_year(unit: Unit) -> int:
    return 1970 + unit.now // 31_556_952


def _card(given: dict[str, Any]) -> Card:
    if given.get("token"):
        card = cards.by_token(given["token"])
        if card is None:
            raise invalid(f"No such token: '{given['token']}'", "resource_missing", param="card[token]")
        return card
    if not given.get("number"):
        raise invalid("Missing required param: card[number].", "parameter_missing", param="card[number]")
    return cards.by_number(given["number"])


def _insert(unit: Unit, card: Card, exp_month: int, exp_year: int, asked: Object) -> Object:
    blank = {"address": None, "email": None, "name": None, "phone": None}
    return unit.insert(
        "payment_method",
        {"test_card": card.token},
        allow_redisplay="unspecified",
        billing_details={**blank, **(asked.get("billing_details") or {})},
        card=cards.details(card, exp_month=exp_month, exp_year=exp_year),
        customer=None,
        metadata=merged({}, asked.get("metadata")),
        type="card",
    )


def _create(unit: Unit, call: Call) -> Object:
    return make(unit, call.asked)


def _retrieve(unit: Unit, call: Call) -> Object:
    return unit.load("payment_method", call.id)


def _update(unit: Unit, call: Call) -> Object:
    found = _stored(unit, call.id)
    found["metadata"] = merged(found["metadata"], call.asked.get("metadata"))
    found["billing_details"].update(call.asked.get("billing_details") or {})
    unit.change(found)
    unit.announce("payment_method.updated", found)
    return found


def _attach(unit: Unit, call: Call) -> Object:
    customer = customers.existing(unit, call.asked["customer"])
    found = unit.load("payment_method", call.id)
    card = unit.test_card(call.id)
    if card.code is not None and not card.attachable:
        raise cards.declined(card.code, card.decline_code)
    if found["customer"] not in (None, customer["id"]):
        raise invalid("The payment method you provided has already been attached to a customer.")
    if cards.by_token(call.id) is not None:
        found = _insert(unit, card, found["card"]["exp_month"], found["card"]["exp_year"], {})
    found["customer"] = customer["id"]
    unit.change(found)
    unit.announce("payment_method.attached", found)
    return found


def _detach(unit: Unit, call: Call) -> Object:
    found = _stored(unit, call.id)
    if found["customer"] is None:
        raise invalid("The payment method you provided is not attached to a customer so detachment is impossible.")
    found["customer"] = None
    unit.change(found)
    unit.announce("payment_method.detached", found)
    return found


def _stored(unit: Unit, payment_method_id: str) -> Object:
    if cards.by_token(payment_method_id) is not None:
        raise invalid(f"'{payment_method_id}' is a test token and cannot be changed; attach it to a customer first.")
    return unit.load("payment_method", payment_method_id)


def _list(unit: Unit, call: Call) -> Object:
    if call.id:
        call.asked["customer"] = customers.existing(unit, call.id)["id"]
    return listing.page(unit.store, "payment_method", call.asked, call.path)


_LIST = {**PAGE, "customer": text, "type": choice("card")}
OPERATIONS = [
    Operation("payment_methods.create", "POST", "payment_methods", _create, {**EXPAND, **NEW_FIELDS}, ("type",)),
    Operation("payment_methods.list", "GET", "payment_methods", _list, _LIST),
    Operation("payment_methods.list", "GET", "customers/:id/payment_methods", _list, {**PAGE, "type": choice("card")}),
    Operation("payment_methods.retrieve", "GET", "payment_methods/:id", _retrieve, EXPAND),
    Operation(
        "payment_methods.update",
        "POST",
        "payment_methods/:id",
        _update,
        {**EXPAND, "billing_details": mapping, "metadata": metadata},
    ),
    Operation(
        "payment_methods.attach",
        "POST",
        "payment_methods/:id/attach",
        _attach,
        {**EXPAND, "customer": text},
        ("customer",),
    ),
    Operation("payment_methods.detach", "POST", "payment_methods/:id/detach", _detach, EXPAND),
]
