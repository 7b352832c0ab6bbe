"""Import: every bad row is named, no row is imported twice, and a killed import goes on where it stopped."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pasys.cli.import_file import Outcome
from pasys.cli.import_source import Source
from pasys.config import Settings
from pasys.db import Database
from pasys.domain.import_row import reader
from pasys.errors import ImportRefused, ImportUnderWay, InvalidInput, InvalidRows
from pasys.events import AccountOpened
from pasys.money import Money
from pasys.service import account, import_batch, ledger
from pasys.service.transaction import Created, Draft, Turn, create_many
from tests.import_files import FUNDED, HEADER, command, environment, imported, write
from tests.ledger_kit import until_waiting
from tests.support import balance_of, eventually, owning


async def count(db: Database, what: str) -> int:
    async with db.unit() as unit:
        return await unit.value(f"select count(*) from {what}")


async def test_a_bad_row_stops_the_file_before_anything_is_written(db: Database, tmp_path: Path) -> None:
    """Not even the good rows before it, the accounts or the batch."""
    with pytest.raises(InvalidRows):
        await imported(db, write(tmp_path / "bad.csv", *FUNDED, "k,,a,b,1e3,USD,,,"), batch_size=1)
    for table in ("import_batch", "account", "transaction", "event"):
        assert await count(db, table) == 0, table


# Others who post -----------------------------------------------------------------------------------------------------


async def test_an_import_waits_for_the_books_as_long_as_it_takes(db: Database, tmp_path: Path) -> None:
    """Its chunks wait for the asset, and none of them for a connection that the others have."""
    for name in ("ada", "ben"):
        async with db.unit() as unit:
            await account.open(unit, name=name, type="customer", asset="USD")
    path = write(tmp_path / "p.csv", *[f"k{n},deposit,,ada,1,USD,,," for n in range(12)])
    own = Database(db.settings)
    own._engine.pool._timeout = 0.5  # type: ignore[attr-defined]
    try:
        async with asyncio.timeout(30), db.unit() as unit:
            await ledger.lock(unit, ["USD"])
            importing = asyncio.create_task(imported(own, path, batch_size=1, open_accounts=False))
            await until_waiting(unit)
            await asyncio.sleep(1)
        async with asyncio.timeout(30):
            assert (await importing).created == 12
    finally:
        await own.close()


async def test_no_journal_is_locked_by_a_chunk_that_waits_for_its_turn(db: Database, tmp_path: Path) -> None:
    """The first row of an asset locks all journals for who begins a partition: it is there before a chunk needs it."""
    async with db.unit() as unit:
        await account.open(unit, name="ada", type="customer", asset="USD")
    path = write(tmp_path / "n.csv", "u,deposit,,ada,1,USD,,,", "e,deposit,,ada,1,EUR,,,")
    async with asyncio.timeout(30):
        async with db.unit() as unit:
            await ledger.lock(unit, ["USD"])
            importing = asyncio.create_task(imported(db, path, batch_size=1, open_accounts=False))
            await until_waiting(unit)
            for _ in range(20):
                async with owning(db) as beginning:
                    await beginning.rows("lock table transfer in share update exclusive mode nowait")
                await asyncio.sleep(0.02)
        outcome = await importing
    assert (outcome.created, outcome.refused) == (1, 1)


# The whole file ------------------------------------------------------------------------------------------------------


async def test_what_spreadsheets_write_is_read(db: Database, tmp_path: Path) -> None:
    """A byte order mark, CRLF, quotes, empty lines and rows of nothing but commas; a line break in a quoted field."""
    rows = [
        'f1,deposit,,ada,"100.00",USD,,,,"a ""quoted"", note"',
        "",
        ",,,,,,,,,",
        't1,transfer,ada,ben,1,USD,,,,"x\r\ny"',
    ]
    path = tmp_path / "excel.csv"
    path.write_bytes("\r\n".join([f"{HEADER},note", *rows, "", ""]).encode("utf-8-sig"))
    outcome = await imported(db, path)
    assert (outcome.rows, outcome.created, outcome.refused) == (2, 2, 0)
    async with db.unit() as unit:
        notes = await unit.rows("select metadata ->> 'note' as note from transaction order by id")
    assert [row.note for row in notes] == ['a "quoted", note', "x\r\ny"]


async def test_another_delimiter_is_taken(db: Database, tmp_path: Path) -> None:
    """What separates the columns is the caller's choice."""
    path = write(tmp_path / "s.csv", "ada;1.50;USD", header="to;amount;asset")
    assert (await imported(db, path, delimiter=";")).created == 1


