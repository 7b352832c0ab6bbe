"""A dispute takes the payment and a fee out of the balance until it is won; two test cards open one when captured.

Evidence whose `uncategorized_text` is `winning_evidence` wins, any other loses, as in Stripe's test mode.
"""

from __future__ import annotations

from pasys.simulator import balance, listing
from pasys.simulator.cards import Card
from pasys.simulator.fields import EXPAND, PAGE, boolean, mapping, merged, metadata, text
from pasys.simulator.operations import Call, Operation
from pasys.simulator.refusal import invalid
from pasys.simulator.store import Object
from pasys.simulator.unit import Unit

DISPUTE_FEE = 1500
EVIDENCE_DUE_S = 7 * 86_400


def open_if_test_card(unit: Unit, charge: Object, card: Card) -> None:
    if card.dispute is None:
        return
    made = unit.insert(
        "dispute",
        amount=charge["amount_captured"],
        balance_transactions=[],
        charge=charge["id"],
        currency=charge["currency"],
        evidence={},
        evidence_details={
            "due_by": unit.now + EVIDENCE_DUE_S,
            "has_evidence": False,
            "past_due": False,
            "submission_count": 0,
        },
        is_charge_refundable=False,
        metadata={},
        payment_intent=charge["payment_intent"],
        payment_method_details={"card": {"brand": card.brand, "network_reason_code": "10.4"}, "type": "card"},
        reason=card.dispute,
        status="needs_response",
    )
    line = balance.record(
        unit,
        "adjustment",
        -charge["amount_captured"],
        charge["currency"],
        made["id"],
        charged_fee=DISPUTE_FEE,
        description=f"Chargeback withdrawal for {charge['id']}",
    )
    made["balance_transactions"].append(line)
    charge["disputed"] = True
    unit.change(charge)
    unit.announce("charge.dispute.created", made)
    unit.announce("charge.dispute.funds_withdrawn", made)


def _close(unit: Unit, call: Call) -> Object:
    """Accepts that the dispute is lost."""
    dispute = _open(unit, call.id)
    dispute["status"] = "lost"
    unit.change(dispute)
    unit.announce("charge.dispute.closed", dispute)
    return dispute


def _update(unit: Unit, call: Call) -> Object:
    dispute = _open(unit, call.id)
    evidence = call.asked.get("evidence")
    if evidence:
        dispute["evidence"].update(evidence)
        dispute["evidence_details"]["has_evidence"] = True
    dispute["metadata"] = merged(dispute["metadata"], call.asked.get("metadata"))
    unit.change(dispute)
    unit.announce("charge.dispute.updated", dispute)
    if evidence and call.asked.get("submit", True):
        _judge(unit, dispute)
    return dispute


def _judge(unit: Unit, dispute: Object) -> None:
    dispute["evidence_details"]["submission_count"] += 1
    won = dispute["evidence"].get("uncategorized_text") == "winning_evidence"
    dispute["status"] = "won" if won else "lost"
    if won:
        line = balance.record(
            unit,
            "adjustment",
            dispute["amount"],
            dispute["currency"],
            dispute["id"],
            charged_fee=-DISPUTE_FEE,
            description=f"Chargeback reversal for {dispute['charge']}",
        )
        dispute["balance_transactions"].append(line)
        unit.announce("charge.dispute.funds_reinstated", dispute)
    unit.announce("charge.dispute.closed", dispute)


def _open(unit: Unit, dispute_id: str) -> Object:
    dispute = unit.load("dispute", dispute_id)
    if dispute["status"] != "needs_response":
        raise invalid(f"This dispute is already {dispute['status']}.")
    return dispute


def _retrieve(unit: Unit, call: Call) -> Object:
    return unit.load("dispute", call.id)


def _list(unit: Unit, call: Call) -> Object:
    return listing.page(unit.store, "dispute", call.asked, call.path)


OPERATIONS = [
    Operation("disputes.list", "GET", "disputes", _list, {**PAGE, "charge": text, "payment_intent": text}),
    Operation("disputes.retrieve", "GET", "disputes/:id", _retrieve, EXPAND),
    Operation(
        "disputes.update",
        "POST",
        "disputes/:id",
        _update,
        {**EXPAND, "evidence": mapping, "metadata": metadata, "submit": boolean},
    ),
    Operation("disputes.close", "POST", "disputes/:id/close", _close, EXPAND),
]
