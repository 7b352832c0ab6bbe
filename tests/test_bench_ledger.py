"""`pasys bench ledger` measures what it says: counts, refusals and books are those of the case. Nothing is timed."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pasys.cli import bench_ledger, bench_ledger_cases, bench_ledger_writers
from pasys.cli.bench import LEDGER_COLUMNS
from pasys.cli.bench_ledger import Load, Measured, Options, Rig
from pasys.cli.main import run
from pasys.db import Database
from pasys.domain.ledger import Kind, Result
from pasys.errors import BooksDoNotHold, InvalidInput, ProgramEnded
from pasys.service import ledger_partition
from tests.support import owning

ACCOUNTS = 60
OPTIONS = Options(cases=["uniform"], accounts=ACCOUNTS, transfers=1_000, growth=32_000, repeat=1, keep=False)
PEER = """
create table purse (id int primary key, balance bigint not null check (balance >= 0));
create table move (id bigserial primary key, debit int, credit int, amount bigint);
create function move(d int, c int, a bigint) returns void language sql as $$
    update purse set balance = balance - a where id = d;
    update purse set balance = balance + a where id = c;
    insert into move (debit, credit, amount) values (d, c, a) $$;
"""
OPEN = "insert into purse values (%(account)s, 100000)"
CALL = "select move(%(debit)s, %(credit)s, %(amount)s)"


@pytest.fixture
async def rig(db: Database) -> Rig:
    """Books with accounts, on the tests' own PostgreSQL."""
    made = Rig(db, OPTIONS)
    await made.prepare()
    return made


async def measured(rig: Rig, case: str) -> dict[str, Measured]:
    return {one.case: one async for one in bench_ledger_cases.CASES[case](rig)}


async def rows(rig: Rig, sql: str, **values: Any) -> list[Any]:
    async with rig.db.unit() as unit:
        return await unit.rows(sql, **values)


async def journal(rig: Rig) -> int:
    return (await rows(rig, "select count(*) as n from transfer"))[0].n


# The books of a bench ------------------------------------------------------------------------------------------------


async def test_accounts_have_limits_and_funds_that_were_moved(rig: Rig) -> None:
    """Every account refuses to go below zero, and what it has came by a transfer of the journal."""
    found = await rows(rig, "select id, flags, credits_posted from account_now where type = 'customer' order by id")
    assert [row.id for row in found] == rig.accounts.tolist() and len(found) == ACCOUNTS
    assert {(row.flags, row.credits_posted) for row in found} == {(1, bench_ledger.FUNDS_MINOR)}
    assert await journal(rig) == ACCOUNTS


async def test_accounts_are_opened_anew_each_time(rig: Rig) -> None:
    """Accounts that are opened later are others, with the funds that were asked for each."""
    later = await rig.open(3, np.array([5, 6, 7]))
    assert not set(later) & set(rig.accounts)
    sql = "select credits_posted from account_now where id = any (%(ids)s) order by credits_posted"
    assert [row.credits_posted for row in await rows(rig, sql, ids=later.tolist())] == [5, 6, 7]


def test_pairs_never_meet_themselves_and_have_their_shape() -> None:
    """Debit and credit differ; one account is in half of the hot ones; zipf's ranks fall off by its law to the last."""
    accounts, n = np.arange(1_000, 2_000), 200_000
    found = {}
    for shape in ("uniform", "hot", "zipf"):
        debit, credit = bench_ledger_cases.pairs(accounts, n, draw=np.random.default_rng(1), shape=shape)
        assert (debit != credit).all() and set(debit) | set(credit) <= set(accounts)
        found[shape] = (debit, credit)
    in_first = {shape: ((debit == 1_000) | (credit == 1_000)).mean() for shape, (debit, credit) in found.items()}
    assert in_first["uniform"] < 0.01 and 0.49 < in_first["hot"] < 0.52
    counted = np.bincount(found["zipf"][0] - 1_000, minlength=1_000)
    weights = 1 / np.arange(1, 1_001) ** bench_ledger_cases.ZIPF
    expected = n * weights / weights.sum()
    assert (abs(counted - expected) < 6 * np.sqrt(expected) + 1).all()