async def test_minor_units_arrive_in_the_books(db: Database, tmp_path: Path) -> None:
    """500 JPY and 1.230 KWD are 500 and 1230 minor units, in every table."""
    path = write(tmp_path / "c.csv", "a,deposit,,ada,500,JPY,,,", "b,deposit,,ada,1.230,KWD,,,")
    assert (await imported(db, path)).created == 2
    assert await balance_of(db, "ada", "JPY") == Money(500, "JPY")
    assert await balance_of(db, "ada", "KWD") == Money(1_230, "KWD")


async def test_the_same_file_twice_changes_nothing(db: Database, tmp_path: Path) -> None:
    """A finished import says so."""
    path = write(tmp_path / "t.csv", *FUNDED, ",transfer,ada,ben,30,USD,,,")
    first = await imported(db, path)
    again = await imported(db, path)
    assert (first.created, first.state) == (3, "finished")
    assert (again.created, again.replayed, again.state, again.batch) == (0, 0, "finished before", first.batch)
    assert await balance_of(db, "ada") == Money(7_000, "USD")


async def test_equal_rows_without_a_key_are_two(db: Database, tmp_path: Path) -> None:
    """A row without a key is named after its batch and line."""
    path = write(tmp_path / "e.csv", *[",deposit,,ada,1,USD,,,"] * 3)
    assert (await imported(db, path, batch_size=2)).created == 3
    assert await balance_of(db, "ada") == Money(300, "USD")


async def test_a_key_in_another_file_is_replayed_or_a_conflict(db: Database, tmp_path: Path) -> None:
    """The same body is answered with the first result; another body is refused by name."""
    await imported(db, write(tmp_path / "1.csv", *FUNDED))
    outcome = await imported(db, write(tmp_path / "2.csv", FUNDED[0], "f2,deposit,,ben,99.00,USD,,,"))
    assert (outcome.created, outcome.replayed, outcome.refused) == (0, 1, 1)
    assert [(refusal.line, refusal.key, refusal.rule) for refusal in outcome.refusals] == [
        (3, "f2", "idempotency_mismatch")
    ]
    assert await balance_of(db, "ben") == Money(10_000, "USD")


async def test_refused_rows_are_listed_and_the_others_stand(db: Database, tmp_path: Path) -> None:
    """Each by line, key and rule; the same on the next run of the same file."""
    rows = [*FUNDED, "a,transfer,ada,ben,500,USD,,,", "b,transfer,ada,nobody,5,USD,,,", "c,transfer,ada,ben,5,USD,,,"]
    async with db.unit() as unit:
        for name in ("ada", "ben"):
            await account.open(unit, name=name, asset="USD")
    path = write(tmp_path / "r.csv", *rows)
    outcome = await imported(db, path, open_accounts=False, batch_size=2)
    seen = [(refusal.line, refusal.key, refusal.rule) for refusal in outcome.refusals]
    assert seen == [(4, "a", "exceeds_credits"), (5, "b", "account_not_found")]
    assert (outcome.created, outcome.refused) == (3, 2)
    assert await balance_of(db, "ada") == Money(9_500, "USD")
    assert (await imported(db, path)).refusals == outcome.refusals


