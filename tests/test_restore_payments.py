"""After a restore the world is further than the books: nothing is done twice, what may have been done is asked for."""

from __future__ import annotations

import asyncio
import json
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import redis.asyncio as redis

from pasys import config
from pasys.bus import Bus
from pasys.config import Settings
from pasys.db import Database
from pasys.events import FraudCleared, PspNotified
from pasys.service import backup, refund, settlement
from pasys.stack import client
from tests import archive_kit
from tests.backup_kit import PASYS
from tests.faults_invariants import violations
from tests.faults_kit import all_status, ask_one_refund, nothing_unfinished, open_payers, pay_from
from tests.support import daemons, eventually, open_accounts, pay, until_status
from tests.worker_kit import announce, deliver, on_the_bus, opened

QUICK = "resolve_every_s = 0.2\n"


class Psp:
    """The stack's own simulator, as far as its lists are concerned."""

    def __init__(self, settings: Settings) -> None:
        key = settings.require("stripe_api_key")
        base = settings.require("stripe_api_base")
        self.http = httpx.Client(base_url=base, headers={"Authorization": f"Bearer {key}"}, timeout=10)


def command(home: Path, *words: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run([PASYS, "--home", home, *words, "--json"], capture_output=True, text=True, timeout=300)
    return done.returncode, json.loads(done.stdout)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """`pasys up`, with everything in it."""
    for name in ("DATABASE_URL", "NATS_URL", "REDIS_URL", "STRIPE_API_KEY", "STRIPE_API_BASE", "PASYS_TEST_PROGRAMS"):
        monkeypatch.delenv(name, raising=False)
    with tempfile.TemporaryDirectory(prefix="pasys-t") as folder:
        found = Path(folder) / "home"
        found.mkdir()
        (found / "pasys.toml").write_text(QUICK, encoding="utf-8")
        client.up(found, timeout_s=120)
        yield found
        client.down(found, destroy=True)


@asynccontextmanager
async def books(home: Path) -> AsyncIterator[Database]:
    db = Database(config.load(home))
    yield db
    await db.close()


@contextmanager
def without(home: Path, *names: str) -> Iterator[None]:
    for name in names:
        client.stop(home, name)
    yield
    for name in names:
        client.start(home, name)


async def under_way(home: Path) -> tuple[list[str], datetime]:
    """Payments that ended, others that nobody settled yet, a refund that nobody sent; and a moment after that."""
    async with books(home) as db:
        payers = await open_payers(db, 8)
        ended = await pay_from(db, payers[:4])
        await all_status(db, ended, "succeeded", within_s=60)
        with without(home, "settlement", "refund"):
            waiting = await pay_from(db, payers[4:])
            await ask_one_refund(db, ended[0], 2_000)
            await asyncio.sleep(0.05)
            moment = datetime.now(UTC)
            await asyncio.sleep(0.05)
        await nothing_unfinished(db, within_s=60)  # what comes now is going to be lost
    return [*ended, *waiting], moment


async def test_nothing_is_done_twice_at_the_psp(home: Path) -> None:
    """Back to before payments were settled and a refund was sent: all of it ends as it did, and each of it once."""
    assert (await asyncio.to_thread(command, home, "backup"))[0] == 0
    paid, moment = await under_way(home)
    await asyncio.to_thread(client.down, home)
    code, report = await asyncio.to_thread(command, home, "restore", "--to", moment.isoformat(), "--yes")
    assert (code, report["ok"], report["perhaps_asked"]) == (0, True, 5), report
    await asyncio.to_thread(client.up, home, timeout_s=120)
    async with books(home) as db:
        await nothing_unfinished(db, within_s=90)
        assert await violations(db, Psp(config.load(home))) == []
        async with db.unit() as unit:
            rows = await unit.rows("select status, count(*) from transaction group by status")
            assert {row.status: row.count for row in rows} == {"succeeded": len(paid)}
            assert await unit.value("select count(*) from refund where status = 'completed'") == 1


async def test_a_drill_says_what_would_be_lost_and_whether_the_books_hold(home: Path) -> None:
    """Beside a running stack: the recovery point counts from the first thing that is missing; wrong books exit 9."""
    async with books(home) as db:
        payers = await open_payers(db, 3)
        paid = await pay_from(db, payers[:1])
        await all_status(db, paid, "succeeded", within_s=60)
    with without(home, "psp", "webhook"):  # nobody tells us anything for a while
        async with books(home) as db:
            await nothing_unfinished(db, within_s=60)
        assert (await asyncio.to_thread(command, home, "backup"))[0] == 0
        began = time.monotonic()
        code, report = await asyncio.to_thread(command, home, "restore", "--drill")
    assert (code, report["ok"], report["findings"]) == (0, True, [])
    assert report["recovery_point_s"] == 0  # the last thing that happened is in the backup
    assert report["assets"][0]["restored_seq"] == report["assets"][0]["live_seq"] == report["transfers"]
    assert 0 < report["recovery_time_s"] < time.monotonic() - began
    async with books(home) as db:
        await all_status(db, await pay_from(db, payers[1:2]), "succeeded", within_s=60)
    code, report = await asyncio.to_thread(command, home, "restore", "--drill")
    assert code == 0 and report["recovery_point_s"] > 0
    assert report["assets"][0]["restored_seq"] < report["assets"][0]["live_seq"]
    with psycopg.connect(config.load(home).require("database_url"), autocommit=True) as superuser:
        superuser.execute("set session_replication_role = replica")  # no trigger fires
        superuser.execute("update transfer set amount = amount + 1 where seq = 1")
    assert (await asyncio.to_thread(command, home, "backup", "--keep", "1"))[0] == 0
    code, report = await asyncio.to_thread(command, home, "restore", "--drill")
    assert (code, report["ok"], report["error"]["code"]) == (9, False, "books_do_not_hold")
    assert report["findings"][0]["seq"] == 1
    await asyncio.to_thread(client.down, home)
    code, report = await asyncio.to_thread(command, home, "restore", "--yes")
    assert (code, report["error"]["code"]) == (9, "books_do_not_hold")
    assert not list((home / "data").glob("postgres.*"))  # what does not hold replaces nothing


# The parts -----------------------------------------------------------------------------------------------------------


async def in_outbox(db: Database) -> set[str]:
    async with db.unit() as unit:
        return {row.event_id for row in await unit.rows("select event_id from outbox")}


async def test_what_was_not_handled_is_announced_again(db: Database) -> None:
    """Behind the oldest mark everything, before it what is known to be overdue, and what stood among the dead."""
    await announce(db, *map(opened, ("had", "parked", "late", "new", "newer")))
    async with db.unit() as unit:
        had, parked, late, new, newer = [row.id for row in await unit.rows("select id from event order by id")]
        await unit.rows("delete from outbox")
        await unit.rows("insert into inbox_mark values ('a', %(a)s), ('b', %(b)s)", a=late, b=new)
        await unit.rows(
            "insert into overdue (handler, event_id, parked, due_at) values ('a.x', %(p)s, true, %(l)s),"
            " ('a.x', %(e)s, false, %(l)s)",
            p=parked, e=late, l=datetime(2100, 1, 1, tzinfo=UTC),
        )  # fmt: skip
    async with db.unit() as unit:
        assert await backup.resume(unit, whole=True) == backup.Resumed(4, 0)
    assert await in_outbox(db) == {parked, late, new, newer}
    assert had not in await in_outbox(db)
    async with db.unit() as unit:
        assert await unit.value("select count(*) from overdue where parked or due_at > now()") == 0


async def test_where_no_daemon_looked_everything_is_announced_again(db: Database) -> None:
    """Without a mark nobody knows what was handled; the inbox does, when it comes."""
    await announce(db, opened("one"), opened("two"))
    async with db.unit() as unit:
        await unit.rows("delete from outbox")
        assert (await backup.resume(unit, whole=True)).announced == 2


@pytest.mark.parametrize("whole", [True, False])
async def test_a_payment_that_was_perhaps_asked_for_is_as_old_as_it_is(db: Database, whole: bool) -> None:
    """Its key may have been used, and forgotten by the PSP: the question says since when, unless nothing is lost."""
    async with db.unit() as unit:
        await open_accounts(unit)
    id = await pay(db)
    async with db.unit() as unit:
        resumed = await backup.resume(unit, whole=whole)
        created_at = await unit.value("select created_at from transaction")
    assert resumed.perhaps_asked == (0 if whole else 1)
    cleared = FraudCleared(transaction_id=id, decision_id="fd", score=0.0, asset="USD")
    async with db.unit() as unit:
        (asked,) = await settlement.prepare(unit, [cleared])
        await unit.rows("update transaction set outcome = 'unknown'")
    assert (asked.requested_at == created_at) is not whole
    notified = PspNotified(
        psp="instant", notice_id="n", type="t", object_id="o", transaction_id=id, refund_id=None, asset="USD"
    )
    async with db.unit() as unit:
        (again,) = await settlement.notice(unit, [notified])
    assert again.requested_at == asked.requested_at
    async with db.unit() as unit:
        assert await backup.resume(unit, whole=False) == backup.Resumed(resumed.announced, 0)  # it is on record


@pytest.mark.parametrize("whole", [True, False])
async def test_a_refund_that_was_perhaps_sent_is_as_old_as_it_is(db: Database, settings: Settings, whole: bool) -> None:
    """The same for money on its way back."""
    async with db.unit() as unit:
        await open_accounts(unit)
    async with daemons(settings, "fraud", "settlement", "ledger"):
        id = await pay(db)
        await until_status(db, id, "succeeded")
    await ask_one_refund(db, id, 1_000)
    async with db.unit() as unit:
        resumed = await backup.resume(unit, whole=whole)
        refund_id, created_at = tuple((await unit.rows("select id, created_at from refund"))[0])
    assert resumed.perhaps_asked == (0 if whole else 1)
    async with db.unit() as unit:
        assert await refund.reserve(unit, refund_id)
    async with db.unit() as unit:
        sent = await refund.send(unit, refund_id)
    assert sent is not None and (sent.sent_at == created_at) is not whole


async def test_books_that_begin_behind_an_archive_are_held_against_its_signature(db: Database, tmp_path: Path) -> None:
    """Where the first transfers are in files, what follows from them must be what was signed."""
    await archive_kit.grown(db, rounds=14)
    await archive_kit.archive(db, tmp_path, to=archive_kit.ROWS)
    async with db.unit() as unit:
        assert (await backup.verified(unit)).ok
    with psycopg.connect(db.url, autocommit=True) as superuser:
        superuser.execute("alter table checkpoint disable trigger all")
        superuser.execute("delete from checkpoint")
    async with db.unit() as unit:
        found = await backup.verified(unit)
    assert [(one.what, one.seq) for one in found.findings] == [("archive", archive_kit.ROWS)]


async def test_servers_of_ones_own_forget_the_future(settings: Settings) -> None:
    """A bus and counters that outlive the database are emptied; what others keep there stays."""
    bus = await Bus(settings).connect()
    cache = redis.from_url(settings.require("redis_url"))
    try:
        await deliver(bus, opened("lost"))
        mine, other = f"{{{settings.redis_prefix}:velocity}}:acc_1", f"{settings.redis_prefix}:pulse:x"
        await cache.mset({mine: "1", f"{{{settings.redis_prefix}:velocity}}:whole": "1", other: "1"})
        await backup.forget_the_future(settings)
        assert await on_the_bus(bus) == 0
        assert await cache.exists(mine, f"{{{settings.redis_prefix}:velocity}}:whole") == 0
        assert await cache.exists(other) == 1
    finally:
        await cache.aclose()
        await bus.close()


@pytest.fixture
def own(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home where all three servers are the operator's own."""
    fields = ("database_url", "nats_url", "redis_url", "bus_prefix", "redis_prefix")
    for name in fields:
        monkeypatch.delenv(name.upper(), raising=False)
    lines = [f"{name} = {json.dumps(getattr(settings, name))}" for name in fields]
    (tmp_path / "pasys.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


async def test_a_database_that_was_restored_elsewhere_goes_on(db: Database, settings: Settings, own: Path) -> None:
    """Refused while a daemon works; then the bus is emptied, and what was not handled is announced and asked for."""
    words = ("restore", "--elsewhere", "--yes")
    async with db.unit() as unit:
        await open_accounts(unit)
    async with daemons(settings, "ledger"):
        await eventually(lambda: pulse(settings))
        code, report = await asyncio.to_thread(command, own, *words)
        assert (code, report["error"]["code"], report["error"]["facts"]) == (
            4,
            "daemons_at_work",
            {"daemons": "ledger"},
        )
    await pay(db)
    bus = await Bus(settings).connect()
    try:
        await deliver(bus, opened("lost"))
        code, report = await asyncio.to_thread(command, own, *words)
        assert (code, report["ok"], report["perhaps_asked"]) == (0, True, 1)
        assert await on_the_bus(bus) == 0
    finally:
        await bus.close()
    async with db.unit() as unit:
        announced = await unit.value("select count(*) from event")
    assert report["announced"] <= announced == len(await in_outbox(db)) > 0
    with psycopg.connect(db.url, autocommit=True) as superuser:
        superuser.execute("set session_replication_role = replica")
        superuser.execute("update transfer set amount = amount + 1 where seq = 1")
    code, report = await asyncio.to_thread(command, own, *words)
    assert (code, report["ok"]) == (9, False)


async def pulse(settings: Settings) -> bool:
    from pasys.cli import health

    return bool(await asyncio.to_thread(health.pulses, settings))


def test_what_pasys_restores_itself_is_not_adopted(tmp_path: Path) -> None:
    """Without DATABASE_URL there is nothing that was restored elsewhere; with a time the question makes no sense."""
    for words in (("--elsewhere",), ("--elsewhere", "--to", "1h")):
        code, report = command(tmp_path, "restore", *words, "--yes")
        assert (code, report["error"]["facts"]["field"]) == (2, "elsewhere")
