"""The archive's tables: which partitions of the journal are in which file, and what of them is still asked for."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, LargeBinary, Table, Text
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from pasys.schema.base import Id, Time, metadata, one_of
from pasys.schema.ledger import transfer

# A row for each time that a partition was archived or brought back, with the file that had it then.
archive = Table(
    "archive",
    metadata,
    Column("asset", Id, primary_key=True),
    Column("last_seq", BigInteger, primary_key=True, autoincrement=False),
    Column("at", Time, primary_key=True),
    Column("action", Text, nullable=False),
    Column("first_seq", BigInteger, nullable=False),
    Column("hash_before", LargeBinary, nullable=False),  # of the row before the first
    Column("hash_after", LargeBinary, nullable=False),  # of the last
    Column("last_recorded_at", Time, nullable=False),
    Column("holds", ARRAY(UUID), nullable=False),  # those that were open behind the last row
    Column("file", Id, nullable=False),
    Column("sha256", LargeBinary, nullable=False),
    Column("actor", Id, nullable=False),
    one_of("action", "archived", "restored"),
    CheckConstraint("first_seq between 1 and last_seq", name="range"),
    CheckConstraint("length(hash_before) = 32 and length(hash_after) = 32 and length(sha256) = 32", name="hash"),
)

# What each account that had moved by then amounted to behind the row `seq`, the last of an archived partition.
archive_account = Table(
    "archive_account",
    metadata,
    Column("asset", Id, primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("account", BigInteger, primary_key=True, autoincrement=False),
    Column("version", BigInteger, nullable=False),
    Column("debits_pending", BigInteger, nullable=False),
    Column("debits_posted", BigInteger, nullable=False),
    Column("credits_pending", BigInteger, nullable=False),
    Column("credits_posted", BigInteger, nullable=False),
    Column("open_since", Time),  # of a clearing account that was not at zero
)

# Archived rows that later ones still name (holds that were open) or later times still count (what was dated ahead).
archive_transfer = Table(
    "archive_transfer",
    metadata,
    *(
        Column(column.name, column.type, primary_key=column.primary_key, autoincrement=False, nullable=column.nullable)
        for column in transfer.columns
    ),
)

# What each archived row still answers when its id is asked for again: 26 bytes a row (domain/ledger_answer.py).
archive_answer = Table(
    "archive_answer",
    metadata,
    Column("asset", Id, primary_key=True),
    Column("first_seq", BigInteger, primary_key=True, autoincrement=False),
    Column("answers", LargeBinary, nullable=False),
)