async def test_a_row_alone_in_its_chunk_is_refused_as_among_others(db: Database, tmp_path: Path) -> None:
    """An unknown account, and one of another asset, end no run: the rows before and after stand, and it finishes."""
    await imported(db, write(tmp_path / "f.csv", *FUNDED))
    rows = ["a,transfer,ada,nobody,5,USD,,,", "b,transfer,ada,ben,5,EUR,,,", "c,transfer,ada,ben,5,USD,,,"]
    for name, tail, size in (("one.csv", "", 1), ("many.csv", "x", 1_000)):
        path = write(tmp_path / name, *(f"{tail}{row}" for row in rows))
        outcome = await imported(db, path, open_accounts=False, batch_size=size)
        assert [(no.line, no.rule) for no in outcome.refusals] == [(2, "account_not_found"), (3, "account_not_found")]
        assert (outcome.created, outcome.state) == (1, "finished")


async def test_an_amount_that_a_psp_cannot_take_is_refused(db: Database, settings: Settings, tmp_path: Path) -> None:
    """1.005 KWD is a good amount, and Stripe cannot express it."""
    import msgspec

    known = Database(
        msgspec.structs.replace(settings, stripe_api_key="sk_test_x", stripe_api_base="http://127.0.0.1:9")
    )
    path = write(tmp_path / "k.csv", "a,,ada,shop,1.005,KWD,stripe,,", "b,,ada,shop,1.010,KWD,stripe,,")
    outcome = await imported(known, path)
    await known.close()
    assert [(refusal.line, refusal.rule) for refusal in outcome.refusals] == [(2, "amount_not_sendable")]
    assert outcome.created == 1


async def test_invalid_rows_can_be_left_out(db: Database, tmp_path: Path) -> None:
    """With skip_invalid the good rows are imported and the bad ones are listed."""
    outcome = await imported(db, write(tmp_path / "s.csv", *FUNDED, "x,,a,b,1e3,USD,,,"), skip_invalid=True)
    assert (outcome.rows, outcome.created, outcome.invalid) == (3, 2, 1)
    assert [(bad.line, bad.field) for bad in outcome.invalid_rows] == [(4, "amount")]


async def test_accounts_are_opened_by_their_columns(db: Database, tmp_path: Path) -> None:
    """Who pays is a customer, who receives a payment a merchant, whoever exists stays as it is; each is announced."""
    async with db.unit() as unit:
        await account.open(unit, name="old", type="provider", asset="USD")
    rows = [
        "1,deposit,,ada,9,USD,,,",
        "2,,old,ben,1,USD,,,",
        "3,payment,ada,shop,1,USD,,,",
        "4,,ada,mall,1,EUR,instant,,",
    ]
    outcome = await imported(db, write(tmp_path / "a.csv", *rows))
    assert (outcome.accounts_opened, outcome.refused) == (5, 1), "old has no money"
    async with db.unit() as unit:
        found = {(row.name, row.asset): row for row in await account.listing(unit) if row.type != "system"}
        announced = await unit.value("select count(*) from event where subject = %(s)s", s=AccountOpened.subject)
    types = {key: row.type for key, row in found.items()}
    assert types == {
        ("old", "USD"): "provider",
        ("ada", "USD"): "customer",
        ("ben", "USD"): "customer",
        ("shop", "USD"): "merchant",
        ("ada", "EUR"): "customer",
        ("mall", "EUR"): "merchant",
    }
    assert found["ada", "USD"].debits_must_not_exceed_credits
    assert not found["shop", "USD"].debits_must_not_exceed_credits
    assert announced >= 6


# All or none, and none -----------------------------------------------------------------------------------------------


async def test_atomic_is_all_or_none(db: Database, tmp_path: Path) -> None:
    """One refused row takes back every other, the accounts and the batch; without it all are there."""
    rows = [*FUNDED, *[f"t{i},transfer,ada,ben,1,USD,,," for i in range(20)]]
    with pytest.raises(ImportRefused) as refused:
        await imported(db, write(tmp_path / "x.csv", *rows, "z,transfer,ada,ben,999,USD,,,"), atomic=True, batch_size=5)
    assert [refusal.line for refusal in refused.value.facts["refusals"]] == [24]
    for table in ("transaction", "transfer", "account", "import_batch", "idempotency", "event"):
        assert await count(db, table) == 0, table
    outcome = await imported(db, write(tmp_path / "y.csv", *rows), atomic=True, batch_size=5)
    assert (outcome.created, outcome.refused) == (22, 0)
    assert await balance_of(db, "ben") == Money(12_000, "USD")


