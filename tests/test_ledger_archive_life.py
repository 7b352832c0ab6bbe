"""Life goes on over an archive: payments are refunded, transfers reversed, stories told, and the books posted to."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pasys.cli.main import run
from pasys.config import Settings
from pasys.db import Database
from pasys.errors import HistoryArchived
from pasys.money import Money
from pasys.service import account, ledger, ledger_checkpoint, refund, trace, transaction, transaction_state
from pasys.service.transaction import Draft
from tests.archive_kit import ROWS, archive, grown, signer
from tests.ledger_kit import T0, direct
from tests.support import balance_of, daemons, eventually, open_accounts, pay, until_status

PARTITION = 20


@pytest.fixture
async def paid(settings: Settings, db: Database) -> tuple[str, str]:
    """A payment and a book transfer whose rows end in the first partitions, and enough behind them."""
    with psycopg.connect(db.url, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(f"alter database {name} set pasys.partition_rows = {PARTITION}".encode())
    async with db.unit() as unit:
        await open_accounts(unit)
    async with daemons(settings):
        payment = await pay(db)
        await until_status(db, payment, "succeeded")
    async with db.unit() as unit:
        made = await transaction.create(unit, Draft(amount=Money(500, "USD"), debit="shop", credit="bob"))
        await ledger.post(unit, await some(unit, 2 * PARTITION))
    assert made.transaction_id is not None
    return payment, made.transaction_id


async def some(unit: Any, count: int) -> list[Any]:
    shop, bob = [(await account.find(unit, name, "USD")).number for name in ("shop", "bob")]
    return [direct(shop, bob, 1) for _ in range(count)]


async def test_an_archived_payment_is_refunded_and_an_archived_transfer_reversed(
    paid: tuple[str, str], settings: Settings, db: Database, tmp_path: Path
) -> None:
    """Both need their transaction alone, and what they post names rows that are in a file."""
    payment, moved = paid
    assert len(await archive(db, tmp_path, to=2 * PARTITION)) == 2
    before = await balance_of(db, "bob")
    async with db.unit() as unit:
        await transaction_state.reverse(unit, moved)
    assert await balance_of(db, "bob") == before - Money(500, "USD")
    async with daemons(settings):
        async with db.unit() as unit:
            asked = await refund.request(unit, payment, amount=Money(4_000, "USD"), reason="half of it")

        async def completed() -> bool:
            async with db.unit() as unit:
                return (
                    await unit.value("select status from refund where id = %(id)s", id=asked.refund_id) == "completed"
                )

        await eventually(completed)
    async with db.unit() as unit:
        assert (await ledger.verify(unit)).ok and (await ledger.verify(unit, archives=tmp_path)).ok
        assert {made.asset for made in await ledger_checkpoint.checkpoint(unit, signer(db))} == {"USD"}
        starts = await ledger_checkpoint.starts(unit, signer(db))
        assert (await ledger.verify(unit, starts=starts)).transfers == 0


async def test_a_story_says_which_of_its_lines_are_in_a_file(
    paid: tuple[str, str], db: Database, tmp_path: Path
) -> None:
    """No line of an archived payment is left out; who asks for such a line itself is told the file."""
    payment, _ = paid
    async with db.unit() as unit:
        before = await trace.trace(unit, payment)
        ids = {node.id for node in before.nodes if node.kind == "transfer"}
    (first, _) = await archive(db, tmp_path, to=2 * PARTITION)
    async with db.unit() as unit:
        after = await trace.trace(unit, payment)
        lines = [node for node in after.nodes if node.kind == "transfer"]
        assert {node.id for node in lines} == ids and {node.part_of for node in lines} == {payment}
        assert all(node.facts["file"] == str(first.archived.path) for node in lines)
        with pytest.raises(HistoryArchived, match=first.archived.path.name):
            await trace.trace(unit, sorted(ids)[0])


async def test_posting_goes_on_while_partitions_come_and_go(db: Database, tmp_path: Path) -> None:
    """Nobody who posts fails or is answered otherwise while partitions are archived, restored and archived again."""
    numbers = await grown(db)
    ended = asyncio.Event()

    async def post() -> int:
        posted = 0
        while not ended.is_set() or posted < 20:
            async with db.unit() as unit:
                told = await ledger.post(unit, [direct(numbers[0], numbers[2], 1) for _ in range(3)])
                assert all(one.accepted for one in told)
                (before,) = (await ledger.balances(unit, [numbers[0]])).values()
            async with db.unit() as unit:
                at = await ledger.balance_at(unit, numbers[0], unit.now, by="recorded")
            assert at.minor >= before.posted.minor  # a source: its debits only grow
            posted += 1
        return posted

    posters = [asyncio.create_task(post()) for _ in range(2)]
    try:
        for _ in range(2):
            for one in reversed(await archive(db, tmp_path, to=2 * ROWS)):
                await restored(db, one.archived.path)
    finally:
        ended.set()
    assert min(await asyncio.gather(*posters)) >= 20
    async with db.unit() as unit:
        found = await ledger.verify(unit)
        assert found.ok and found.since == {"USD": 0}


async def restored(db: Database, path: Path) -> None:
    from pasys.cli import archive as command
    from pasys.service import ledger_archive_restore

    await command._patiently(db, lambda unit: ledger_archive_restore.restore(unit, path), 60.0)


# The command line ----------------------------------------------------------------------------------------------------


@pytest.fixture
def pasys(settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """A command line, in a thread: its exit code, and the JSON that it printed."""
    monkeypatch.setenv("PASYS_HOME", settings.home)
    monkeypatch.setenv("DATABASE_URL", settings.require("database_url"))

    async def call(*words: object) -> tuple[int, Any]:
        capsys.readouterr()
        code = await asyncio.to_thread(run, [*map(str, words), "--json"])
        return code, json.loads(capsys.readouterr().out)

    return call


async def test_the_command_archives_lists_restores_and_verifies(db: Database, pasys: Any, tmp_path: Path) -> None:
    """A dry run says what the run does; what is archived is listed, an error of history names its file and the command
    that brings it back, and verification goes across."""
    folder = tmp_path / "deep" / "archive"
    await grown(db)
    archive_, far = ("ledger", "archive"), ("--dir", folder, "--asset", "USD", "--to", 2 * ROWS + 5)
    code, planned = await pasys(*archive_, *far, "--dry-run")
    assert code == 0 and [(row["first_seq"], row["transfers"]) for row in planned["archives"]] == [(1, 60), (61, 60)]
    assert not folder.exists() and (await pasys(*archive_, "--list"))[1] == {"archives": []}
    code, done = await pasys(*archive_, *far)
    assert code == 0 and [row["file"] for row in done["archives"]] == [row["file"] for row in planned["archives"]]
    assert [row["action"] for row in done["archives"]] == ["archived"] * 2
    assert (await pasys(*archive_, "--list", "--asset", "USD"))[1]["archives"] == done["archives"][::-1]
    assert (await pasys(*archive_, *far))[1] == {"archives": []}
    first, last = [row["file"] for row in done["archives"]]
    code, told = await pasys("account", "balance", "user_0", "--at", T0.isoformat())
    assert code == 3 and told["error"]["code"] == "history_archived"
    assert told["error"]["facts"]["file"] == first and f"--restore {first}" in told["error"]["fix"]
    code, found = await pasys("ledger", "verify", "--full")
    assert code == 0 and found["since"] == found["archived"] == {"USD": 2 * ROWS}
    code, found = await pasys("ledger", "verify", "--archives", folder)
    assert code == 0 and found["since"] == {"USD": 0} and found["archived"] == {}
    assert (await pasys("ledger", "verify"))[0] == 0
    code, found = await pasys("ledger", "verify", "--proof", last)
    assert code == 0 and (found["first_seq"], found["transfers"]) == (61, 60)
    code, told = await pasys("ledger", "export", "--proof", tmp_path / "x.proof", "--asset", "USD")
    assert code == 3 and told["error"]["facts"]["file"] == first
    proof = tmp_path / "left.proof"
    code, told = await pasys("ledger", "export", "--proof", proof, "--asset", "USD", "--from", 2 * ROWS + 1)
    assert code == 0 and told["before"]["seq"] == 2 * ROWS, "the files' last signature is where the rest begins"
    assert (await pasys("ledger", "verify", "--proof", proof))[0] == 0
    code, told = await pasys(*archive_, "--restore", first)
    assert code == 4 and told["error"]["code"] == "archive_out_of_order"
    for file in (last, first):
        code, back = await pasys(*archive_, "--restore", file)
        assert code == 0 and [(row["action"], row["file"]) for row in back["archives"]] == [("restored", file)]
    assert (await pasys("account", "balance", "user_0", "--at", T0.isoformat()))[0] == 0
    assert (await pasys("ledger", "verify", "--full"))[1]["archived"] == {}


@pytest.mark.parametrize(
    ("words", "field"),
    [
        ([], "dir"),
        (["--list", "--restore", "x"], "dir"),
        (["--dir", "x"], "before"),
        (["--dir", "x", "--to", "5"], "before"),
        (["--dir", "x", "--asset", "USD", "--to", "5", "--before", "1d"], "before"),
        (["--dir", "x", "--before", "once"], "before"),
        (["--restore", "nowhere"], "file"),
    ],
)
async def test_what_cannot_be_meant_is_refused(db: Database, pasys: Any, words: list[str], field: str) -> None:
    """Exit 2, and the name of the parameter."""
    code, told = await pasys("ledger", "archive", *words)
    assert code == 2 and told["error"]["facts"]["field"] == field


async def test_a_file_that_cannot_be_written_or_was_damaged(db: Database, pasys: Any, tmp_path: Path) -> None:
    """A folder that is none exits 2 and changes nothing; a damaged file exits 9 and is named."""
    await grown(db, rounds=14)
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    words = ("ledger", "archive", "--asset", "USD", "--to", ROWS)
    code, told = await pasys(*words, "--dir", blocked)
    assert code == 2 and str(blocked) in told["error"]["message"]
    assert (await pasys("ledger", "archive", "--list"))[1] == {"archives": []}
    (row,) = (await pasys(*words, "--dir", tmp_path))[1]["archives"]
    path = Path(row["file"])
    path.write_bytes(path.read_bytes()[:-40])
    for how in (("archive", "--restore", path), ("verify", "--archives", tmp_path)):
        code, told = await pasys("ledger", *how)
        assert code == 9 and str(path) in told["error"]["message"]
    code, told = await pasys("ledger", "verify", "--proof", path)
    assert code == 9 and told["error"]["code"] == "books_do_not_hold" and not told["ok"]
