"""What a person does about refunds from the dashboard: ask for one, agree to one, refuse one."""

from __future__ import annotations

from pasys import ids
from pasys.db import Unit
from pasys.domain.refund import Status
from pasys.money import parse
from pasys.service import refund
from pasys.service.refund_query import RefundRow
from pasys.service.transaction_query import TransactionRow
from pasys.tui.action import Action, Field, Values, option
from pasys.tui.transaction_action import line


def request(row: TransactionRow) -> Action:
    """Send money back. One key for as long as the question is open, so that asking twice refunds once."""
    key = ids.new("key")

    def words(typed: Values) -> list[str]:
        said = ["refund", "create", row.id, *option("--amount", typed["amount"]), *option("--reason", typed["reason"])]
        return [*said, "--idempotency-key", key]

    async def verb(unit: Unit, typed: Values) -> str:
        amount = parse(typed["amount"], row.amount.asset) if typed["amount"] else None
        asked = await refund.request(unit, row.id, amount=amount, reason=typed["reason"] or None, key=key)
        if asked.replayed:
            return f"It was asked for before: it is {asked.refund_id}."
        waits = asked.status is Status.AWAITING_APPROVAL
        return f"Refund {asked.refund_id} " + ("waits for a second person." if waits else "is on its way.")

    left = row.refundable
    return Action(
        title=f"Refund {row.id}",
        about=f"{line(row)}. {left} can go back.",
        words=words,
        verb=verb,
        look=["refund", "list", "--transaction", row.id],
        fields=(
            Field("amount", f"in {left.asset}; all that is left, if empty", left.decimal if left.minor > 0 else ""),
            Field("reason", "why it goes back; kept with the refund"),
        ),
    )


def approve(row: RefundRow) -> Action:
    async def verb(unit: Unit, typed: Values) -> str:
        await refund.approve(unit, row.id, reason=typed["reason"] or None)
        return f"Refund {row.id} is approved, and on its way."

    return Action(
        title=f"Approve refund {row.id}",
        about=_about(row),
        words=lambda typed: ["refund", "approve", row.id, *option("--reason", typed["reason"])],
        verb=verb,
        look=["refund", "show", row.id],
        fields=(Field("reason", "why, if there is something to say; kept in its history"),),
    )


def reject(row: RefundRow) -> Action:
    async def verb(unit: Unit, typed: Values) -> str:
        await refund.reject(unit, row.id, reason=typed["reason"])
        return f"Refund {row.id} is rejected."

    return Action(
        title=f"Reject refund {row.id}",
        about=_about(row),
        words=lambda typed: ["refund", "reject", row.id, *option("--reason", typed["reason"], required=True)],
        verb=verb,
        look=["refund", "show", row.id],
        fields=(Field("reason", "why not; kept in its history", required=True),),
    )


def _about(row: RefundRow) -> str:
    why = f", because: {row.reason}" if row.reason else ""
    return f"{row.amount} of {row.transaction_id}, asked for by {row.requested_by}{why}"
