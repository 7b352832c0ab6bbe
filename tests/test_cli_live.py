"""Commands against real servers: what they print, what they leave in the books, and how they end."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pasys import ids
from pasys.bus import Bus
from pasys.cli.main import INTERRUPTED, run
from pasys.config import Settings
from pasys.daemon import Daemon
from pasys.db import Database
from pasys.domain.ledger import Purpose, Transfer
from pasys.events import AccountOpened, Announcement, encode
from pasys.money import parse
from pasys.service import account, ledger, refund
from pasys.worker.pulse import Pulse
from tests.psp_answers import capture, doubt_refund, send_refund
from tests.support import open_accounts, pay


@pytest.fixture
def environment(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASYS_HOME", settings.home)
    for name in ("database_url", "nats_url", "redis_url"):
        monkeypatch.setenv(name.upper(), getattr(settings, name))
    monkeypatch.setenv("PASYS_BUS_PREFIX", settings.bus_prefix)
    monkeypatch.setenv("PASYS_REDIS_PREFIX", settings.redis_prefix)


@pytest.fixture
def pasys(environment: None, capsys: pytest.CaptureFixture[str]) -> Any:
    """A command line, in a thread: its exit code, and the JSON that it printed."""

    async def call(*words: str) -> tuple[int, Any]:
        capsys.readouterr()
        code = await asyncio.to_thread(run, [*words, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return call


async def fund(db: Database, name: str, amount_minor: int) -> None:
    async with db.unit() as unit:
        source = await account.system(unit, "external:deposits", "USD")
        number = (await account.find(unit, name, "USD")).number
        deposit = Transfer(debit=source, credit=number, amount_minor=amount_minor, asset="USD", purpose=Purpose.DEPOSIT)
        await ledger.post(unit, [deposit])


async def test_an_account_from_open_to_close(db: Database, pasys: Any) -> None:
    """Open, show, list, freeze, unfreeze, balance, statement, close: each prints the account as it then is."""
    code, opened = await pasys("account", "open", "alice", "--asset", "USD", "--metadata", "tier=gold")
    assert code == 0 and (opened["name"], opened["type"], opened["metadata"]) == ("alice", "customer", {"tier": "gold"})
    await fund(db, "alice", 1250)
    assert (await pasys("account", "freeze", "alice", "--asset", "USD"))[1]["status"] == "frozen"
    assert (await pasys("account", "list", "--status", "frozen"))[1]["accounts"][0]["id"] == opened["id"]
    assert (await pasys("account", "unfreeze", "alice"))[1]["status"] == "active"
    _, balance = await pasys("account", "balance", "alice")
    money = {"amount": "12.50", "amount_minor": 1250, "asset": "USD"}
    assert balance["balances"][0]["available"] == money == balance["balances"][0]["posted"]
    _, statement = await pasys("account", "statement", "alice")
    assert statement["lines"][0]["amount_minor"] == 1250 and statement["lines"][0]["purpose"] == "deposit"
    code, printed = await pasys("account", "close", "alice")
    assert code == 6 and printed["error"]["code"] == "account_not_empty"
    assert printed["error"]["facts"]["balance"] == money


async def test_balance_of_the_past(db: Database, pasys: Any) -> None:
    """--at answers with what was posted then; a time before the account existed is an error, never an empty answer."""
    await pasys("account", "open", "alice", "--asset", "USD")
    await fund(db, "alice", 700)
    code, now = await pasys("account", "balance", "alice", "--at", "0s")
    assert code == 0 and now["balances"][0]["posted"]["amount_minor"] == 700
    code, then = await pasys("account", "balance", "alice", "--at", "2000-01-01")
    assert code == 3 and then["error"]["code"] == "history_missing"


async def test_refusals_have_their_exit_codes(pasys: Any) -> None:
    """Unknown: 3. Open with other properties: 4. A name in several assets: 2. An asset that is none: 2."""
    await pasys("account", "open", "shop", "--type", "merchant", "--asset", "USD")
    await pasys("account", "open", "shop", "--type", "merchant", "--asset", "JPY", "--no-overdraft")
    assert (await pasys("account", "show", "nobody"))[0] == 3
    assert (await pasys("account", "open", "shop", "--asset", "USD"))[0] == 4
    assert (await pasys("account", "show", "shop"))[1]["error"]["facts"]["field"] == "asset"
    assert (await pasys("account", "open", "x", "--asset", "usd"))[0] == 2
    assert (await pasys("account", "show", "shop", "--asset", "JPY"))[1]["debits_must_not_exceed_credits"] is True


async def test_what_is_unknown_is_listed_with_nothing_left_out(
    db: Database, pasys: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """`refund list --unknown` has the refunds that `tx list --unknown` counts: those that a PSP has not told, alone."""
    async with db.unit() as unit:
        await open_accounts(unit)
    payment = await pay(db, "100.00")
    await capture(db, payment)
    async with db.unit() as unit:
        asked = [await refund.request(unit, payment, amount=parse("1.00", "USD"), key=key) for key in "abc"]
    told, *doubted = [one.refund_id for one in asked]
    for refund_id in (told, *doubted):
        await send_refund(db, refund_id)
    listed = ["tx", "list", "--unknown", "--json"]

    async def said(*words: str) -> str:
        assert await asyncio.to_thread(run, list(words)) == 0
        return capsys.readouterr().err

    assert await said(*listed) == "" and (await pasys("refund", "list", "--unknown"))[1] == {"refunds": []}
    await doubt_refund(db, doubted[0])
    assert "1 refund's outcome is unknown, too: `pasys refund list --unknown`" in await said(*listed)
    await doubt_refund(db, doubted[1])
    assert "2 refunds' outcomes are unknown, too" in await said(*listed)
    assert await said("tx", "list", "--json") == "", "it is not what was asked for"
    _, found = await pasys("refund", "list", "--unknown")
    assert [row["id"] for row in found["refunds"]] == doubted[::-1]
    assert (await pasys("refund", "list", "--unknown", "--after", doubted[1]))[1]["refunds"] == found["refunds"][1:]


async def test_books_that_do_not_hold_exit_9(db: Database, settings: Settings, pasys: Any) -> None:
    """`ledger verify` proves the books, and names what does not hold beside its `.ok`."""
    await pasys("account", "open", "alice", "--asset", "USD")
    await fund(db, "alice", 1250)
    code, found = await pasys("ledger", "verify")
    assert code == 0 and found["ok"] is True and found["transfers"] == 1
    _, journal = await pasys("ledger", "transfers", "--asset", "USD", "--account", "alice")
    assert [(row["seq"], row["amount_minor"], row["purpose"]) for row in journal["transfers"]] == [(1, 1250, "deposit")]
    _, trial = await pasys("ledger", "trial-balance")
    assert sum(row["net"]["amount_minor"] for row in trial["rows"]) == 0
    with psycopg.connect(settings.require("database_url"), autocommit=True) as connection:
        connection.execute("update account set credits_posted = credits_posted + 1 where name = 'alice'")
    code, found = await pasys("ledger", "verify")
    assert code == 9 and found["ok"] is False
    assert found["error"]["code"] == "books_do_not_hold" and found["findings"]


async def test_checkpoints_kept_in_a_file_vouch_for_the_books(
    db: Database, settings: Settings, pasys: Any, tmp_path: Path
) -> None:
    """`ledger checkpoint --json` into a file, and `ledger verify --full --checkpoint` of it, as README has it."""
    await pasys("account", "open", "alice", "--asset", "USD")
    for _ in range(3):
        await fund(db, "alice", 1250)
    kept = tmp_path / "kept.json"
    kept.write_text(json.dumps((await pasys("ledger", "checkpoint"))[1]), encoding="utf-8")
    asked = ("ledger", "verify", "--full", "--checkpoint", str(kept))
    assert (await pasys(*asked))[0] == 0
    forged = json.loads(kept.read_text(encoding="utf-8"))
    forged["checkpoints"][0]["hash"] = "00" * 32
    kept.write_text(json.dumps(forged), encoding="utf-8")
    code, found = await pasys(*asked)
    assert code == 9 and found["findings"][0]["what"] == "checkpoint"
    assert found["error"]["message"].endswith("does not have the hash that the checkpoint knows (row 3)")
    kept.write_text("{}", encoding="utf-8")
    assert (await pasys(*asked))[0] == 2
    with psycopg.connect(settings.require("database_url"), autocommit=True) as connection:
        connection.execute("set session_replication_role = replica")
        connection.execute("update transfer set amount = amount + 1 where seq = 2")
    code, found = await pasys("ledger", "verify", "--full")
    assert code == 9 and found["findings"][0]["seq"] == 2 and "(row 2, acc_" in found["error"]["message"]


async def test_the_past_is_asked_for_by_time(db: Database, pasys: Any) -> None:
    """`account statement --from --to`, `account balance --at`, `ledger trial-balance --at` go so far and no further."""
    await pasys("account", "open", "alice", "--asset", "USD")
    moments = []
    for amount in (100, 20, 3):
        await fund(db, "alice", amount)
        async with db.unit() as unit:
            moments.append((await unit.value("select clock_timestamp()")).isoformat())
    first, second, third = moments

    async def statement(*asked: str) -> tuple[int, list[int], int]:
        code, said = await pasys("account", "statement", "alice", *asked)
        assert code == 0, said
        amounts = [line["amount_minor"] for line in said["lines"]]
        return said["opening"]["amount_minor"], amounts, said["closing"]["amount_minor"]

    assert await statement("--from", first, "--to", second) == (100, [20], 120)
    assert await statement("--from", first) == (100, [20, 3], 123)
    assert await statement("--to", second, "--by", "recorded") == (0, [100, 20], 120)
    assert await statement("--from", third) == (123, [], 123)
    assert (await pasys("account", "statement", "alice", "--from", second, "--to", first))[0] == 2
    _, held = await pasys("account", "balance", "alice", "--at", second)
    assert [(one["asset"], one["posted"]["amount_minor"]) for one in held["balances"]] == [("USD", 120)]
    _, trial = await pasys("ledger", "trial-balance", "--at", second)
    assert {row["name"]: row["net"]["amount_minor"] for row in trial["rows"]} == {"external:deposits": 120, None: -120}


async def test_a_proof_holds_for_the_key_that_one_trusts(db: Database, pasys: Any, tmp_path: Path) -> None:
    """`ledger export --proof`, and `ledger verify --proof --key` of it: another key's owner has not signed it."""
    await pasys("account", "open", "alice", "--asset", "USD")
    await fund(db, "alice", 1250)
    _, made = await pasys("ledger", "checkpoint")
    proof = str(tmp_path / "books.proof")
    code, said = await pasys("ledger", "export", "--proof", proof, "--asset", "USD")
    assert code == 0, said
    key = said["public_key"]
    assert made["checkpoints"] and (await pasys("ledger", "verify", "--proof", proof, "--key", key))[0] == 0
    other = "3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29"
    assert (await pasys("ledger", "verify", "--proof", proof, "--key", other))[0] == 9
    assert (await pasys("ledger", "verify", "--proof", proof, "--key", "no key"))[0] == 2


