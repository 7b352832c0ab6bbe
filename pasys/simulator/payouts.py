"""A payout moves money from the balance to the bank; it is paid at once and leaves one line on the statement.

An automatic payout takes a currency's whole balance and says which lines it pays; `POST /_simulator/payouts` makes one,
because nobody waits for Stripe's daily schedule here. A simulator does not wait two days either: payouts may draw on
what is still pending.
"""

from __future__ import annotations

from pasys.simulator import balance, listing
from pasys.simulator.currency import amount, check_decimals, currency
from pasys.simulator.fields import EXPAND, PAGE, choice, merged, metadata, period, text
from pasys.simulator.operations import Call, Operation
from pasys.simulator.refusal import invalid
from pasys.simulator.store import Object
from pasys.simulator.unit import Unit


def _create(unit: Unit, call: Call) -> Object:
    asked = call.asked
    check_decimals(asked["amount"], asked["currency"], param="amount")
    held = balance.total(unit, asked["currency"])
    if asked["amount"] > held:
        raise invalid(
            f"You have insufficient funds in your Stripe account: {held} in {asked['currency']}.",
            "balance_insufficient",
            param="amount",
        )
    return _pay(unit, asked["amount"], asked["currency"], asked, automatic=False)


def pay_all(unit: Unit, code: str) -> Object:
    """The automatic payout of everything in a currency; raises Refusal if there is nothing to pay."""
    held = balance.total(unit, code)
    if held <= 0:
        raise invalid(f"There is nothing to pay out in {code}.", "balance_insufficient")
    made = _pay(unit, held, code, {}, automatic=True)
    unit.store.write(
        "UPDATE balance_transactions SET payout = ? WHERE currency = ? AND payout IS NULL", (made["id"], code)
    )
    return made


def _pay(unit: Unit, paid: int, code: str, asked: Object, *, automatic: bool) -> Object:
    made = unit.insert(
        "payout",
        amount=paid,
        arrival_date=unit.now,
        automatic=automatic,
        balance_transaction=None,
        currency=code,
        description=asked.get("description") or "STRIPE PAYOUT",
        destination=None,
        failure_balance_transaction=None,
        failure_code=None,
        failure_message=None,
        metadata=merged({}, asked.get("metadata")),
        method=asked.get("method") or "standard",
        reconciliation_status="completed" if automatic else "not_applicable",
        source_type="card",
        statement_descriptor=asked.get("statement_descriptor"),
        status="paid",
        trace_id=None,
        type="bank_account",
    )
    line = balance.record(unit, "payout", -paid, code, made["id"], payout=made["id"], description=made["description"])
    made["balance_transaction"] = line["id"]
    unit.announce("payout.created", made)
    unit.announce("payout.paid", made)
    return made


def _update(unit: Unit, call: Call) -> Object:
    payout = unit.load("payout", call.id)
    payout["metadata"] = merged(payout["metadata"], call.asked.get("metadata"))
    unit.change(payout)
    unit.announce("payout.updated", payout)
    return payout


def _retrieve(unit: Unit, call: Call) -> Object:
    return unit.load("payout", call.id)


def _list(unit: Unit, call: Call) -> Object:
    asked = dict(call.asked)
    if "arrival_date" in asked:
        if "created" in asked:
            raise invalid("Filter by created or by arrival_date: here a payout arrives when it is created.")
        asked["created"] = asked.pop("arrival_date")
    return listing.page(unit.store, "payout", asked, call.path)


OPERATIONS = [
    Operation(
        "payouts.create",
        "POST",
        "payouts",
        _create,
        {
            **EXPAND,
            "amount": amount,
            "currency": currency,
            "description": text,
            "metadata": metadata,
            "method": choice("standard", "instant"),
            "statement_descriptor": text,
        },
        ("amount", "currency"),
    ),
    Operation(
        "payouts.list",
        "GET",
        "payouts",
        _list,
        {**PAGE, "arrival_date": period, "status": choice("paid", "pending", "in_transit", "canceled", "failed")},
    ),
    Operation("payouts.retrieve", "GET", "payouts/:id", _retrieve, EXPAND),
    Operation("payouts.update", "POST", "payouts/:id", _update, {**EXPAND, "metadata": metadata}),
]
