"""What keeps the books right when something else is wrong: a client, a connection, or whoever has the password.

scripts/mutate_ledger.py takes each guard away, and expects a test to fail.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from psycopg import errors as pg

from pasys.db import Database, Unit
from pasys.domain import ledger_chain
from pasys.domain.ledger import Kind, Purpose, Transfer
from pasys.domain.ledger_columns import Columns
from pasys.domain.ledger_rules import judge
from pasys.errors import DatabaseUnavailable, RightsMissing
from pasys.service import account, ledger, ledger_books, ledger_memory, ledger_poster
from pasys.service.ledger_books import Writing
from pasys.service.ledger_poster import Poster
from tests.ledger_kit import direct, people, unsealed
from tests.support import owning

# What cannot be written ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "update transfer set amount = 1",
        "delete from transfer",
        "truncate transfer",
        "delete from transfer where false",
        "update transfer_usd_1 set amount = 1",
        "delete from transfer_usd_1",
        "truncate transfer_usd_1",
        "update transfer_key set seq = 7",
        "delete from transfer_key",
        "truncate transfer_key",
    ],
)
async def test_the_journal_is_append_only(db: Database, statement: str) -> None:
    """UPDATE, DELETE and TRUNCATE of the journal, its partitions and its ids are refused: to those who work on it by
    grant, also where somebody has switched the triggers off, and to its owner by trigger."""
    async with db.unit() as unit:
        await people(unit, "alice", funds=100)
    with pytest.raises(pg.RestrictViolation, match="append-only"):
        async with owning(db) as unit:
            await unit.rows(statement)
    async with owning(db) as unit:
        await unit.rows(f"alter table {re.findall('transfer[_a-z0-9]*', statement)[0]} disable trigger all")
    with pytest.raises(RightsMissing, match="permission denied for table"):
        async with db.unit() as unit:
            await unit.rows(statement)
    async with db.unit() as unit:
        assert (await ledger.verify(unit)).ok


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ("debit = null", pg.NotNullViolation),
        ("credit = debit", pg.CheckViolation),
        ("amount = 0", pg.CheckViolation),
        ("amount = -5", pg.CheckViolation),
        ("kind = 2", pg.CheckViolation),
        ("kind = 9", pg.CheckViolation),
        ("kind = -1", pg.CheckViolation),
        ("pending_id = gen_random_uuid()", pg.CheckViolation),
        ("expires_at = now()", pg.CheckViolation),
        ("seq = 1", pg.UniqueViolation),
    ],
)
async def test_half_a_transfer_cannot_be_written(db: Database, change: str, broken: type[Exception]) -> None:
    """A row without both sides, without an amount, of no kind or at a taken place is refused, whoever writes it."""
    column, _, value = change.partition(" = ")
    async with db.unit() as unit:
        await people(unit, "alice", funds=100)
    with pytest.raises(broken):
        async with db.unit() as unit:
            await unit.rows(
                f"""insert into transfer select (jsonb_populate_record(t, jsonb_build_object(
                    'seq', 2, 'id', gen_random_uuid()) || jsonb_build_object('{column}', {value}))).* from transfer t"""
            )


async def test_the_database_stops_an_overdraft(db: Database) -> None:
    """A client whose rules are broken cannot overdraw: the account row itself refuses."""
    async with db.unit() as unit:
        await people(unit, "alice", funds=100)
        await account.open(unit, name="till", asset="USD", type="merchant", credits_must_not_exceed_debits=True)
    wrong = [("alice", "debits_posted = 101"), ("alice", "debits_pending = 101"), ("till", "credits_pending = 1")]
    counters = ("debits_pending", "debits_posted", "credits_pending", "credits_posted")
    wrong += [("external:deposits", f"{counter} = -1") for counter in counters]
    for name, counter in wrong:
        with pytest.raises(pg.CheckViolation):
            async with db.unit() as unit:
                await unit.rows(f"update account set {counter} where name = '{name}'")


@pytest.mark.parametrize(
    "statement",
    [
        "set session_replication_role = replica",
        "alter table transfer disable trigger all",
        "drop trigger transfer_immutable on transfer",
        "create or replace function refuse_change() returns trigger language plpgsql as 'begin return new; end'",
        "select ledger_partition_drop('USD', 1, 1000000)",
        "drop table transfer_usd_1",
        "create table transfer_too ()",
    ],
)
async def test_who_works_on_the_books_cannot_open_them(db: Database, statement: str) -> None:
    """Triggers, rights, functions and tables are for the owner: what is refused stays refused."""
    async with db.unit() as unit:
        await people(unit, "alice", funds=100)
    with pytest.raises(RightsMissing):
        async with db.unit() as unit:
            await unit.rows(statement)


async def test_an_empty_journal_is_not_emptied(db: Database) -> None:
    """Not even TRUNCATE of a journal without a partition passes."""
    with pytest.raises(pg.RestrictViolation, match="append-only"):
        async with owning(db) as unit:
            await unit.rows("truncate transfer")


async def test_an_assets_row_holds_together(db: Database) -> None:
    """Its hash is whole, its account rows are not ahead of the journal, and an id is taken once, whoever writes."""
    async with db.unit() as unit:
        await people(unit, "alice", funds=100)
    wrong = {
        "update asset set last_hash = 'x'": pg.CheckViolation,
        "update asset set projected_seq = last_seq + 1": pg.CheckViolation,
        "update asset set projected_seq = -1": pg.CheckViolation,
        "insert into transfer_key select id, asset, seq from transfer_key": pg.UniqueViolation,
    }
    for statement, broken in wrong.items():
        with pytest.raises(broken):
            async with db.unit() as unit:
                await unit.rows(statement)


async def test_an_asset_begins_with_a_partition_and_its_own_hash(db: Database) -> None:
    """However an asset's row comes to be, its first transfer has a place and a hash to follow."""
    async with db.unit() as unit:
        await unit.rows("insert into asset (code, kind, decimals) values ('XAU', 'fiat', 4)")
        assert bytes(await unit.value("select last_hash from asset")) == ledger_chain.genesis("XAU")
        assert await unit.value("select to_regclass('transfer_xau_1') is not null")