async def test_schema_stands_and_has_nothing_to_do(pasys: Any) -> None:
    """`migrate` shows every revision, plans nothing for a database at the newest, and applies nothing to it."""
    code, found = await pasys("migrate", "status")
    assert code == 0 and found["revisions"] and all(row["applied"] for row in found["revisions"])
    assert await pasys("migrate", "plan") == (0, {"revisions": []})
    assert await pasys("migrate", "up") == (0, {"revisions": []})


async def test_status_of_the_operators_own_servers(settings: Settings, pasys: Any) -> None:
    """Without a supervisor, status asks the servers themselves, and knows the daemons by their pulse."""
    bus = await Bus(settings).connect()
    stop = asyncio.Event()
    beating = asyncio.create_task(Pulse("ledger-2", Daemon("ledger"), bus, settings).run(stop, []))
    await asyncio.sleep(0)
    deadline = time.monotonic() + 10
    while True:
        code, found = await pasys("status")
        if len(found["services"]) == 4 or time.monotonic() > deadline:
            break
    stop.set()
    await beating
    await bus.close()
    assert code == 0 and found["healthy"] is True
    assert {row["name"]: row["state"] for row in found["services"][:3]} == dict.fromkeys(
        ("postgres", "nats", "redis"), "external"
    )
    beat = found["services"][3]
    assert beat["name"].startswith("ledger-2@") and (beat["kind"], beat["handled"]) == ("daemon", 0)