# The cases -----------------------------------------------------------------------------------------------------------

APPLIED = {  # case: transfers of each measurement, all of them applied
    "uniform": {"uniform 1": 5, "uniform 100": 300, "uniform 1000": 3_000, "uniform 8000": 24_000},
    "zipf": {"zipf 1000": 3_000, "zipf 8000": 24_000},
    "hot": {"hot 1000": 3_000, "hot 8000": 24_000},
    "holds": {"holds and posts 1000": 6_000},
    "callers": {"callers 1": 333, "callers 16": 333, "callers 1000": 333, "callers 4000": 333},
    "growth": {"growth, early": 8_000, "growth, last": 8_000},
}


@pytest.mark.parametrize("case", APPLIED)
async def test_what_is_counted_stands_in_the_journal(rig: Rig, case: str) -> None:
    """All that a case says it applied is in the journal, accepted, and the books were verified after it."""
    found = await measured(rig, case)
    assert {name: one.applied for name, one in found.items()} == APPLIED[case]
    for one in found.values():
        assert one.accepted == one.applied and one.verified is True
        assert one.seconds > 0.0005 and 0 < one.p50_ms <= one.p99_ms
        assert one.wal_bytes > 100 and one.client_us > 0 and one.postgres_us >= 0
        fastest, slowest = (one.accepted / (one.seconds + half) for half in (-0.0005, 0.0005))  # seconds are rounded
        assert slowest - 1 <= one.accepted_s <= fastest + 1
    refused = (await rows(rig, "select count(*) as n from transfer where result <> 0"))[0].n
    assert refused == 0 and await journal(rig) >= ACCOUNTS + sum(APPLIED[case].values())


async def test_a_batch_is_one_commit(rig: Rig) -> None:
    """Batches of 100, three of them waiting at a time, are not joined to larger ones: each has a time of its own."""
    before = await journal(rig)
    await measured(rig, "uniform")
    sql = """select max(n) as most from (select count(*) as n from transfer where seq > %(before)s
             group by recorded_at) batch where n <= 300"""
    most = (await rows(rig, sql, before=before))[0].most
    assert most == 100


async def test_a_fifth_of_the_tight_is_refused_for_its_funds(rig: Rig) -> None:
    """Of what the tight case asks for, about a fifth is recorded as refused by the limit, and not applied."""
    one = (await measured(rig, "tight"))["tight 8000"]
    assert one.accepted == 24_000 and one.verified is True
    refused = {row.result: row.n for row in await rows(rig, "select result, count(*) as n from transfer group by 1")}
    assert refused.keys() == {int(Result.ACCEPTED), int(Result.EXCEEDS_CREDITS)}
    assert one.accepted - one.applied == refused[Result.EXCEEDS_CREDITS]
    assert 0.17 < 1 - one.applied / one.accepted < 0.23


async def test_holds_are_posted_in_part_posted_whole_or_voided(rig: Rig) -> None:
    """Half of the posts take a part of their hold, a quarter of the holds is voided, and none is left open."""
    await measured(rig, "holds")
    kinds = {row.kind: row.n for row in await rows(rig, "select kind, count(*) as n from transfer group by 1")}
    assert (kinds[Kind.PENDING], kinds[Kind.POST], kinds[Kind.VOID]) == (3_000, 2_250, 750)
    sql = """select count(*) as n from transfer p join transfer_key k on k.id = p.pending_id
             join transfer h on h.asset = k.asset and h.seq = k.seq where p.kind = 2 and p.amount < h.amount"""
    assert (await rows(rig, sql))[0].n == 1_125
    assert not await rows(rig, "select id from hold")


