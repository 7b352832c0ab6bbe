"""What a person does about a transaction from the dashboard: withdraw it, or have its PSP asked what became of it."""

from __future__ import annotations

from pasys.db import Unit
from pasys.service import transaction_state, unknown
from pasys.service.transaction_query import TransactionRow
from pasys.tui.action import Action, Field, Values, option


def line(row: TransactionRow) -> str:
    """What a transaction is, in one line."""
    outcome = f" (its outcome is {row.outcome})" if row.outcome else ""
    return f"{row.kind} of {row.amount}, {row.debit} → {row.credit}, by {row.rail}: {row.status}{outcome}"


def cancel(row: TransactionRow) -> Action:
    async def verb(unit: Unit, typed: Values) -> str:
        await transaction_state.cancel(unit, row.id, reason=typed["reason"] or None)
        return f"{row.id} is cancelled; what it held is released."

    return Action(
        title=f"Cancel {row.id}",
        about=line(row),
        words=lambda typed: ["tx", "cancel", row.id, *option("--reason", typed["reason"])],
        verb=verb,
        look=["tx", "show", row.id],
        fields=(Field("reason", "why; kept in its history"),),
    )


def ask_again(entity_id: str, about: str) -> Action:
    """Of a transaction (tx_…) or a refund (rf_…)."""

    async def verb(unit: Unit, typed: Values) -> str:
        await unknown.ask_again(unit, entity_id)
        return f"The PSP is asked about {entity_id} now; what it says is seen here."

    return Action(
        title=f"Ask the PSP what became of {entity_id}",
        about=about,
        words=lambda _: ["tx", "resolve", entity_id],
        verb=verb,
        look=["refund" if entity_id.startswith("rf_") else "tx", "show", entity_id],
    )