async def test_a_server_that_is_away_is_named(pasys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the operator's servers does not answer: exit 7, and the error names it."""
    monkeypatch.setenv("NATS_URL", "nats://127.0.0.1:1")
    code, found = await pasys("status")
    assert code == 7 and found["healthy"] is False and found["error"]["facts"]["service"] == "nats"
    code, found = await pasys("events", "tail", "--count", "1")
    assert code == 7 and found["error"]["code"] == "bus_unavailable"
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    code, found = await pasys("account", "list")
    assert code == 7 and found["error"]["code"] == "database_unavailable"


async def test_ctrl_c_is_quiet(settings: Settings, environment: None) -> None:
    """Ctrl-C ends a command that goes on for ever with 130 and without a word, whatever it had shown before."""
    command = [sys.executable, "-c", "from pasys.cli.main import main; main()", "events", "tail", "-o", "jsonl"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout is not None
    bus = await Bus(settings).connect()
    shown = asyncio.create_task(asyncio.to_thread(running.stdout.readline))
    while not shown.done():  # it hears what passes once it is there
        fact = AccountOpened(asset="USD", account_id=ids.account_id(1), name="alice", type="customer")
        id, now = ids.new("evt"), datetime.now(UTC)
        body = encode(fact, id=id, time=now, correlation_id=fact.account_id)
        await bus.publish([Announcement(id, f"{fact.subject}.USD", body)])
        await asyncio.sleep(0.1)
    await bus.close()
    assert json.loads(shown.result())["data"]["name"] == "alice"
    running.send_signal(signal.SIGINT)
    out, said = await asyncio.to_thread(running.communicate, timeout=20)
    assert (running.returncode, said) == (INTERRUPTED, "")
    assert all(json.loads(line) for line in out.splitlines())
