"""Webhooks arrive over real HTTP at the real process, and are on record with their event before they are answered."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import stripe

from daemons import webhook
from pasys import events, ids
from pasys.config import Settings
from pasys.db import Database
from tests.simulator_process import KEY, SECRET, Simulator, free_port
from tests.support import owning

DEADLINE_S = 10.0


class Face:
    """The webhook process at a free port, and a client that talks to it."""

    def __init__(self, settings: Settings) -> None:
        origin = f"http://127.0.0.1:{free_port()}"
        self.url = f"{origin}/webhooks/stripe"
        self.settings = msgspec.structs.replace(
            settings, webhook_url=self.url, stripe_api_key=KEY, stripe_webhook_secret=SECRET
        )
        self.http = aiohttp.ClientSession(base_url=origin)
        spawn = multiprocessing.get_context("spawn")
        self.listening = spawn.Event()
        self.process = spawn.Process(target=run_face, args=(self.settings, self.listening))

    async def start(self) -> Face:
        self.process.start()
        assert await asyncio.to_thread(self.listening.wait, DEADLINE_S), "the webhook face did not start"
        return self

    async def post(self, body: str | bytes, signature: str | None, path: str = "/webhooks/stripe") -> tuple[int, Any]:
        headers = {"Stripe-Signature": signature} if signature is not None else {}
        data = body.encode() if isinstance(body, str) else body
        async with self.http.post(path, data=data, headers=headers) as answer:
            return answer.status, await answer.json(content_type=None)

    async def get(self, path: str) -> int:
        async with self.http.get(path) as answer:
            return answer.status

    async def stop(self) -> None:
        await self.http.close()
        if self.process.is_alive():
            self.process.terminate()
            await asyncio.to_thread(self.process.join, DEADLINE_S)


def run_face(settings: Settings, listening: Any) -> None:
    webhook.main(settings, ready=listening.set)


@pytest.fixture
async def face(settings: Settings) -> AsyncIterator[Face]:
    started = await Face(settings).start()
    yield started
    await started.stop()


def event(kind: str = "payment_intent.succeeded", *, event_id: str | None = None, **about: Any) -> str:
    made = {"id": "pi_1", "object": "payment_intent", "currency": "usd", "metadata": {"transaction_id": "tx_1"}}
    body = {"id": event_id or ids.new("evt"), "object": "event", "type": kind, "data": {"object": {**made, **about}}}
    return json.dumps(body)


def sign(body: str, *, secret: str = SECRET, age_s: int = 0) -> str:
    return stripe.WebhookSignature.generate_signature_header(body, secret, int(time.time()) - age_s)


async def stored(db: Database) -> list[Any]:
    async with db.unit() as unit:
        return await unit.rows("select * from psp_notice order by notice_id")


async def announced(db: Database) -> list[events.PspNotified]:
    async with db.unit() as unit:
        rows = await unit.rows("select body from event where subject = 'psp.notified' order by id")
    found = [events.decode(bytes(row.body))[1] for row in rows]
    assert all(isinstance(fact, events.PspNotified) for fact in found)
    return found  # type: ignore[return-value]


async def test_a_webhook_is_stored_and_announced(face: Face, db: Database):
    """When the PSP hears 200 the notice is on record as it came, and its event waits for a relay."""
    body = event(event_id="evt_a", metadata={"transaction_id": "tx_1", "refund_id": "rf_1"})
    assert await face.post(body, sign(body)) == (200, {"status": "ok"})
    [row] = await stored(db)
    assert (row.psp, row.event_id, row.type, row.object_id) == ("stripe", "evt_a", "payment_intent.succeeded", "pi_1")
    assert row.transaction_id == "tx_1"
    assert row.payload == json.loads(body)
    [fact] = await announced(db)
    assert (fact.notice_id, fact.psp, fact.asset) == (row.notice_id, "stripe", "USD")
    assert (fact.transaction_id, fact.refund_id, fact.object_id) == ("tx_1", "rf_1", "pi_1")
    async with db.unit() as unit:
        assert await unit.value("select count(*) from outbox") == 1


async def test_a_replay_is_answered_and_ignored(face: Face, db: Database):
    """The same event of the PSP, one after the other and twenty at once, is stored and announced once."""
    body = event(event_id="evt_b")
    signature = sign(body)
    answers = await asyncio.gather(*(face.post(body, signature) for _ in range(20)))
    answers.append(await face.post(body, signature))
    assert {status for status, _ in answers} == {200}
    assert len(await stored(db)) == len(await announced(db)) == 1


async def test_many_at_once_are_each_stored(face: Face, db: Database):
    """What is stored in one transaction is still one notice and one event each."""
    bodies = [event(event_id=f"evt_{number}") for number in range(300)]
    answers = await asyncio.gather(*(face.post(body, sign(body)) for body in bodies))
    assert {status for status, _ in answers} == {200}
    assert {row.event_id for row in await stored(db)} == {f"evt_{number}" for number in range(300)}
    assert len(await announced(db)) == 300


async def test_a_notice_without_its_event_is_not_stored(face: Face, db: Database):
    """Where the event cannot be written there is no notice either; sent again later, both are there."""
    body = event(event_id="evt_c")
    async with owning(db) as unit:
        await unit.rows("alter table outbox rename to outbox_away")
    assert (await face.post(body, sign(body)))[0] == 503
    assert await stored(db) == []
    async with owning(db) as unit:
        await unit.rows("alter table outbox_away rename to outbox")
    assert (await face.post(body, sign(body)))[0] == 200
    assert len(await stored(db)) == len(await announced(db)) == 1


async def test_a_bad_signature_is_refused(face: Face, db: Database):
    """Unsigned, signed by somebody else, changed on the way or old: 400, with a problem that says which rule."""
    body = event()
    for sent, signature in (
        (body, None),
        (body, ""),
        (body, "garbage"),
        (body, sign(body, secret="whsec_other")),
        (body, sign(body, age_s=301)),
        (body + " ", sign(body)),
        ("not json", sign("not json")),
        (b"\xff\xfe", sign("x")),
        ("", sign("")),
    ):
        status, problem = await face.post(sent, signature)
        assert (status, problem["code"], problem["status"]) == (400, "bad_signature", 400)
        assert problem["detail"]
    assert await stored(db) == []


async def test_what_says_nothing_to_us_is_taken_and_forgotten(face: Face, db: Database):
    """An event about something that we do not keep is answered with 200, so that it does not come again."""
    body = event("customer.created")
    assert (await face.post(body, sign(body)))[0] == 200
    assert (await face.post("{}", None, "/webhooks/instant"))[0] == 200
    assert await stored(db) == await announced(db) == []


async def test_other_doors_are_closed(face: Face):
    """An unknown PSP, an unknown path, another method and too large a body have an answer each."""
    assert (await face.post("{}", None, "/webhooks/nobody"))[0] == 404
    assert (await face.post("{}", None, "/webhooks/stripe/more"))[0] == 405
    assert (await face.post("{}", None, "/elsewhere"))[0] == 404
    assert await face.get("/webhooks/stripe") == 405
    status, problem = await face.post(b" " * (webhook.BODY_BYTES_MAX + 1), "t=1,v1=0")
    assert (status, problem["code"]) == (413, "too_large")
    assert await face.get("/health") == 200
    assert await face.get("/ready") == 200


async def test_a_payload_that_cannot_be_stored_stands_alone(face: Face, db: Database):
    """One event that PostgreSQL refuses (a NUL in a text) does not take those with it that came beside it."""
    bad = event(event_id="evt_bad", description="\x00")
    good = [event(event_id=f"evt_good_{number}") for number in range(20)]
    answers = await asyncio.gather(*(face.post(body, sign(body)) for body in (*good[:10], bad, *good[10:])))
    assert [status for status, _ in answers] == [200] * 10 + [500] + [200] * 10
    assert len(await stored(db)) == 20


@pytest.fixture
async def without_database(settings: Settings) -> AsyncIterator[Face]:
    nowhere = f"postgresql://nobody:x@127.0.0.1:{free_port()}/nothing"
    started = await Face(msgspec.structs.replace(settings, database_url=nowhere)).start()
    yield started
    await started.stop()


async def test_without_a_database_the_psp_sends_again(without_database: Face):
    """503 while the books cannot be written, and alive all the same; a bad signature is still a bad signature."""
    body = event()
    status, problem = await without_database.post(body, sign(body))
    assert (status, problem["code"]) == (503, "database_unavailable")
    assert await without_database.get("/ready") == 503
    assert await without_database.get("/health") == 200
    assert (await without_database.post(body, "garbage"))[0] == 400


async def test_a_lost_connection_is_replaced(face: Face, db: Database):
    """After PostgreSQL has cut every connection, webhooks are stored again within a few tries of the PSP."""
    body = event()
    assert (await face.post(body, sign(body)))[0] == 200
    async with owning(db) as unit:
        await unit.rows(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
    again = event(event_id="evt_again")
    answers = [(await face.post(again, sign(again)))[0] for _ in range(5)]
    assert set(answers) <= {200, 503} and answers[-1] == 200
    assert "evt_again" in {row.event_id for row in await stored(db)}


async def test_stops_promptly(face: Face):
    """SIGTERM ends the process within a second and with success, even while a client keeps its connection."""
    assert await face.get("/health") == 200
    begun = time.monotonic()
    face.process.terminate()
    await asyncio.to_thread(face.process.join, DEADLINE_S)
    assert face.process.exitcode == 0
    assert time.monotonic() - begun < 1.5


@pytest.fixture
def simulator(face: Face, tmp_path: Path) -> Iterator[Simulator]:
    running = Simulator(tmp_path, "--webhook-url", face.url, "--webhook-secret", SECRET)
    yield running
    running.stop()


async def test_the_simulators_webhooks_arrive(face: Face, db: Database, simulator: Simulator):
    """A payment at the simulator comes back as a notice that names our transaction, though it is sent twice."""
    simulator.fault("webhook_duplicated", "payment_intent.succeeded")
    await asyncio.to_thread(simulator.pay, metadata={"transaction_id": "tx_from_afar"})
    deadline = time.monotonic() + DEADLINE_S
    while simulator.control("GET", "webhooks")["undelivered"]:
        assert time.monotonic() < deadline, "the webhooks were not taken"
        await asyncio.sleep(0.05)
    told = [(fact.type, fact.transaction_id) for fact in await announced(db)]
    assert told == [("payment_intent.succeeded", "tx_from_afar")]
    assert len(await stored(db)) == 1


def test_it_is_no_daemon_of_the_bus():
    """A face has no handlers, so nobody may take it for a daemon."""
    assert not hasattr(webhook, "daemon")
