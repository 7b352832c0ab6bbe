"""The tables of the money path: transactions, where they come from, their attempts, and refunds."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

from pasys.schema.base import NOW, ONLY_ADDED_TO, Id, Time, metadata, one_of

# Transactions --------------------------------------------------------------------------------------------------------

transaction = Table(
    "transaction",
    metadata,
    Column("id", Id, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("rail", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("outcome", Text),  # 'unknown' while the PSP has not said what happened
    Column("review", Boolean, nullable=False, server_default="false"),
    Column("asset", Id, nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("debit_account", BigInteger, nullable=False),
    Column("credit_account", BigInteger, nullable=False),
    Column("payment_method", Text),
    Column("reason", Text),
    Column("parent_id", Id),
    Column("batch_id", Id),
    Column("actor", Text, nullable=False),
    Column("metadata", JSONB),
    Column("hold_id", UUID),
    Column("transfer_ids", ARRAY(UUID), nullable=False, server_default="{}"),
    Column("psp_reference", Text),
    Column("charge_reference", Text),
    Column("captured_minor", BigInteger, nullable=False, server_default="0"),
    Column("fee_minor", BigInteger, nullable=False, server_default="0"),
    Column("refunding_minor", BigInteger, nullable=False, server_default="0"),
    Column("refunded_minor", BigInteger, nullable=False, server_default="0"),
    Column("credited", Boolean, nullable=False, server_default="false"),  # the merchant has the money
    Column("settling_at", Time),  # when it was handed to settlement; from then on it cannot be cancelled
    Column("effective_at", Time, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("final_at", Time),
    CheckConstraint("amount_minor > 0", name="amount"),
    CheckConstraint(
        "refunding_minor >= 0 and refunded_minor >= 0 and refunding_minor + refunded_minor <= captured_minor",
        name="refundable",
    ),
    CheckConstraint("outcome = 'unknown'", name="outcome"),
    one_of("kind", "payment", "transfer", "deposit", "withdrawal"),
    one_of("status", "initialized", "pending", "succeeded", "failed", "fraud", "refunding", "cancelled", "refunded"),
    Index("transaction_debit_account_idx", "debit_account", "id"),
    Index("transaction_credit_account_idx", "credit_account", "id"),
    Index("transaction_open_idx", "id", postgresql_where=text("status in ('initialized', 'pending', 'refunding')")),
    Index("transaction_batch_id_idx", "batch_id", postgresql_where=text("batch_id is not null")),
    Index("transaction_parent_id_key", "parent_id", unique=True, postgresql_where=text("parent_id is not null")),
    Index("transaction_psp_reference_idx", "psp_reference", postgresql_where=text("psp_reference is not null")),
    Index(
        "transaction_charge_reference_idx", "charge_reference", postgresql_where=text("charge_reference is not null")
    ),
    postgresql_with={
        "fillfactor": "70",
        "autovacuum_vacuum_insert_threshold": "-1",
        "autovacuum_analyze_scale_factor": "0.5",
    },
)

transaction_history = Table(
    "transaction_history",
    metadata,
    Column("transaction_id", Id, nullable=False),
    Column("from_status", Text),
    Column("to_status", Text, nullable=False),
    Column("at", Time, nullable=False),
    Column("reason", Text),
    Column("event_id", Id),
    Column("actor", Text),
    Index("transaction_history_transaction_id_idx", "transaction_id"),
    postgresql_with=ONLY_ADDED_TO,
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("actor", Id, nullable=False),
    Column("operation", Id, nullable=False),
    Column("key", Id, nullable=False),
    Column("body_hash", LargeBinary, nullable=False),
    Column("entity_id", Id, nullable=False),
    Column("at", Time, nullable=False, server_default=NOW),
    PrimaryKeyConstraint("key", "actor", "operation"),  # what differs comes first
    postgresql_with=ONLY_ADDED_TO,
)

import_batch = Table(
    "import_batch",
    metadata,
    Column("id", Id, primary_key=True),
    Column("file_name", Text, nullable=False),
    Column("file_hash", LargeBinary, nullable=False),
    Column("actor", Text, nullable=False),
    Column("rows_total", Integer, nullable=False, server_default="0"),
    Column("rows_done", Integer, nullable=False, server_default="0"),
    Column("rows_refused", Integer, nullable=False, server_default="0"),
    Column("started_at", Time, nullable=False, server_default=NOW),
    Column("finished_at", Time),
    Column("undone_at", Time),
    UniqueConstraint("actor", "file_hash"),
)

# The rows of an import that a rule refused, so that an import which was interrupted can still list all of them.
import_refusal = Table(
    "import_refusal",
    metadata,
    Column("batch_id", Id, primary_key=True),
    Column("line", Integer, primary_key=True, autoincrement=False),
    Column("key", Text),
    Column("rule", Text, nullable=False),
    Column("message", Text, nullable=False),
)

# Every call of a PSP, on record before it is made.
attempt = Table(
    "attempt",
    metadata,
    Column("entity_id", Id, primary_key=True),  # tx_… or rf_…
    Column("step", Id, primary_key=True),  # authorise, capture, refund; with the entity it is the PSP's idempotency key
    Column("transaction_id", Id, nullable=False),
    Column("psp", Text, nullable=False),
    Column("asset", Id, nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("psp_reference", Text),
    Column("auth_code", Text),
    Column("processor_code", Text),
    Column("reason", Text),
    Column("latency_ms", Integer),
    Column("asked", Integer, nullable=False, server_default="1"),
    Column("requested_at", Time, nullable=False),
    Column("finished_at", Time),
    Column("ask_after", Time),  # when the resolver asks next, while the outcome is unknown
    one_of("outcome", "requested", "succeeded", "declined", "unknown", "skipped"),
    Index("attempt_transaction_id_idx", "transaction_id"),
    Index("attempt_ask_after_idx", "ask_after", postgresql_where=text("ask_after is not null")),
    postgresql_with={"fillfactor": "70"},
)


# Refunds -------------------------------------------------------------------------------------------------------------

refund = Table(
    "refund",
    metadata,
    Column("id", Id, primary_key=True),
    Column("transaction_id", Id, ForeignKey("transaction.id"), nullable=False),
    Column("asset", Id, nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("status", Text, nullable=False),
    Column("outcome", Text),
    Column("automatic", Boolean, nullable=False, server_default="false"),
    Column("reason", Text),
    Column("decline_reason", Text),
    Column("requested_by", Text, nullable=False),
    Column("decided_by", Text),
    Column("psp_reference", Text),
    Column("reserved_from", BigInteger),  # the account that the money was reserved from
    Column("transfer_ids", ARRAY(UUID), nullable=False, server_default="{}"),
    Column("created_at", Time, nullable=False),
    Column("final_at", Time),
    CheckConstraint("amount_minor > 0", name="amount"),
    CheckConstraint("outcome = 'unknown'", name="outcome"),
    one_of(
        "status",
        "requested",
        "awaiting_approval",
        "approved",
        "rejected",
        "reserved",
        "sent",
        "completed",
        "declined",
        "released",
    ),
    Index("refund_transaction_id_idx", "transaction_id"),
    Index("refund_psp_reference_idx", "psp_reference", postgresql_where=text("psp_reference is not null")),
    Index(
        "refund_open_idx",
        "status",
        "id",
        postgresql_where=text("status in ('requested', 'awaiting_approval', 'approved', 'reserved', 'sent')"),
    ),
    postgresql_with={"fillfactor": "70"},
)

refund_history = Table(
    "refund_history",
    metadata,
    Column("refund_id", Id, nullable=False),
    Column("from_status", Text),
    Column("to_status", Text, nullable=False),
    Column("at", Time, nullable=False),
    Column("reason", Text),
    Column("event_id", Id),
    Column("actor", Text),
    Index("refund_history_refund_id_idx", "refund_id"),
)