async def test_replays_are_answered_and_move_nothing(rig: Rig) -> None:
    """The second time, every transfer is answered, none is applied, and the journal has no row more."""
    one = (await measured(rig, "replays"))["replays 1000"]
    assert (one.accepted, one.applied, one.applied_s, one.verified) == (3_000, 0, 0, True)
    assert one.accepted_s > 0
    distinct = (await rows(rig, "select count(*) as n, count(distinct id) as ids from transfer"))[0]
    assert distinct.n == distinct.ids == 2 * ACCOUNTS + 3_000


async def test_two_writers_post_to_one_asset_and_to_two(rig: Rig) -> None:
    """Two processes post all of theirs, to one asset and then to two with limits and funds in both."""
    found = await measured(rig, "writers")
    assert {name: one.applied for name, one in found.items()} == {
        "2 writers, 1 asset": 48_000,
        "2 writers, 2 assets": 48_000,
    }
    assert all(one.verified and one.concurrency == 2 and one.client_us > 0 for one in found.values())
    counts = {row.asset: row.n for row in await rows(rig, "select asset, count(*) as n from transfer group by 1")}
    assert counts == {"USD": 4 * ACCOUNTS + 72_000, "EUR": 2 * ACCOUNTS + 24_000}
    assert {
        row.flags for row in await rows(rig, "select flags from account where asset = 'EUR' and type = 'customer'")
    } == {1}


async def test_a_writer_that_dies_ends_the_run() -> None:
    """Whoever waits for a writer that is gone is told, and does not wait for ever."""
    spawn = multiprocessing.get_context("spawn")
    gone = spawn.Process(target=os._exit, args=(3,), daemon=True)
    gone.start()
    with pytest.raises(ProgramEnded, match="a writer ended with 3"):
        await bench_ledger_writers._heard(spawn.Queue(), [gone])


