"""A payment intent is one payment from the first word to the last.

    requires_payment_method ──▶ requires_confirmation ──▶ requires_action ──▶ requires_capture ──▶ succeeded
              ▲ a decline leads back here ◀──────┴────────────────┘                  └─▶ canceled

Everything but a success can be canceled.
"""

from __future__ import annotations

from typing import Any

from pasys.simulator import balance, cards, charges, customers, disputes, listing, payment_methods
from pasys.simulator.currency import amount, check_decimals, currency
from pasys.simulator.fields import (
    EXPAND,
    PAGE,
    Check,
    boolean,
    checked,
    choice,
    integer,
    mapping,
    merged,
    metadata,
    off_session,
    strings,
    text,
)
from pasys.simulator.operations import Call, Operation
from pasys.simulator.refusal import Refusal, invalid, unexpected_state
from pasys.simulator.store import Object
from pasys.simulator.unit import Unit

OPEN = ("requires_payment_method", "requires_confirmation", "requires_action")
_CANCELLATION = choice("abandoned", "duplicate", "fraudulent", "requested_by_customer")
_SETUP = choice("off_session", "on_session")

_METHOD_FIELDS: dict[str, Check] = {
    "payment_method": text,
    "payment_method_data": mapping,
    "payment_method_options": mapping,
    "receipt_email": text,
    "setup_future_usage": _SETUP,
    "shipping": mapping,
    "capture_method": choice("automatic", "automatic_async", "manual"),
}
_CONFIRM_FIELDS: dict[str, Check] = {
    "error_on_requires_action": boolean,
    "off_session": off_session,
    "return_url": text,
    "use_stripe_sdk": boolean,
}
_UPDATE_FIELDS: dict[str, Check] = {
    **EXPAND,
    **_METHOD_FIELDS,
    "amount": amount,
    "currency": currency,
    "customer": text,
    "description": text,
    "metadata": metadata,
    "payment_method_types": strings,
    "statement_descriptor": text,
    "statement_descriptor_suffix": text,
    "transfer_group": text,
}
_CREATE_FIELDS: dict[str, Check] = {
    **_UPDATE_FIELDS,
    **_CONFIRM_FIELDS,
    "automatic_payment_methods": mapping,
    "confirm": boolean,
    "confirmation_method": choice("automatic", "manual"),
}
# Kept on the intent as they are given.
_KEPT = (
    "description",
    "payment_method_options",
    "receipt_email",
    "setup_future_usage",
    "shipping",
    "statement_descriptor",
    "statement_descriptor_suffix",
    "transfer_group",
)


def _create(unit: Unit, call: Call) -> Object:
    asked = call.asked
    check_decimals(asked["amount"], asked["currency"], param="amount")
    if asked.get("customer"):
        customers.existing(unit, asked["customer"])
    method = _method(unit, asked, asked.get("customer"))
    made = unit.insert("payment_intent", **_fields(asked, method))
    made["client_secret"] = unit.store.new_id(f"{made['id']}_secret")
    unit.announce("payment_intent.created", made)
    if asked.get("confirm"):
        _confirm_now(unit, made, asked)
    return made


def _fields(asked: Object, method: str | None) -> Object:
    automatic = asked.get("automatic_payment_methods")
    return {
        "amount": asked["amount"],
        "amount_capturable": 0,
        "amount_details": {"tip": {}},
        "amount_received": 0,
        "application": None,
        "application_fee_amount": None,
        "automatic_payment_methods": {"enabled": automatic.get("enabled") == "true"} if automatic else None,
        "canceled_at": None,
        "cancellation_reason": None,
        "capture_method": asked.get("capture_method") or "automatic",
        "client_secret": None,
        "confirmation_method": asked.get("confirmation_method") or "automatic",
        "currency": asked["currency"],
        "customer": asked.get("customer"),
        "last_payment_error": None,
        "latest_charge": None,
        "metadata": merged({}, asked.get("metadata")),
        "next_action": None,
        "on_behalf_of": None,
        "payment_method": method,
        "payment_method_types": asked.get("payment_method_types") or ["card"],
        "processing": None,
        "review": None,
        "status": "requires_confirmation" if method else "requires_payment_method",
        "transfer_data": None,
        **{name: asked.get(name) for name in _KEPT},
    }


def _method(unit: Unit, asked: Object, customer: str | None) -> str | None:
    """The payment method that is asked for, made on the spot from `payment_method_data`; None if none is."""
    if asked.get("payment_method_data"):
        data = checked(asked["payment_method_data"], payment_methods.NEW_FIELDS, ("type",))
        return payment_methods.make(unit, data)["id"]
    if not asked.get("payment_method"):
        return None
    found = unit.load("payment_method", asked["payment_method"], param="payment_method")
    if found["customer"] not in (None, customer):
        raise invalid(
            f"The provided PaymentMethod ({found['id']}) belongs to another customer.", param="payment_method"
        )
    return found["id"]


