"""The schema, declared once. migrations/ holds its history, and a test proves that the two agree.

Amounts are BIGINT minor units, so a fraction of one cannot be stored. Ids sort by time and compare bytewise (COLLATE
"C"). Everything that must never be changed refuses UPDATE, DELETE and TRUNCATE by trigger (migrations/).
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s_check",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    }
)

Id = Text(collation="C")
Time = DateTime(timezone=True)
NOW = text("now()")


def _one_of(column: str, *values: str) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} in ({listed})", name=column)


# The ledger ----------------------------------------------------------------------------------------------------------

asset = Table(
    "asset",
    metadata,
    Column("code", Id, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("decimals", SmallInteger, nullable=False),
    Column("chain", Text),
    Column("contract", Text),
    Column("chain_decimals", SmallInteger),
    # The serialisation point: seq of the last transfer, and a fence that account administration moves.
    Column("last_seq", BigInteger, nullable=False, server_default="0"),
    Column("epoch", BigInteger, nullable=False, server_default="0"),
    CheckConstraint("decimals between 0 and 9", name="decimals"),
    _one_of("kind", "fiat", "token"),
    postgresql_with={"fillfactor": "10"},
)

account = Table(
    "account",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("name", Id, nullable=False),
    Column("asset", Id, ForeignKey("asset.code"), nullable=False),
    Column("type", Text, nullable=False),
    Column("status", Text, nullable=False, server_default="active"),
    # 1: debits must not exceed credits; 2: credits must not exceed debits.
    Column("flags", Integer, nullable=False, server_default="0"),
    # Number of transfers applied: the account's own sequence, without gaps.
    Column("version", BigInteger, nullable=False, server_default="0"),
    Column("debits_pending", BigInteger, nullable=False, server_default="0"),
    Column("debits_posted", BigInteger, nullable=False, server_default="0"),
    Column("credits_pending", BigInteger, nullable=False, server_default="0"),
    Column("credits_posted", BigInteger, nullable=False, server_default="0"),
    Column("metadata", JSONB),
    Column("opened_at", Time, nullable=False, server_default=NOW),
    UniqueConstraint("name", "asset"),
    _one_of("type", "customer", "merchant", "provider", "system"),
    _one_of("status", "active", "frozen", "closed"),
    CheckConstraint(
        "debits_pending >= 0 and debits_posted >= 0 and credits_pending >= 0 and credits_posted >= 0", name="counters"
    ),
    CheckConstraint("flags & 1 = 0 or debits_posted + debits_pending <= credits_posted", name="debit_limit"),
    CheckConstraint("flags & 2 = 0 or credits_posted + credits_pending <= debits_posted", name="credit_limit"),
    postgresql_with={"fillfactor": "50"},
)

# The journal. One immutable row names both sides; refused transfers are recorded with the rule that refused them.
transfer = Table(
    "transfer",
    metadata,
    Column("asset", Id, primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("id", UUID, nullable=False),
    Column("debit", BigInteger, nullable=False),
    Column("credit", BigInteger, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("kind", SmallInteger, nullable=False),  # 0 direct, 1 pending, 2 post, 3 void
    Column("code", SmallInteger, nullable=False),  # what it is for: pasys.domain.ledger.Purpose
    Column("result", SmallInteger, nullable=False),  # 0 accepted, else pasys.domain.ledger.Result
    Column("pending_id", UUID),
    Column("corrects", UUID),
    Column("debit_version", BigInteger, nullable=False),
    Column("credit_version", BigInteger, nullable=False),
    Column("debit_balance", BigInteger, nullable=False),  # credits − debits posted, after this transfer
    Column("credit_balance", BigInteger, nullable=False),
    Column("effective_at", Time, nullable=False),
    Column("recorded_at", Time, nullable=False),
    Column("reference", Id),  # the entity that it was posted for: tx_…, rf_…, brk_…
    CheckConstraint("kind between 0 and 3", name="kind"),
    CheckConstraint("result <> 0 or (amount > 0 and debit <> credit)", name="amount"),
    CheckConstraint("(kind >= 2) = (pending_id is not null)", name="pending"),
    Index("transfer_id_key", "id", unique=True),
    Index("transfer_debit_idx", "debit", "seq"),
    Index("transfer_credit_idx", "credit", "seq"),
)

# A hold that is still open: its pending transfer has been neither posted, voided nor expired.
hold = Table(
    "hold",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("asset", Id, nullable=False),
    Column("debit", BigInteger, nullable=False),
    Column("credit", BigInteger, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("expires_at", Time),
    Column("reference", Id),
    Index("hold_expires_at_idx", "expires_at", postgresql_where=text("expires_at is not null")),
)

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
    _one_of("kind", "payment", "transfer", "deposit", "withdrawal"),
    _one_of(
        "status", "initialized", "pending", "succeeded", "failed", "fraud", "refunding", "cancelled", "refunded"
    ),
    Index("transaction_debit_account_idx", "debit_account", "id"),
    Index("transaction_credit_account_idx", "credit_account", "id"),
    Index("transaction_open_idx", "id", postgresql_where=text("status in ('initialized', 'pending', 'refunding')")),
    Index("transaction_batch_id_idx", "batch_id", postgresql_where=text("batch_id is not null")),
    Index("transaction_parent_id_key", "parent_id", unique=True, postgresql_where=text("parent_id is not null")),
    Index("transaction_psp_reference_idx", "psp_reference", postgresql_where=text("psp_reference is not null")),
    postgresql_with={"fillfactor": "70"},
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
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("actor", Id, primary_key=True),
    Column("operation", Id, primary_key=True),
    Column("key", Id, primary_key=True),
    Column("body_hash", LargeBinary, nullable=False),
    Column("entity_id", Id, nullable=False),
    Column("at", Time, nullable=False, server_default=NOW),
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
    _one_of("outcome", "requested", "succeeded", "declined", "unknown", "skipped"),
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
    _one_of(
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

# Fraud ---------------------------------------------------------------------------------------------------------------

fraud_rules = Table(
    "fraud_rules",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("rules", JSONB, nullable=False),
    Column("note", Text, nullable=False, server_default=""),
    Column("actor", Text, nullable=False),
    Column("at", Time, nullable=False, server_default=NOW),
)

fraud_decision = Table(
    "fraud_decision",
    metadata,
    Column("id", Id, primary_key=True),
    Column("transaction_id", Id, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("score", Float, nullable=False),
    Column("reasons", JSONB, nullable=False),
    Column("signals", JSONB, nullable=False),
    Column("rules_version", Integer, nullable=False),
    Column("model_version", Text),
    Column("decided_by", Text, nullable=False),
    Column("at", Time, nullable=False),
    _one_of("outcome", "cleared", "review", "flagged"),
    Index("fraud_decision_transaction_id_idx", "transaction_id", "id"),
)

# Reconciliation ------------------------------------------------------------------------------------------------------

reconciliation_run = Table(
    "reconciliation_run",
    metadata,
    Column("id", Id, primary_key=True),
    Column("psp", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("since", Time, nullable=False),
    Column("until", Time, nullable=False),
    Column("lines", Integer, nullable=False, server_default="0"),
    Column("matched", Integer, nullable=False, server_default="0"),
    Column("breaks", Integer, nullable=False, server_default="0"),
    Column("reason", Text),
    Column("actor", Text, nullable=False),
    Column("started_at", Time, nullable=False, server_default=NOW),
    Column("finished_at", Time),
    _one_of("status", "reading", "completed", "failed"),
    Index("reconciliation_run_psp_idx", "psp", "id"),
)

# The PSP's statement as we have read it; a line that the PSP lists twice has two occurrences.
statement_line = Table(
    "statement_line",
    metadata,
    Column("psp", Id, primary_key=True),
    Column("line_id", Id, primary_key=True),
    Column("occurrence", SmallInteger, primary_key=True, autoincrement=False),
    Column("run_id", Id, nullable=False),
    Column("type", Text, nullable=False),
    Column("asset", Id, nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("fee_minor", BigInteger, nullable=False),
    Column("source_id", Id),
    Column("transaction_id", Id),
    Column("refund_id", Id),
    Column("status", Text, nullable=False),
    Column("description", Text, nullable=False, server_default=""),
    Column("created_at", Time, nullable=False),
    Column("matched", Boolean, nullable=False, server_default="false"),
    Column("matched_id", Id),  # the entity of ours that it agrees with
    # Without psp: before the first statistics, the planner would take it for the primary key.
    Index("statement_line_created_at_idx", "created_at"),
    Index("statement_line_matched_id_idx", "matched_id", postgresql_where=text("matched_id is not null")),
)

reconciliation_break = Table(
    "reconciliation_break",
    metadata,
    Column("id", Id, primary_key=True),
    Column("run_id", Id, nullable=False),
    Column("psp", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("asset", Id, nullable=False),
    Column("difference_minor", BigInteger, nullable=False),
    Column("line_id", Id),
    Column("entity_id", Id),
    Column("evidence", JSONB, nullable=False),  # {"expected": …, "found": …}
    Column("status", Text, nullable=False, server_default="open"),
    Column("resolution", Text),
    Column("note", Text),
    Column("actor", Text),
    Column("transfer_ids", ARRAY(UUID), nullable=False, server_default="{}"),
    Column("found_at", Time, nullable=False, server_default=NOW),
    Column("resolved_at", Time),
    _one_of(
        "kind",
        "amount",
        "currency",
        "status",
        "fee",
        "missing_in_ledger",
        "missing_at_psp",
        "duplicate",
        "late",
    ),
    _one_of("status", "open", "resolved"),
    Index("reconciliation_break_entity_id_idx", "entity_id"),
    Index("reconciliation_break_line_id_idx", "line_id"),
    Index("reconciliation_break_open_idx", "psp", "id", postgresql_where=text("status = 'open'")),
)

# A PSP's webhooks, as they came; the PSP's own event id refuses a replay.
psp_notice = Table(
    "psp_notice",
    metadata,
    Column("psp", Id, primary_key=True),
    Column("event_id", Id, primary_key=True),
    Column("notice_id", Id, nullable=False, unique=True),
    Column("type", Text, nullable=False),
    Column("object_id", Id),
    Column("transaction_id", Id),
    Column("payload", JSONB, nullable=False),
    Column("received_at", Time, nullable=False, server_default=NOW),
    Index("psp_notice_transaction_id_idx", "transaction_id", postgresql_where=text("transaction_id is not null")),
)

# Events --------------------------------------------------------------------------------------------------------------

# Every fact that was announced, kept for a while so that a bus that lost its tail can be refilled.
event = Table(
    "event",
    metadata,
    Column("id", Id, primary_key=True),
    Column("subject", Id, nullable=False),
    Column("asset", Id, nullable=False),
    Column("entity_id", Id, nullable=False),
    Column("correlation_id", Id, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("at", Time, nullable=False),
    Index("event_correlation_id_idx", "correlation_id"),
)

# The queue of facts that the bus has not acknowledged yet. Whoever wrote a row may publish it alone until
# `claimed_until`; after that, or without it, every relay may.
outbox = Table(
    "outbox",
    metadata,
    Column("event_id", Id, primary_key=True),
    Column("claimed_until", Time),
)

# What each handler has done: the message's effect, exactly once. Ids sort by time, so new rows lie together.
inbox = Table(
    "inbox",
    metadata,
    Column("event_id", Id, primary_key=True),
    Column("handler", Id, primary_key=True),
)