async def test_atomic_does_not_finish_what_was_begun_otherwise(db: Database, tmp_path: Path) -> None:
    """Rows that are committed cannot be taken back, so it says so."""
    path = write(tmp_path / "h.csv", *FUNDED)
    source = Source(path, delimiter=",")
    nothing = reader(source.layout(), [])([], [])
    async with db.unit() as unit:
        batch = await import_batch.begin(unit, file_name="h.csv", file_hash=source.hash, rows_total=2)
        await import_batch.advance(unit, batch.id, nothing, done=0, count=1)
    with pytest.raises(InvalidInput, match="atomic"):
        await imported(db, path, atomic=True)


async def test_a_dry_run_answers_as_the_real_run(db: Database, tmp_path: Path) -> None:
    """Row by row the same answers, in random order of funds, and nothing is written by it."""
    dice = random.Random(7)
    rows = [*FUNDED, "f1x,,nobody,ben,1,USD,,,"]
    for i in range(60):
        payer, payee = dice.sample(["ada", "ben", "cy"], 2)
        rows.append(f"t{i},transfer,{payer},{payee},{dice.randint(1, 90)},USD,,,")
    path = write(tmp_path / "d.csv", *rows)
    tried = await imported(db, path, dry_run=True, batch_size=7)
    for table in ("transaction", "transfer", "account", "import_batch", "import_refusal", "event"):
        assert await count(db, table) == 0, table
    real = await imported(db, path, batch_size=7)
    assert tried.state == "dry run" and tried.batch is None
    assert 0 < tried.refused == real.refused < 60
    assert (tried.created, tried.replayed) == (real.created, real.replayed)
    assert [(r.line, r.key, r.rule) for r in tried.refusals] == [(r.line, r.key, r.rule) for r in real.refusals]
    assert [a.line for a in tried.answers if a.answer == "refused"] == [r.line for r in real.refusals]
    assert len(tried.answers) == len(rows)


async def test_a_chunk_that_is_ahead_keeps_nobody_waiting(db: Database) -> None:
    """The second of two chunks begins first, in an asset that has no books yet; the first one can go on."""
    draft = Draft(amount=Money(100, "USD"), credit="ada")
    first = Turn()
    second = Turn(before=first)

    async def create(turn: Turn) -> list[Created]:
        async with db.unit() as unit:
            answers = await create_many(unit, [draft], partial=True, turn=turn)
        turn.committed.set()
        return answers

    async with db.unit() as unit:
        await account.open(unit, name="ada", type="customer", asset="USD")
    ahead = asyncio.create_task(create(second))
    await asyncio.sleep(0.2)
    async with asyncio.timeout(60):  # where it waits for the other, it waits for ever
        answers = await create(first) + await ahead
    assert [answer.refusal for answer in answers] == [None, None]
    assert await balance_of(db, "ada") == Money(200, "USD")


# Interrupted ---------------------------------------------------------------------------------------------------------


async def test_two_runs_of_one_file_do_not_do_a_row_twice(db: Database, tmp_path: Path) -> None:
    """Whoever comes second to a chunk is told that somebody else is at it."""
    path = write(tmp_path / "2.csv", *[",deposit,,ada,1,USD,,,"] * 200)
    found = await asyncio.gather(*(imported(db, path, batch_size=5) for _ in range(4)), return_exceptions=True)
    assert any(isinstance(one, Outcome) for one in found)
    assert all(isinstance(one, Outcome | ImportUnderWay) for one in found), found
    assert await balance_of(db, "ada") == Money(20_000, "USD")


