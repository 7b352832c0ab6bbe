"""What a person does about payments that wait for a review: let one through, or say that it is fraud."""

from __future__ import annotations

from pasys.db import Unit
from pasys.money import Money
from pasys.service import fraud
from pasys.service.fraud import ReviewRow
from pasys.tui.action import Action, Field, Values, option


def approve(row: ReviewRow) -> Action:
    async def verb(unit: Unit, typed: Values) -> str:
        await fraud.approve(unit, row.transaction_id, typed["reason"])
        return f"{row.transaction_id} goes on to the PSP."

    return Action(
        title=f"Let {row.transaction_id} through",
        about=_about(row),
        words=lambda typed: [*_words(row, "approve"), *option("--reason", typed["reason"], required=True)],
        verb=verb,
        look=["fraud", "explain", row.transaction_id],
        fields=(Field("reason", "why it may go on; kept in the decision", required=True),),
    )


def reject(row: ReviewRow) -> Action:
    async def verb(unit: Unit, typed: Values) -> str:
        await fraud.reject(unit, row.transaction_id, typed["reason"])
        return f"{row.transaction_id} is fraud; what it held is released."

    return Action(
        title=f"Say that {row.transaction_id} is fraud",
        about=_about(row),
        words=lambda typed: [*_words(row, "reject"), *option("--reason", typed["reason"], required=True)],
        verb=verb,
        look=["fraud", "explain", row.transaction_id],
        fields=(Field("reason", "why it is fraud; kept in the decision", required=True),),
    )


def _words(row: ReviewRow, verb: str) -> list[str]:
    return ["fraud", "review", verb, row.transaction_id]


def _about(row: ReviewRow) -> str:
    rules = ", ".join(reason["rule"] for reason in row.reasons)
    return f"{row.kind} of {Money(row.amount_minor, row.asset)} by {row.account}; score {row.score:.2f}, by: {rules}"
