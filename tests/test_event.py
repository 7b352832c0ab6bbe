"""Events pass by, are put aside with a reason, and are said again from the stream of the dead or from the log."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pasys import ids
from pasys.bus import Bus
from pasys.cli import topology
from pasys.cli.main import run
from pasys.config import Settings
from pasys.db import Database
from pasys.events import CATALOG, AccountOpened, Announcement, encode
from pasys.service import account, event

HANDLER = "refund.reserve"


def announcement(name: str) -> Announcement:
    fact = AccountOpened(asset="USD", account_id="acc_1", name=name, type="customer")
    event_id = ids.new("evt")
    body = encode(fact, id=event_id, time=datetime.now(UTC), correlation_id="acc_1")
    return Announcement(event_id, "account.opened.USD", body)


@pytest.fixture
async def bus(settings: Settings) -> Any:
    connected = await Bus(settings).connect()
    yield connected
    for stream in (connected.events, connected.dead):
        await connected.js.delete_stream(stream)
    await connected.close()


@pytest.fixture
def pasys(settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """A command line against this test's servers, in a thread: its exit code, and what it printed."""
    monkeypatch.setenv("PASYS_HOME", settings.home)
    for name in ("database_url", "nats_url", "redis_url"):
        monkeypatch.setenv(name.upper(), getattr(settings, name))
    monkeypatch.setenv("PASYS_BUS_PREFIX", settings.bus_prefix)
    monkeypatch.setenv("PASYS_REDIS_PREFIX", settings.redis_prefix)

    async def call(*words: str) -> tuple[int, Any]:
        capsys.readouterr()
        code = await asyncio.to_thread(run, [*words, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return call


async def park(bus: Bus, said: Announcement) -> None:
    """Have a handler take the message and put it aside."""
    await bus.publish([said])
    pull = await bus.subscribe(HANDLER.replace(".", "_"), ["account.opened"], batch=10)
    (message,) = await asyncio.wait_for(pull.take(1), 10)
    await bus.park(message, handler=HANDLER, event_id=said.event_id, reason="it broke", traceback="line 1\nline 2")
    await pull.close()


async def stored(bus: Bus) -> int:
    return (await bus.js.stream_info(bus.events)).state.messages


async def test_topology_is_the_code() -> None:
    """Every subject has somebody who emits it, and is consumed exactly where its handlers say so, or is final."""
    subjects = {row.subject: row for row in topology.read()}
    assert list(subjects) == list(CATALOG)
    for row in subjects.values():
        assert row.emitted_by, f"nobody emits {row.subject}"
        assert bool(row.consumed_by) != row.final, f"{row.subject} is final, or it is consumed"
    assert "service.transaction" in subjects["transaction.created"].emitted_by
    assert subjects["settlement.requested"].consumed_by == ["settlement.send"]
    assert subjects["settlement.succeeded"].older_name == "settlement_result_events"


async def test_nothing_stands_aside(bus: Bus, pasys: Any) -> None:
    """An empty dead-letter stream is an empty list, and everything of nothing is replayed."""
    assert await event.dead_letters(bus) == []
    assert await pasys("events", "dead") == (0, {"dead": []})
    assert await pasys("events", "replay", "--all", "--yes") == (0, {"replayed": []})
    code, printed = await pasys("events", "dead", "7")
    assert code == 3 and printed["error"]["code"] == "dead_letter_not_found"


async def test_dead_letter_is_shown_and_replayed(bus: Bus, pasys: Any) -> None:
    """A dead letter shows its reason, message and traceback; replayed, it is on its subject again."""
    said = announcement("alice")
    await park(bus, said)
    _, listed = await pasys("events", "dead")
    (letter,) = listed["dead"]
    assert (letter["handler"], letter["event_id"], letter["reason"]) == (HANDLER, said.event_id, "it broke")
    _, shown = await pasys("events", "dead", str(letter["sequence"]))
    assert shown["message"]["data"]["name"] == "alice" and shown["traceback"] == "line 1\nline 2"
    before = await stored(bus)
    assert (await pasys("events", "replay", str(letter["sequence"]), "--dry-run"))[0] == 0
    assert await stored(bus) == before
    code, printed = await pasys("events", "replay", str(letter["sequence"]))
    assert code == 0 and printed["replayed"][0]["event_id"] == said.event_id
    assert await stored(bus) == before + 1, "the server did not drop it as a duplicate"
    assert await event.dead_letters(bus) == []


async def test_tail_shows_what_passed(bus: Bus, pasys: Any) -> None:
    """The newest events come first when asked for, and the command ends by count, or by time when nothing comes."""
    await bus.publish([announcement("alice"), announcement("bob")])
    code, printed = await pasys("events", "tail", "account", "--last", "2", "--count", "2")
    assert code == 0 and [row["data"]["name"] for row in printed["events"]] == ["alice", "bob"]
    assert printed["events"][0]["subject"] == "account.opened" and printed["events"][0]["asset"] == "USD"
    assert await pasys("events", "tail", "refund", "--timeout", "0.2") == (0, {"events": []})
    assert (await pasys("events", "tail"))[0] == 2, "an endless tail cannot be one JSON object"


async def test_log_refills_a_bus(db: Database, bus: Bus, pasys: Any) -> None:
    """What the bus lost is put back into the outbox from the log, by time; a dry run only counts."""
    async with db.unit(now=datetime.now(UTC) - timedelta(hours=3)) as unit:
        await account.open(unit, name="early", asset="USD")
    async with db.unit() as unit:
        await account.open(unit, name="alice", asset="USD")
        await account.open(unit, name="bob", asset="USD")
    async with db.unit() as unit:
        await unit.rows("delete from outbox")
    assert (await pasys("events", "replay", "--since", "1h", "--dry-run"))[1]["events"] == 2
    code, printed = await pasys("events", "replay", "--since", "1h", "--yes")
    assert code == 0 and printed["events"] == 2
    async with db.unit() as unit:
        assert await unit.value("select count(*) from outbox") == 2
    assert (await pasys("events", "replay", "--since", "1h", "--yes"))[1]["events"] == 0, "they wait already"


async def test_replay_needs_one_thing_to_say(pasys: Any) -> None:
    """Without a dead letter, --all or --since there is nothing to send, and a question needs a terminal."""
    assert (await pasys("events", "replay"))[0] == 2
    assert (await pasys("events", "replay", "7", "--all"))[0] == 2
    code, printed = await pasys("events", "replay", "--since", "yesterday")
    assert code == 2 and printed["error"]["facts"]["field"] == "since"
    code, printed = await pasys("events", "replay", "--since", "1h")
    assert code == 2 and printed["error"]["fix"] == "Pass --yes."
