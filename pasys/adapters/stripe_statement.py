"""A balance transaction of Stripe, as a line of a statement: our money, our ids, one word for each kind of line."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pasys.adapters.stripe_currency import from_stripe
from pasys.events import StatementLine

# https://docs.stripe.com/reports/balance-transaction-types
TYPES = {
    "charge": "charge",
    "payment": "charge",
    "refund": "refund",
    "payment_refund": "refund",
    "refund_failure": "adjustment",  # money of a refund that came back; its refund_id says of which
    "payment_failure_refund": "adjustment",
    "adjustment": "adjustment",
    "payout": "payout",
    "payout_cancel": "payout",
    "payout_failure": "payout",
    "stripe_fee": "fee",
    "stripe_fx_fee": "fee",
    "tax_fee": "fee",
    "network_cost": "fee",
}


def is_dispute(entry: dict[str, Any]) -> bool:
    """Disputes are adjustments whose source is the dispute."""
    return str(entry.get("reporting_category", "")).startswith("dispute") or _source(entry).get("object") == "dispute"


def disputed(entry: dict[str, Any]) -> str | None:
    """The payment intent that a dispute's line is about."""
    intent = _source(entry).get("payment_intent")
    return intent.get("id") if isinstance(intent, dict) else intent


def line_of(entry: dict[str, Any], about: dict[str, str]) -> StatementLine:
    """The line; `about` is the metadata of what it belongs to. Raises AmountNotKept."""
    amount = from_stripe(entry["amount"], entry["currency"])
    return StatementLine(
        line_id=entry["id"],
        type="dispute" if is_dispute(entry) else TYPES.get(entry["type"], "other"),
        asset=amount.asset,
        amount_minor=amount.minor,
        fee_minor=from_stripe(entry.get("fee") or 0, entry["currency"]).minor,
        source_id=_source(entry).get("id"),
        transaction_id=about.get("transaction_id"),
        refund_id=about.get("refund_id"),
        status=entry["status"],
        created_at=datetime.fromtimestamp(entry["created"], UTC),
        description=entry.get("description") or "",
    )


def metadata_of(entry: dict[str, Any]) -> dict[str, str]:
    """The metadata of a line's source. Stripe copies a payment intent's to its charge."""
    return _source(entry).get("metadata") or {}


def _source(entry: dict[str, Any]) -> dict[str, Any]:
    source = entry.get("source")
    return source if isinstance(source, dict) else {"id": source}
