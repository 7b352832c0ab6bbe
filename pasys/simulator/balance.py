"""The balance is the sum of the balance transactions, per currency, split by whether they are available yet."""

from __future__ import annotations

from pasys.simulator import listing
from pasys.simulator.currency import currency, fee
from pasys.simulator.fields import EXPAND, PAGE, text
from pasys.simulator.operations import Call, Operation
from pasys.simulator.store import Object
from pasys.simulator.unit import Unit

DAY_S = 86_400

_REPORTING = {"adjustment": "dispute"}


def record(
    unit: Unit,
    line_type: str,
    amount: int,
    code: str,
    source: str,
    *,
    charged_fee: int = 0,
    pending: bool = False,
    payout: str | None = None,
    description: str | None = None,
) -> Object:
    """One line of the statement: `amount` is signed, in minor units, before the fee."""
    available_on = unit.now
    if pending and unit.settings.pending_s:
        # Stripe makes money available at midnight UTC.
        available_on = -(-(unit.now + unit.settings.pending_s) // DAY_S) * DAY_S
    details = {"amount": charged_fee, "application": None, "currency": code, "type": "stripe_fee"}
    return unit.insert(
        "balance_transaction",
        {"payout": payout},
        amount=amount,
        available_on=available_on,
        balance_type="payments",
        currency=code,
        description=description,
        exchange_rate=None,
        fee=charged_fee,
        fee_details=[{**details, "description": "Stripe processing fees"}] if charged_fee else [],
        net=amount - charged_fee,
        reporting_category=_REPORTING.get(line_type, line_type),
        source=source,
        status="pending" if available_on > unit.now else "available",
        type=line_type,
    )


def record_charge(unit: Unit, amount: int, charge: Object) -> Object:
    """The line of a capture, with its fee; some test cards skip the pending balance."""
    pending = unit.test_card(charge["payment_method"]).balance == "pending"
    return record(
        unit,
        "charge",
        amount,
        charge["currency"],
        charge["id"],
        charged_fee=fee(amount, charge["currency"]),
        pending=pending,
        description=charge["description"],
    )


def total(unit: Unit, code: str) -> int:
    """Everything in a currency, pending or not."""
    row = unit.store.row("SELECT sum(net) FROM balance WHERE currency = ?", (code,))
    return (row[0] if row else None) or 0


def _retrieve_balance(unit: Unit, call: Call) -> Object:
    rows = unit.store.rows(
        "SELECT currency, sum(iif(available_on <= ?, net, 0)), sum(iif(available_on > ?, net, 0)) "
        "FROM balance GROUP BY currency",
        (unit.now, unit.now),
    )
    return {
        "object": "balance",
        "available": [_amount(code, available) for code, available, _ in rows],
        "livemode": False,
        "pending": [_amount(code, pending) for code, _, pending in rows],
    }


def _amount(code: str, amount: int) -> Object:
    return {"amount": amount, "currency": code, "source_types": {"card": amount}}


def _current(unit: Unit, line: Object) -> Object:
    """A line's status follows the clock."""
    if line["status"] == "pending" and line["available_on"] <= unit.now:
        line["status"] = "available"
    return line


def _list(unit: Unit, call: Call) -> Object:
    def view(line: Object) -> list[Object]:
        return unit.faults.statement(_current(unit, line), _metadata(unit, line))

    shown = view if unit.faults.on_statements else None
    page = listing.page(unit.store, "balance_transaction", call.asked, call.path, shown)
    for line in page["data"]:
        _current(unit, line)
    return page


def _metadata(unit: Unit, line: Object) -> dict[str, str]:
    source = unit.find_any(line["source"])
    return (source.get("metadata") if source else None) or {}


def _retrieve(unit: Unit, call: Call) -> Object:
    return _current(unit, unit.load("balance_transaction", call.id))


OPERATIONS = [
    Operation("balance.retrieve", "GET", "balance", _retrieve_balance, EXPAND),
    Operation(
        "balance_transactions.list",
        "GET",
        "balance_transactions",
        _list,
        {**PAGE, "currency": currency, "payout": text, "source": text, "type": text},
    ),
    Operation("balance_transactions.retrieve", "GET", "balance_transactions/:id", _retrieve, EXPAND),
]