# -- confirmation ----------------------------------------------------------------------------------------------------


def _confirm(unit: Unit, call: Call) -> Object:
    intent = unit.load("payment_intent", call.id)
    if intent["status"] not in OPEN:
        raise unexpected_state(
            f"You cannot confirm this PaymentIntent because it has a status of {intent['status']}.", intent
        )
    _take_method(unit, intent, call.asked)
    if intent["payment_method"] is None:
        raise unexpected_state("You cannot confirm this PaymentIntent because it's missing a payment method.", intent)
    _confirm_now(unit, intent, call.asked)
    return intent


def _take_method(unit: Unit, intent: Object, asked: Object) -> None:
    method = _method(unit, asked, intent["customer"])
    if method is not None:
        intent["payment_method"] = method
        intent.update(status="requires_confirmation", next_action=None)
    for name in ("payment_method_options", "receipt_email", "setup_future_usage", "shipping", "capture_method"):
        if name in asked:
            intent[name] = asked[name]


def _confirm_now(unit: Unit, intent: Object, asked: Object) -> None:
    if intent["payment_method"] is None:
        raise invalid(
            "You cannot confirm this PaymentIntent because it's missing a payment method.",
            "parameter_missing",
            param="payment_method",
        )
    unit.change(intent)
    card = unit.test_card(intent["payment_method"])
    if not card.three_d_secure:
        return charge(unit, intent)
    if asked.get("off_session") or asked.get("error_on_requires_action"):
        raise _refused(unit, intent, card._replace(code="card_declined", decline_code="authentication_required"))
    url = asked.get("return_url")
    intent["status"] = "requires_action"
    intent["next_action"] = {"type": "use_stripe_sdk", "use_stripe_sdk": {"type": "three_d_secure_redirect"}}
    if url:
        intent["next_action"] = {"type": "redirect_to_url", "redirect_to_url": {"return_url": url, "url": url}}
    unit.announce("payment_intent.requires_action", intent)


def authenticate(unit: Unit, intent_id: str, *, succeeded: bool) -> Object:
    """What the customer does on the 3-D Secure page; the answer is the intent, declined or not."""
    intent = unit.load("payment_intent", intent_id)
    if intent["status"] != "requires_action":
        raise unexpected_state(f"This PaymentIntent has a status of {intent['status']}.", intent)
    unit.change(intent)
    if succeeded:
        charge(unit, intent)
    else:
        error = {
            "type": "invalid_request_error",
            "code": "payment_intent_authentication_failure",
            "message": "The provided PaymentMethod has failed authentication.",
        }
        intent.update(status="requires_payment_method", next_action=None, payment_method=None, last_payment_error=error)
        unit.announce("payment_intent.payment_failed", intent)
    return intent


def charge(unit: Unit, intent: Object) -> None:
    """Charges the card; raises the decline as a Refusal whose effects stay."""
    card = unit.test_card(intent["payment_method"])
    intent["next_action"] = None
    if card.code is not None:
        raise _refused(unit, intent, card)
    method = unit.load("payment_method", intent["payment_method"])
    made = charges.attempt(unit, intent, card, method)
    intent.update(latest_charge=made["id"], last_payment_error=None)
    if intent["capture_method"] == "manual":
        intent.update(status="requires_capture", amount_capturable=intent["amount"])
        unit.announce("payment_intent.amount_capturable_updated", intent)
    else:
        _settle(unit, intent, made, intent["amount"])
        unit.announce("charge.succeeded", made)
        unit.announce("payment_intent.succeeded", intent)
        disputes.open_if_test_card(unit, made, card)


def _refused(unit: Unit, intent: Object, card: cards.Card) -> Refusal:
    """A failed charge, the intent back at its start, and the decline to raise."""
    method = unit.load("payment_method", intent["payment_method"])
    made = charges.attempt(unit, intent, card, method)
    assert card.code is not None
    decline = cards.declined(card.code, card.decline_code, charge=made["id"], payment_method=method)
    error: dict[str, Any] = decline.body["error"]
    intent.update(
        status="requires_payment_method",
        payment_method=None,
        latest_charge=made["id"],
        last_payment_error=dict(error),
        next_action=None,
    )
    error["payment_intent"] = intent
    decline.has_effects = True
    unit.announce("charge.failed", made)
    unit.announce("payment_intent.payment_failed", intent)
    return decline


# -- capture and cancellation ----------------------------------------------------------------------------------------


def _settle(unit: Unit, intent: Object, made: Object, captured: int) -> None:
    line = balance.record_charge(unit, captured, made)
    made.update(captured=True, amount_captured=captured, balance_transaction=line["id"])
    intent.update(status="succeeded", amount_received=captured, amount_capturable=0)