# Writing what is not true any more -----------------------------------------------------------------------------------


async def prepared(unit: Unit, *transfers: Transfer) -> Writing:
    """Transfers that were judged by books that nobody holds, as a poster's memory is."""
    columns, now = Columns.of(list(transfers)), datetime.now(UTC)
    found = await ledger_books.load(unit.driver, columns, lock=False, now=now)
    assert found is not None
    verdict = judge(columns, found[1])
    return ledger_books.prepare(columns, found[0], verdict, now, accounts=verdict.changed)


@pytest.mark.parametrize(
    "meanwhile", ["somebody posts", "an account is changed", "account rows are brought up to date"]
)
async def test_books_that_moved_on_are_not_written(
    db: Database, meanwhile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was judged by other books than there are now is refused as a whole."""
    monkeypatch.setattr(ledger_memory, "LAG_FROM", 1)
    monkeypatch.setattr(ledger_poster, "IDLE_S", 60.0)
    async with db.unit() as unit:
        alice, bob = await people(unit, "alice", "bob", funds=100)
    async with Poster(db) as poster:
        for _ in range(2):
            await poster.post_many(Columns.of([direct(alice, bob, 1)]))
        async with db.unit() as unit:
            assert await unit.value("select last_seq - projected_seq from asset") == 1
            writing = await prepared(unit, direct(alice, bob, 5))
        async with db.unit() as unit:
            if meanwhile == "somebody posts":
                await ledger.post(unit, [direct(bob, alice, 7)])
                await unit.rows("update asset set projected_seq = last_seq - 2")
            elif meanwhile == "an account is changed":
                await unit.rows("update asset set epoch = epoch + 1")
            else:
                await ledger.project(unit, "USD")
        with pytest.raises(DatabaseUnavailable, match="moved on"):
            async with db.unit() as unit:
                await ledger_books.write(unit.driver, writing)
    async with db.unit() as unit:
        assert (await ledger.verify(unit)).ok and await unsealed(unit, "USD") == []


async def test_accounts_and_holds_that_are_gone_are_not_written(db: Database) -> None:
    """A batch whose account or hold is not there any more, whoever took it away, is refused as a whole."""
    async with db.unit() as unit:
        alice, bob = await people(unit, "alice", "bob", funds=100)
        hold = direct(alice, bob, 5, kind=Kind.PENDING, purpose=Purpose.HOLD)
        await ledger.post(unit, [hold])
    end = direct(alice, bob, 5, kind=Kind.POST, purpose=Purpose.PAYMENT, pending_id=hold.id)
    for transfer, taken in ((direct(alice, bob, 1), f"account where id = {bob}"), (end, "hold")):
        with pytest.raises(DatabaseUnavailable, match="is gone"):
            async with db.unit() as unit:
                writing = await prepared(unit, transfer)
                await unit.rows(f"delete from {taken}")
                await ledger_books.write(unit.driver, writing)