async def test_partitions_are_kept_while_the_journal_grows(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the ledger daemon does happens beside the growth case: closed partitions have their indexes."""
    monkeypatch.setattr(bench_ledger_cases, "KEEP_EVERY_S", 0.01)
    async with owning(db) as unit:
        name = await unit.value("select current_database()")
        await unit.rows(f"alter database {name} set pasys.partition_rows = 4000")
    again = Database(db.settings, connections_max=4)  # for connections made from now on
    try:
        rig = Rig(again, OPTIONS)
        await rig.prepare()
        await measured(rig, "growth")
        async with again.unit() as unit:
            closed = [one for one in await ledger_partition.partitions(unit) if one.closed]
    finally:
        await again.close()
    assert len(closed) >= 7 and sum(one.indexed for one in closed) >= 2


async def test_books_that_do_not_hold_end_the_bench(rig: Rig) -> None:
    """An account row that the journal does not bear out is found after the case, and the case is named."""

    async def work() -> Load:
        await rows(
            rig, "update account set credits_posted = credits_posted + 1 where id = %(id)s", id=int(rig.accounts[7])
        )
        return Load(1, 1, [1.0])

    with pytest.raises(BooksDoNotHold, match="after a theft"):
        await rig.measure("a theft", work, batch=1, concurrency=1)


# Beside ours ---------------------------------------------------------------------------------------------------------


async def test_copy_and_orm_are_measured_and_leave_nothing(rig: Rig) -> None:
    """COPY under both sets of indexes, and the ORM with one thread and eight; no table of theirs is left."""
    before = await rows(rig, "select relname from pg_class where relkind in ('r', 'i') order by 1")
    found = await measured(rig, "copy") | await measured(rig, "orm")
    assert {name: (one.accepted, one.concurrency) for name, one in found.items()} == {
        "copy, our indexes": (16_000, 1),
        "copy, four indexes": (16_000, 1),
        "orm, 1 thread": (50, 1),
        "orm, 8 threads": (48, 8),
    }
    assert all(one.verified is None and one.client_us > 0 for one in found.values())
    assert found["copy, our indexes"].wal_bytes < found["copy, four indexes"].wal_bytes < 1_000
    assert await rows(rig, "select relname from pg_class where relkind in ('r', 'i') order by 1") == before


@pytest.fixture
def peer(rig: Rig, tmp_path: Path) -> Rig:
    """A rig whose peer is a tiny ledger that cannot be loaded twice into one database."""
    file = tmp_path / "peer.sql"
    file.write_text(PEER, encoding="utf-8")
    rig.options = replace(OPTIONS, peer=file, peer_open=OPEN, peer_call=CALL, peer_batch=20)
    return rig


async def test_a_peer_is_measured_one_call_a_commit_and_several(peer: Rig) -> None:
    """Each way starts on an empty database, which is gone afterwards; loading the file is not counted."""
    found = await measured(peer, "peer")
    assert {name: (one.batch, one.applied) for name, one in found.items()} == {
        "peer, 1 a commit": (1, 2),
        "peer, 20 a commit": (20, 40),
    }
    assert found["peer, 20 a commit"].wal_bytes < 10_000, "a database costs megabytes"
    assert not await rows(peer, "select datname from pg_database where datname = 'bench_peer'")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"peer_call": "select gone(%(debit)s)"}, "--peer-call: function gone"),
        ({"peer_call": "select %(deibt)s"}, "--peer-call: .*deibt"),
        ({"peer_open": "insert into purse values (%(account)s, -1)"}, "--peer-open: .*purse_balance_check"),
        ({"peer_open": "insert into purse values (%(account)s, 0)"}, "--peer-call: .*purse_balance_check"),
    ],
)
async def test_a_peer_that_does_not_work_is_told_why(peer: Rig, changes: dict[str, str], said: str) -> None:
    """What PostgreSQL refuses is named with the option it came from, and the database is gone."""
    peer.options = replace(peer.options, **changes)
    with pytest.raises(InvalidInput, match=said):
        await measured(peer, "peer")
    assert not await rows(peer, "select datname from pg_database where datname = 'bench_peer'")
    assert peer.options.peer is not None
    peer.options.peer.write_text("create tabel x", encoding="utf-8")
    with pytest.raises(InvalidInput, match=r"peer\.sql: syntax error"):
        await measured(peer, "peer")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cases": ["uniform", "unknown"]}, "case: 'unknown' is none of uniform"),
        ({"cases": ["peer"]}, "peer: a peer is measured with"),
        ({"peer": Path("/none.sql")}, "peer: a peer is measured with"),
        ({"peer_call": "select 1"}, "peer: a peer is measured with"),
        ({"peer": Path("/none.sql"), "peer_call": "select 1"}, "peer: there is no file /none.sql"),
    ],
)
def test_options_that_make_no_sense_are_refused(changes: dict[str, Any], said: str) -> None:
    """Before any server is started."""
    with pytest.raises(InvalidInput, match=said):
        replace(OPTIONS, **changes)


# Results -------------------------------------------------------------------------------------------------------------


def one(case: str, rate: float) -> Measured:
    return Measured(case, 1, 1, 10, 0, 1.0, rate, 0, 1.0, 1.0, 0, 0.0, 0.0, True)


def test_of_several_rounds_the_middle_is_shown_with_their_spread() -> None:
    """The median by what was answered, also where nothing was applied; of an even number the slower of the middle."""
    found = [one("a", 100), one("b", 7), one("a", 300), one("a", 200), one("b", 14)]
    assert [(m.case, m.accepted_s, m.rounds, m.spread) for m in bench_ledger._medians(found)] == [
        ("a", 200, 3, 1.0),
        ("b", 7, 2, 1.0),
    ]


def test_ratios_are_those_of_what_was_measured() -> None:
    """A ratio is one rate over the other, for cases of this run only."""
    rates = {"uniform 8000": 90, "uniform 1000": 60, "copy, our indexes": 120, "growth, early": 50, "growth, last": 40}
    found = bench_ledger._ratios([one(case, rate) for case, rate in rates.items()])
    assert [(r.case, r.beside, r.ratio) for r in found] == [
        ("uniform 8000", "copy, our indexes", 0.75),
        ("uniform 1000", "copy, our indexes", 0.5),
        ("growth, last", "growth, early", 0.8),
    ]


# The command ---------------------------------------------------------------------------------------------------------

SMALL = ("bench", "ledger", "--accounts", "60", "--transfers", "1000")


def pasys(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from pasys.cli.main import main; main()", *words]
    environ = os.environ | {"TMPDIR": str(tmp_path)}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environ)


def test_the_command_says_everything_in_json_and_leaves_nothing(tmp_path: Path) -> None:
    """One JSON document: the machine, the server with durability on, every case with all its fields, the ratios."""
    file = tmp_path / "peer.sql"
    file.write_text(PEER, encoding="utf-8")
    words = ("--case", "uniform", "--case", "copy", "--peer", str(file), "--peer-open", OPEN, "--peer-call", CALL)
    done = pasys(tmp_path, *SMALL, *words, "--repeat", "2", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert set(said) == {"machine", "settings", "cases", "ratios"}
    assert said["machine"].startswith(f"{os.cpu_count()} cores (") and " load " in said["machine"]
    for fact in ("server_version ", "fsync on", "synchronous_commit on", "sealed in the same commit"):
        assert fact in said["settings"]
    cases = {case["case"]: case for case in said["cases"]}
    assert list(cases) == [
        *APPLIED["uniform"],
        "copy, our indexes",
        "copy, four indexes",
        "peer, 1 a commit",
        "peer, 100 a commit",
    ]
    for case in cases.values():
        assert set(case) == {field.name for field in fields(Measured)}
        assert case["rounds"] == 2 and case["spread"] >= 0
        assert case["verified"] is (True if case["case"].startswith("uniform") else None)
    for ratio in said["ratios"]:
        rates = [cases[ratio[name]]["accepted_s"] for name in ("case", "beside")]
        assert ratio["ratio"] == pytest.approx(rates[0] / rates[1], abs=0.001)
    assert [p.name for p in tmp_path.iterdir()] == ["peer.sql"], "the bench's home is gone"


def test_a_table_shows_the_columns_and_sentences_go_to_stderr(tmp_path: Path) -> None:
    """A person sees a line for each case; the machine, its progress and the ratios stand beside the data."""
    done = pasys(tmp_path, *SMALL, "--case", "replays")
    assert done.returncode == 0, done.stderr
    header, row = done.stdout.splitlines()
    assert header.split() == " ".join(LEDGER_COLUMNS).replace("_", " ").split()
    assert row.split()[:4] == ["replays", "1000", "1000", "3"] and row.split()[-1] == "yes"
    assert "replays 1000: " in done.stderr and "fsync on" in done.stderr


def test_books_that_do_not_hold_exit_9(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The command fails as an integrity failure, in JSON too, and says which case it was and what is wrong."""

    async def thieving(rig: Rig) -> AsyncIterator[Measured]:
        async def work() -> Load:
            await rows(rig, "update account set credits_posted = credits_posted + 1 where type = 'customer'")
            return Load(1, 1, [1.0])

        yield await rig.measure("thieving", work, batch=1, concurrency=1)

    monkeypatch.setitem(bench_ledger_cases.CASES, "hot", thieving)
    assert run([*SMALL, "--case", "hot", "--json"]) == 9
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "books_do_not_hold" and error["facts"]["finding"].startswith("after thieving: ")


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (("--case", "fast"), "case"),
        (("--case", "peer"), "peer"),
        (("--peer", "/none", "--peer-call", "select 1"), "peer"),
    ],
)
def test_wrong_words_exit_2(words: tuple[str, ...], field: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A case that there is not, and a peer that is not there, are refused before anything starts."""
    assert run([*SMALL, *words, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["facts"]["field"] == field