def _capture(unit: Unit, call: Call) -> Object:
    """Takes what was authorized, or less: the rest is released to the customer."""
    intent = unit.load("payment_intent", call.id)
    if intent["status"] != "requires_capture":
        raise unexpected_state(
            f"This PaymentIntent could not be captured because it has a status of {intent['status']}. "
            "Only a PaymentIntent with one of the following statuses may be captured: requires_capture.",
            intent,
        )
    captured = call.asked.get("amount_to_capture", intent["amount_capturable"])
    if captured > intent["amount_capturable"]:
        raise invalid(
            "The amount_to_capture parameter must be less than or equal to the amount capturable.",
            "amount_too_large",
            param="amount_to_capture",
        )
    check_decimals(captured, intent["currency"], param="amount_to_capture")
    made = unit.load("charge", intent["latest_charge"])
    _settle(unit, intent, made, captured)
    if "metadata" in call.asked:
        intent["metadata"] = merged(intent["metadata"], call.asked["metadata"])
    for name in ("statement_descriptor", "statement_descriptor_suffix"):
        if name in call.asked:
            intent[name] = call.asked[name]
    unit.change(made)
    unit.change(intent, metadata="metadata" in call.asked)
    unit.announce("charge.captured", made)
    unit.announce("payment_intent.succeeded", intent)
    disputes.open_if_test_card(unit, made, unit.test_card(made["payment_method"]))
    return intent


def _cancel(unit: Unit, call: Call) -> Object:
    intent = unit.load("payment_intent", call.id)
    if intent["status"] not in (*OPEN, "requires_capture"):
        raise unexpected_state(
            f"You cannot cancel this PaymentIntent because it has a status of {intent['status']}. Only a PaymentIntent "
            f"with one of the following statuses may be canceled: {', '.join((*OPEN, 'requires_capture'))}.",
            intent,
        )
    intent.update(
        status="canceled",
        canceled_at=unit.now,
        amount_capturable=0,
        next_action=None,
        cancellation_reason=call.asked.get("cancellation_reason"),
    )
    unit.change(intent)
    unit.announce("payment_intent.canceled", intent)
    return intent


# -- the rest --------------------------------------------------------------------------------------------------------


def _update(unit: Unit, call: Call) -> Object:
    intent = unit.load("payment_intent", call.id)
    asked = call.asked
    only_before_charge = sorted(set(asked) & {"amount", "currency", "customer", "payment_method", "capture_method"})
    if only_before_charge and intent["status"] not in OPEN:
        raise unexpected_state(
            f"This PaymentIntent's {', '.join(only_before_charge)} could not be updated because it has a status of "
            f"{intent['status']}.",
            intent,
        )
    if asked.get("customer"):
        customers.existing(unit, asked["customer"])
    intent.update({name: asked[name] for name in ("amount", "currency", "customer", *_KEPT) if name in asked})
    check_decimals(intent["amount"], intent["currency"], param="amount")
    _take_method(unit, intent, asked)
    intent["metadata"] = merged(intent["metadata"], asked.get("metadata"))
    unit.change(intent, metadata="metadata" in asked)
    return intent


def _retrieve(unit: Unit, call: Call) -> Object:
    return unit.load("payment_intent", call.id)


def _list(unit: Unit, call: Call) -> Object:
    return listing.page(unit.store, "payment_intent", call.asked, call.path)


def _search(unit: Unit, call: Call) -> Object:
    return listing.search(unit.store, "payment_intent", call.asked, call.path)


OPERATIONS = [
    Operation("payment_intents.create", "POST", "payment_intents", _create, _CREATE_FIELDS, ("amount", "currency")),
    Operation("payment_intents.list", "GET", "payment_intents", _list, {**PAGE, "customer": text}),
    Operation(
        "payment_intents.search",
        "GET",
        "payment_intents/search",
        _search,
        {**EXPAND, "limit": integer, "page": text, "query": text},
        ("query",),
    ),
    Operation("payment_intents.retrieve", "GET", "payment_intents/:id", _retrieve, {**EXPAND, "client_secret": text}),
    Operation("payment_intents.update", "POST", "payment_intents/:id", _update, _UPDATE_FIELDS),
    Operation(
        "payment_intents.confirm",
        "POST",
        "payment_intents/:id/confirm",
        _confirm,
        {**EXPAND, **_METHOD_FIELDS, **_CONFIRM_FIELDS},
    ),
    Operation(
        "payment_intents.capture",
        "POST",
        "payment_intents/:id/capture",
        _capture,
        {
            **EXPAND,
            "amount_to_capture": amount,
            "final_capture": boolean,
            "metadata": metadata,
            "statement_descriptor": text,
            "statement_descriptor_suffix": text,
        },
    ),
    Operation(
        "payment_intents.cancel",
        "POST",
        "payment_intents/:id/cancel",
        _cancel,
        {**EXPAND, "cancellation_reason": _CANCELLATION},
    ),
]
