"""Facts that are announced as columns say the same as one object at a time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from pasys import ids
from pasys.db import COPY_FROM, Database
from pasys.domain.transaction import Kind
from pasys.events import Facts, TransactionSucceeded, decode, encode

NOW = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=UTC)


def many(count: int, **columns: Any) -> Facts:
    return Facts(
        kind=TransactionSucceeded,
        same={"asset": "USD", "rail": "book"},
        columns={
            "transaction_id": ids.many("tx", count),
            "kind": [Kind.DEPOSIT, Kind.TRANSFER] * (count // 2),
            "amount_minor": list(range(1, count + 1)),
        }
        | columns,
    )


@pytest.mark.parametrize("actor", ["ada", '100% "ü"\\\n{0}', "100000000000000000", "100000000000000001 %s"])
@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"kind": ['a"b', "c\\d", "e\nf", "ü"]},
        {"kind": ["", " ", "%s", "{}"]},
        {"amount_minor": [0, -1, 2**62, 100_000_000_000_000_000]},
    ],
)
def test_columns_are_encoded_as_objects_are(actor: str, columns: dict[str, Any]) -> None:
    """Byte by byte, whoever acts and whatever stands in a column."""
    facts, fresh = many(4, **columns), ids.many("evt", 4)
    found = facts.encode(fresh, time=NOW, actor=actor)
    wanted = [
        encode(event, id=id, time=NOW, correlation_id=event.correlation_id, actor=actor)
        for event, id in zip(facts, fresh, strict=True)
    ]
    assert found == wanted
    assert [decode(body)[1] for body in found] == list(facts)


def test_no_facts_are_no_messages() -> None:
    """Where everything was refused there is nothing to say."""
    assert many(0).encode([], time=NOW, actor="ada") == []


@pytest.mark.parametrize("count", [2, COPY_FROM])
async def test_facts_are_announced_as_events_are(count: int, db: Database) -> None:
    """Few as rows of a statement, many by COPY; each once in the log and in the outbox, under its own entity."""
    facts = many(count)
    async with db.unit(now=NOW, actor="ada") as unit:
        unit.emit_many(facts)
    async with db.unit() as unit:
        rows = await unit.rows("select e.* from event e join outbox o on o.event_id = e.id order by e.id")
    assert [row.entity_id for row in rows] == [row.correlation_id for row in rows] == facts.columns["transaction_id"]
    assert {(row.subject, row.asset, row.at) for row in rows} == {("transaction.succeeded", "USD", NOW)}
    for row, event in zip(rows, facts, strict=True):
        envelope, said = decode(bytes(row.body))
        assert (envelope.id, envelope.actor, said) == (row.id, "ada", event)
        assert msgspec.json.decode(row.body)["data"]["rail"] == "book"


async def test_who_publishes_himself_gets_facts_one_by_one(db: Database) -> None:
    """A worker's own announcements, and those that something has caused, are never a backlog."""
    facts = many(COPY_FROM)
    caused = {facts.columns["transaction_id"][0]: "evt_cause"}
    async with db.unit(relayed=True) as unit:
        unit.emit_many(facts)
        await unit.write_outbox(relayed=True)
        assert len(unit.announcements) == COPY_FROM
    async with db.unit(causes=caused) as unit:
        unit.emit_many(facts)
    async with db.unit() as unit:
        bodies = await unit.rows("select body from event where body like '%%evt_cause%%'")
        waiting = await unit.value("select count(*) from outbox where claimed_until is not null")
    assert len(bodies) == 1
    assert waiting == 2 * COPY_FROM


async def test_what_a_unit_announces_keeps_its_order(db: Database) -> None:
    """Facts of many stand between the events before and behind them, and where they are a backlog, so is all of it."""
    facts = many(COPY_FROM)
    first, last = many(2), many(2)
    async with db.unit() as unit:
        unit.emit(*first)
        unit.emit_many(facts)
        unit.emit(*last)
    async with db.unit() as unit:
        rows = await unit.rows(
            "select e.entity_id, o.claimed_until is not null as waits"
            " from event e join outbox o on o.event_id = e.id order by e.id"
        )
    assert [row.entity_id for row in rows] == [*first.entity_ids, *facts.entity_ids, *last.entity_ids]
    assert all(row.waits for row in rows)
