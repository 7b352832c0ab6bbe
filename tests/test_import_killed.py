"""A large import is killed again and again, on its way into the books and out of them; it is in whole or out whole."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pasys.config import Settings
from pasys.db import Database
from pasys.money import parse
from pasys.service import ledger, transaction, transaction_state
from pasys.service.transaction import Draft
from tests.import_files import HEADER, command, environment, write
from tests.support import eventually, owning

ACCOUNTS = 50
PATIENCE_S = 3_600.0  # of a machine that has a million rows to move, and other work
# No row of the file behind the one in `brake` is done as long as somebody holds this lock: it never ends unkilled.
BRAKE = """
create table brake (rows int);
insert into brake values (0);
grant all on brake to public;
create function brake() returns trigger language plpgsql as $$ begin
    if new.rows_done > (select rows from brake) then perform pg_advisory_xact_lock_shared(1); end if;
    return new;
end $$;
create trigger brake before update on import_batch for each row execute function brake();
"""
Row = tuple[str, str, str, int]  # kind, from, to, amount in major units


def rows_of(count: int) -> Iterator[Row]:
    """Every account is funded, then money goes from one to another; each thousandth row is refused: poor is poor."""
    for i in range(count):
        if i < ACCOUNTS:
            yield "deposit", "", f"c{i}", 1_000_000
        elif i % 1_000 == 999:
            yield "transfer", "poor", f"c{i % ACCOUNTS}", 1
        elif i % 10 == 0:
            yield "deposit", "", f"c{i * 7 % ACCOUNTS}", 2
        else:
            yield "transfer", f"c{i % ACCOUNTS}", f"c{(i * 3 + 1) % ACCOUNTS}", 1 + i % 7


def text_of(i: int, row: Row) -> str:
    """A line of the file. Every third row has a key; each carries its number, so that it is found again."""
    kind, payer, payee, amount = row
    return f"{f'k{i}' if i % 3 == 0 else ''},{kind},{payer},{payee},{amount},USD,,,,{i}"


def balances_of(count: int) -> Counter[str]:
    """What the accounts hold in the end, in minor units."""
    found: Counter[str] = Counter()
    for _, payer, payee, amount in rows_of(count):
        if payer != "poor":
            found[payee] += 100 * amount
            found[payer] -= 100 * amount
    del found[""]
    return found


class World:
    """A database, and the command that works on it in processes of its own."""

    def __init__(self, db: Database, settings: Settings, seed: int) -> None:
        self.db, self._settings, self.draw = db, settings, random.Random(seed)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        words = command(self._settings, *arguments, "--json")
        return subprocess.Popen(words, env=environment(self._settings), stdout=subprocess.DEVNULL)

    def end(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """The command, left alone until it has ended: its exit code and what it said."""
        words = command(self._settings, *arguments, "--json")
        ended = subprocess.run(words, env=environment(self._settings), capture_output=True, text=True, check=False)
        return ended.returncode, json.loads(ended.stdout)

    async def value(self, sql: str) -> Any:
        async with owning(self.db) as unit:
            return await unit.value(sql)

    async def kill(
        self, running: subprocess.Popen[bytes], begun: Callable[[], Awaitable[bool]], *, late_s: float
    ) -> None:
        """kill -9 at a random moment after it has begun."""
        await eventually(begun, within_s=PATIENCE_S, every_s=0.005)
        time.sleep(self.draw.uniform(0, late_s))
        running.send_signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL

    async def nobody_else(self) -> bool:
        """No command has a transaction open: the server has seen that the one that was killed is gone."""
        others = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        return not await self.value(f"{others} and backend_xid is not null")


async def kill_imports(world: World, path: Path, *, rows: int, kills: int, options: tuple[str, ...]) -> None:
    """Import a file and kill it on the way: soon after its start, and whenever so many rows more are done."""
    async with owning(world.db) as unit:
        await unit.driver.execute(BRAKE.encode())
    for reached in [0, *sorted(world.draw.randrange(1, rows * 3 // 4) for _ in range(kills - 1))]:

        async def begun(reached: int = reached) -> bool:
            return not reached or (await world.value("select rows_done from import_batch") or 0) >= reached

        async with world.db.unit() as unit:
            await unit.rows("select pg_advisory_xact_lock(1)")
            async with world.db.unit() as other:
                await other.rows("update brake set rows = %(rows)s", rows=reached + rows // 10)
            running = world.start("tx", "import", str(path), *options)
            await world.kill(running, begun, late_s=rows / 50_000 if reached else 1.0)
    async with owning(world.db) as unit:
        await unit.rows("drop trigger brake on import_batch")
    done = await world.value("select rows_done from import_batch")
    assert 0 < done < rows, "it was killed on the way"


async def every_row_is_there_once(world: World, *, rows: int) -> None:
    """By the numbers that they carry: with their own amounts, or refused; and the balances are those of the file."""
    refused = len(range(999, rows, 1_000))
    async with world.db.unit() as unit:
        batch = await unit.row("select * from import_batch")
        assert (batch.rows_done, batch.rows_refused) == (rows, refused) and batch.finished_at is not None
        lines = [row.line for row in await unit.rows("select line from import_refusal order by line")]
        assert lines == [i + 2 for i in range(999, rows, 1_000)]
        made = await unit.row(
            "select count(*) as n, count(distinct i) as different, min(i) as first, max(i) as last,"
            "       count(*) filter (where i % 1000 = 999) as wrong, count(distinct transfer_ids[1]) as transfers"
            "  from (select (metadata ->> 'row')::int as i, transfer_ids from transaction) t"
        )
        assert made == (rows - refused, rows - refused, 0, made.last, 0, rows - refused)
        accepted = await unit.value("select count(*) from transfer where result = 0")
        keys = await unit.value("select count(*) from idempotency")
        assert accepted == keys == rows - refused
        held = await unit.rows("select name, credits_posted - debits_posted as held from account_now where name ~ '^c'")
        assert {row.name: row.held for row in held} == dict(balances_of(rows))
        assert (await ledger.verify(unit)).ok


async def undo_is_all_or_none(world: World, *, rows: int, kills: int, late_s: float) -> None:
    """Refused, killed, and then done: only the last changes anything, and it leaves nothing."""
    batch = await world.value("select id from import_batch")
    created = await world.value("select count(*) from transaction")
    undo = ("tx", "undo", batch, "--yes")
    reversals = "select count(*) from transaction where parent_id is not null"

    async with world.db.unit() as unit:
        spent = await transaction.create(unit, Draft(amount=parse("1000000", "USD"), debit="c0"))
    code, said = world.end(*undo)
    assert (code, said["error"]["code"]) == (6, "insufficient_funds")
    assert await world.value(reversals) == 0
    async with world.db.unit() as unit:
        await transaction_state.reverse(unit, spent.transaction_id or "")

    async def begun() -> bool:
        return not await world.nobody_else()

    for _ in range(kills):
        async with world.db.unit() as unit:
            await unit.rows("lock table outbox in share mode")  # what it writes last, so that it never ends unkilled
            await world.kill(world.start(*undo), begun, late_s=late_s)
        await eventually(world.nobody_else, within_s=PATIENCE_S)
        assert await world.value(reversals) == 1, "none of the import's, and the one of what was spent"
    code, said = world.end(*undo)
    assert (code, said["reversed"], len(said["reversals"])) == (0, created, created)
    async with world.db.unit() as unit:
        announced = await unit.value(
            "select count(distinct entity_id) from event join transaction t on t.id = entity_id"
            " where t.parent_id is not null and subject = 'transaction.succeeded'"
        )
        assert announced == created + 1
        left = await unit.value("select count(*) from account_now where credits_posted <> debits_posted")
        assert left == 0 and (await ledger.verify(unit)).ok


async def killed(world: World, folder: Path, *, rows: int, kills: int, late_s: float, options: tuple[str, ...]) -> None:
    lines = (text_of(i, row) for i, row in enumerate(rows_of(rows)))
    path = write(folder / "large.csv", *lines, header=f"{HEADER},row")
    arguments = ("--open-accounts", *options)
    await kill_imports(world, path, rows=rows, kills=kills, options=arguments)
    code, said = world.end("tx", "import", str(path), *arguments)
    assert code == 6 and said["state"] == "finished" and 0 < said["done_before"] < rows
    await every_row_is_there_once(world, rows=rows)
    await undo_is_all_or_none(world, rows=rows, kills=kills, late_s=late_s)


@pytest.mark.parametrize("batch_size", [250, 2_000])  # below and above where rows become columns
async def test_a_killed_import_is_whole_and_a_killed_undo_is_nothing(
    db: Database, settings: Settings, tmp_path: Path, batch_size: int
) -> None:
    """20,000 rows, killed twice on the way in and twice on the way out."""
    options = ("--batch-size", str(batch_size))
    await killed(World(db, settings, 1), tmp_path, rows=20_000, kills=2, late_s=1.0, options=options)


@pytest.mark.slow
async def test_a_killed_import_of_a_million_rows_is_whole(db: Database, settings: Settings, tmp_path: Path) -> None:
    """A million rows, killed six times on the way in and as often on the way out."""
    await killed(World(db, settings, 2), tmp_path, rows=1_000_000, kills=6, late_s=20.0, options=())
