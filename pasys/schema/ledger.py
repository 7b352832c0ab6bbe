"""The ledger's tables: assets, accounts, the journal of transfers with its ids, and the holds that are open."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, UUID

from pasys.schema.base import NOW, ONLY_ADDED_TO, Id, Time, metadata, one_of

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
    # The last transfer's hash and time, up to where the account rows are exact, and up to where partitions are made.
    Column("last_hash", LargeBinary, nullable=False),
    Column("last_recorded_at", Time, nullable=False, server_default="-infinity"),
    Column("projected_seq", BigInteger, nullable=False, server_default="0"),
    Column("partitioned_seq", BigInteger, nullable=False, server_default="0"),
    # Up to where the journal was archived: its first row here is the next.
    Column("archived_seq", BigInteger, nullable=False, server_default="0"),
    CheckConstraint("decimals between 0 and 9", name="decimals"),
    one_of("kind", "fiat", "token"),
    CheckConstraint("length(last_hash) = 32", name="last_hash"),
    CheckConstraint("projected_seq between 0 and last_seq", name="projected"),
    CheckConstraint("archived_seq between 0 and projected_seq", name="archived"),
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
    # A part of a name, by its trigrams. Not there where the server has no pg_trgm: revision 0009.
    Index("account_name_part_idx", "name", postgresql_using="gin", postgresql_ops={"name": "gin_trgm_ops"}),
    one_of("type", "customer", "merchant", "provider", "system"),
    one_of("status", "active", "frozen", "closed"),
    CheckConstraint(
        "debits_pending >= 0 and debits_posted >= 0 and credits_pending >= 0 and credits_posted >= 0", name="counters"
    ),
    CheckConstraint("flags & 1 = 0 or debits_posted + debits_pending <= credits_posted", name="debit_limit"),
    CheckConstraint("flags & 2 = 0 or credits_posted + credits_pending <= debits_posted", name="credit_limit"),
    postgresql_with={"fillfactor": "50", "autovacuum_analyze_scale_factor": "1"},
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
    Column("recorded_at", Time, nullable=False),  # never before that of an earlier seq
    Column("expires_at", Time),
    Column("seal", BigInteger, nullable=False),  # the first bytes of the row's hash: pasys.domain.ledger_chain
    Column("reference", Id),  # the entity that it was posted for: tx_…, rf_…, brk_…
    CheckConstraint("kind between 0 and 3", name="kind"),
    CheckConstraint("result <> 0 or (amount > 0 and debit <> credit)", name="amount"),
    CheckConstraint("(kind >= 2) = (pending_id is not null)", name="pending"),
    CheckConstraint("expires_at is null or kind = 1", name="expires"),
    postgresql_partition_by="RANGE (asset, seq)",
)

# Which ids are taken, for ever and in all assets. The journal's partitions cannot keep them unique, and are archived.
transfer_key = Table(
    "transfer_key",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("asset", Id, nullable=False),
    Column("seq", BigInteger, nullable=False),
    postgresql_with=ONLY_ADDED_TO,
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

# A signed statement of what a row's hash is, and the state of the books there: pasys.domain.ledger_checkpoint.
checkpoint = Table(
    "checkpoint",
    metadata,
    Column("asset", Id, primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("hash", LargeBinary, nullable=False),
    Column("state_hash", LargeBinary, nullable=False),
    Column("key_id", Id, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("at", Time, nullable=False),
    CheckConstraint("length(hash) = 32 and length(state_hash) = 32", name="hash"),
)

checkpoint_state = Table(
    "checkpoint_state",
    metadata,
    Column("asset", Id, primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("state", LargeBinary, nullable=False),
)
