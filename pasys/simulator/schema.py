"""Each kind of object is one table, newest last, with an index for each filter that its list takes.

The object itself is JSON in `body`; the columns beside it repeat what lists filter by. Private columns are never shown.
"""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    """One noun of Stripe's API. `name` is its `object`, `table` its path below /v1."""

    name: str
    table: str
    prefix: str
    filters: tuple[str, ...] = ()
    # Filters that may change after the object was made.
    moving: tuple[str, ...] = ()
    private: tuple[str, ...] = ()
    searchable: bool = False


_KINDS = [
    Kind("payment_intent", "payment_intents", "pi", ("customer",), moving=("customer",), searchable=True),
    Kind("charge", "charges", "ch", ("payment_intent", "customer"), searchable=True),
    Kind("refund", "refunds", "re", ("payment_intent", "charge")),
    Kind("customer", "customers", "cus", ("email",), moving=("email",), searchable=True),
    Kind("payment_method", "payment_methods", "pm", ("customer",), moving=("customer",), private=("test_card",)),
    Kind(
        "balance_transaction",
        "balance_transactions",
        "txn",
        ("source", "payout", "type", "currency"),
        moving=("payout",),
        private=("payout",),
    ),
    Kind("payout", "payouts", "po", ("status",), moving=("status",)),
    Kind("dispute", "disputes", "du", ("charge", "payment_intent")),
    Kind("event", "events", "evt", ("type",)),
    Kind("webhook_endpoint", "webhook_endpoints", "we", private=("secret",)),
]
KINDS = {kind.name: kind for kind in _KINDS}
BY_PREFIX = {kind.prefix: kind for kind in _KINDS}

_OTHER_TABLES = """
CREATE TABLE IF NOT EXISTS search (
    object TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, id TEXT NOT NULL,
    PRIMARY KEY (object, key, value, id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS balance (
    currency TEXT NOT NULL, available_on INTEGER NOT NULL, net INTEGER NOT NULL,
    PRIMARY KEY (currency, available_on)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS idempotency (
    seq INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, fingerprint BLOB NOT NULL,
    status INTEGER NOT NULL, body BLOB NOT NULL, request TEXT NOT NULL, at INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS delivery (
    seq INTEGER PRIMARY KEY, event TEXT NOT NULL, endpoint TEXT NOT NULL,
    attempts INTEGER NOT NULL, due REAL NOT NULL, created REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS deferred (id TEXT PRIMARY KEY, due REAL NOT NULL);
CREATE TABLE IF NOT EXISTS fault (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS call (
    seq INTEGER PRIMARY KEY, at REAL NOT NULL, operation TEXT NOT NULL, path TEXT NOT NULL, idempotency_key TEXT,
    outcome TEXT NOT NULL, fault TEXT, status INTEGER, object TEXT, metadata BLOB
);
"""


def ddl() -> str:
    return "".join(_table(kind) for kind in _KINDS) + _OTHER_TABLES


def columns(kind: Kind) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*kind.filters, *kind.private)))


def tables() -> list[str]:
    """Every table, for a simulator that is emptied."""
    other = ("search", "balance", "idempotency", "delivery", "deferred", "fault", "call")
    return [kind.table for kind in _KINDS] + list(other)


def _table(kind: Kind) -> str:
    extra = "".join(f", {column} TEXT" for column in columns(kind))
    statements = [
        f"CREATE TABLE IF NOT EXISTS {kind.table} "
        f"(seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, created INTEGER NOT NULL{extra}, body BLOB NOT NULL);",
        f"CREATE INDEX IF NOT EXISTS {kind.table}_created ON {kind.table}(created);",
    ]
    statements += [
        f"CREATE INDEX IF NOT EXISTS {kind.table}_{column} ON {kind.table}({column}, created) "
        f"WHERE {column} IS NOT NULL;"
        for column in kind.filters
    ]
    return "\n".join(statements)