async def test_a_killed_import_goes_on_without_loss_or_duplicate(
    db: Database, settings: Settings, tmp_path: Path
) -> None:
    """kill -9, three times at different points: each row is there once, and the books hold."""
    rows = 3_000
    path = write(tmp_path / "kill.csv", *(f",deposit,,c{i % 50},{1 + i % 7},USD,,," for i in range(rows)))
    arguments = command(settings, "tx", "import", str(path), "--open-accounts", "--batch-size", "20", "--json")

    async def done() -> int:
        async with db.unit() as unit:
            return await unit.value("select rows_done from import_batch") or 0

    for reached in (1, 600, 1_500):
        running = subprocess.Popen(arguments, env=environment(settings), stdout=subprocess.DEVNULL)
        await eventually(lambda reached=reached: _at_least(done, reached), within_s=30, every_s=0.005)
        running.send_signal(signal.SIGKILL)
        running.wait()
    before = await done()
    assert 0 < before < rows, "it was killed on the way"
    ended = subprocess.run(arguments, env=environment(settings), capture_output=True, text=True, timeout=60)
    said = json.loads(ended.stdout)
    assert ended.returncode == 0, ended.stderr
    assert said["done_before"] == await _settled(before, said) and said["created"] == rows - said["done_before"]
    assert await count(db, "transaction") == await count(db, "transfer") == rows
    async with db.unit() as unit:
        assert (await ledger.verify(unit)).ok
        total = await unit.value("select sum(amount_minor)::bigint from transaction")
    assert total == sum(100 * (1 + i % 7) for i in range(rows))


async def _at_least(done: Any, reached: int) -> bool:
    return await done() >= reached


async def _settled(before: int, said: dict[str, Any]) -> int:
    """A commit that the server had received when its client was killed still counts."""
    assert said["done_before"] in (before, before + 20)
    return said["done_before"]


def test_the_command_keeps_its_exit_codes(settings: Settings, tmp_path: Path) -> None:
    """0 when none is refused, 6 when some are, 2 for rows that are not valid; stdout is JSON each time."""

    def ran(path: Path, *options: str) -> tuple[int, dict[str, Any]]:
        arguments = command(settings, "tx", "import", str(path), "--json", *options)
        ended = subprocess.run(arguments, env=environment(settings), capture_output=True, text=True, timeout=60)
        return ended.returncode, json.loads(ended.stdout)

    code, said = ran(write(tmp_path / "0.csv", *FUNDED), "--open-accounts")
    assert (code, said["rows"], said["created"], said["refused"], said["refusals"]) == (0, 2, 2, 0, [])
    assert said["batch"].startswith("imp_") and said["seconds"] >= 0 and said["rate"] > 0
    code, said = ran(write(tmp_path / "6.csv", "a,transfer,ada,ben,999,USD,,,"))
    assert (code, said["refused"], said["error"]["code"]) == (6, 1, "rows_refused")
    assert said["refusals"][0] | {"message": ""} == {"line": 2, "key": "a", "rule": "exceeds_credits", "message": ""}
    code, said = ran(write(tmp_path / "2.csv", "a,transfer,ada,ben,NaN,USD,,,"))
    assert (code, said["error"]["code"]) == (2, "invalid_rows")
    assert said["error"]["facts"]["invalid_rows"][0]["field"] == "amount"
    code, said = ran(write(tmp_path / "d.csv", "b,transfer,ada,ben,5,USD,,,"), "--dry-run")
    assert (code, said["state"], [row["answer"] for row in said["answers"]]) == (0, "dry run", ["created"])


async def test_a_tally_says_how_a_batch_stands(db: Database, tmp_path: Path) -> None:
    """Succeeded by book, pending by PSP with its money in flight, and what a key stands for."""
    outcome = await imported(db, write(tmp_path / "t.csv", *FUNDED, "p,,ada,shop,12.50,USD,instant,,"))
    assert outcome.batch is not None
    async with db.unit() as unit:
        found = await import_batch.tally(unit, outcome.batch)
        keys = await import_batch.by_key(unit, ["p", "nothing"])
    assert (found.created, found.succeeded, found.pending) == (3, 2, 1)
    assert found.in_flight == [Money(1_250, "USD")]
    assert list(keys) == ["p"] and keys["p"].startswith("tx_")
