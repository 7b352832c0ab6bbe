"""The tables between the books and the bus: what was announced, what waits, and what was handled."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Index, Integer, LargeBinary, Table, text

from pasys.schema.base import ONLY_ADDED_TO, Id, Time, metadata

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
    postgresql_with=ONLY_ADDED_TO,
)

# The queue of facts that the bus has not acknowledged yet. Without `claimed_until` a row is wanted out at once, by any
# relay. Until that time whoever wrote it may publish it alone; after it, it is part of the backlog.
outbox = Table(
    "outbox",
    metadata,
    Column("event_id", Id, primary_key=True),
    Column("claimed_until", Time),
    Index("outbox_at_once_idx", "event_id", postgresql_where=text("claimed_until is null")),
)

# What each handler has done: the message's effect, exactly once. Ids sort by time, so new rows lie together.
inbox = Table(
    "inbox",
    metadata,
    Column("event_id", Id, primary_key=True),
    Column("handler", Id, primary_key=True),
)

# How far each daemon has looked through what was announced: whatever it should have had up to here it has had, or it
# stands in `overdue`.
inbox_mark = Table(
    "inbox_mark",
    metadata,
    Column("daemon", Id, primary_key=True),
    Column("event_id", Id, nullable=False),
)

# What a handler should have had long ago: announced again when it is due, `times` so far. What it could not handle is
# `parked` and waits for a person.
overdue = Table(
    "overdue",
    metadata,
    Column("handler", Id, primary_key=True),
    Column("event_id", Id, primary_key=True),
    Column("times", Integer, nullable=False, server_default="0"),
    Column("parked", Boolean, nullable=False, server_default="false"),
    Column("due_at", Time, nullable=False),
)
