"""The tables of those who look over the money: fraud rules and decisions, statements, breaks, notices."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Float, Index, Integer, SmallInteger, Table, Text, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

from pasys.schema.base import NOW, Id, Time, metadata, one_of

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
    one_of("outcome", "cleared", "review", "flagged"),
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
    one_of("status", "reading", "completed", "failed"),
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
    Index("statement_line_source_id_idx", "source_id", postgresql_where=text("source_id is not null")),
    Index("statement_line_matched_id_idx", "matched_id", postgresql_where=text("matched_id is not null")),
)

reconciliation_break = Table(
    "reconciliation_break",
    metadata,
    Column("id", Id, primary_key=True),
    Column("run_id", Id),  # none where a capture itself showed the difference
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
    one_of(
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
    one_of("status", "open", "resolved"),
    Index("reconciliation_break_entity_id_idx", "entity_id"),
    Index("reconciliation_break_run_id_idx", "run_id", postgresql_where=text("run_id is not null")),
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
    Index("psp_notice_object_id_idx", "object_id", postgresql_where=text("object_id is not null")),
    Index("psp_notice_transaction_id_idx", "transaction_id", postgresql_where=text("transaction_id is not null")),
)
