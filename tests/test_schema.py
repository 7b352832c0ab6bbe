"""The migrations make exactly the schema that is declared, from nothing and from every earlier revision."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import msgspec
import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from psycopg import errors as pg_errors
from psycopg import sql
from sqlalchemy import create_engine

from pasys import migration
from pasys.config import Settings
from pasys.errors import DatabaseUnavailable, SchemaOutdated
from pasys.schema import metadata
from tests import schema_kit
from tests.schema_kit import APPEND_ONLY, REVISIONS, RIGHTS, Make

empty, tenant = schema_kit.empty, schema_kit.tenant

COLUMNS = """
select c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid),
       (select collname from pg_collation where oid = a.attcollation), a.attidentity
  from pg_class c
  join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
  left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
 where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and c.relname <> 'alembic_version'
"""
CONSTRAINTS = """
select c.relname, n.conname, n.contype, pg_get_constraintdef(n.oid)
  from pg_constraint n join pg_class c on c.oid = n.conrelid
 where n.connamespace = 'public'::regnamespace and c.relname <> 'alembic_version' and n.contype <> 'n'
"""
INDEXES = "select tablename, indexname, indexdef from pg_indexes where schemaname = 'public'"
STORAGE = """
select relname, reloptions from pg_class
 where relnamespace = 'public'::regnamespace and relkind = 'r' and relname <> 'alembic_version'
"""


def engine_url(settings: Settings) -> str:
    return settings.require("database_url").replace("postgresql://", "postgresql+psycopg://", 1)


def shape(settings: Settings) -> dict[str, set[str]]:
    """Everything that the catalogue of a database says about its tables."""
    with psycopg.connect(settings.require("database_url")) as connection:
        asked = {"columns": COLUMNS, "constraints": CONSTRAINTS, "indexes": INDEXES, "storage": STORAGE}
        found = {
            about: {repr(row) for row in connection.execute(query.encode()) if "alembic_version" not in str(row)}
            for about, query in asked.items()
        }
        functions = (
            "select p.oid::regprocedure::text, md5(prosrc), prosecdef, proconfig, proacl::text"
            "  from pg_proc p where pronamespace = 'public'::regnamespace"
        )
        triggers = (
            "select tgrelid::regclass::text, tgname, pg_get_triggerdef(oid) from pg_trigger where not tgisinternal"
        )
        found["functions"] = {repr(row) for row in connection.execute(functions.encode())}
        found["triggers"] = {repr(row) for row in connection.execute(triggers.encode())}
        found["rights"] = {repr(row) for row in connection.execute(RIGHTS.encode())}
    return found


def declared(settings: Settings) -> dict[str, set[str]]:
    """The shape that the declaration makes by itself."""
    engine = create_engine(engine_url(settings))
    metadata.create_all(engine)
    engine.dispose()
    return shape(settings)


@pytest.mark.parametrize("about", ["columns", "constraints", "indexes", "storage"])
def test_migrations_make_what_is_declared(settings: Settings, empty: Make, about: str):
    """Types, defaults, collations, checks, keys, indexes and fill factors are the same, read from PostgreSQL itself."""
    migrated, wanted = shape(settings)[about], declared(empty())[about]
    assert migrated - wanted == set(), "only in the migrations"
    assert wanted - migrated == set(), "only in pasys/schema"


def test_alembic_finds_nothing_to_do(settings: Settings):
    """Autogenerate compares the two in its own way, and would write an empty revision."""
    engine = create_engine(engine_url(settings))
    with engine.connect() as connection:
        options = {"compare_type": True, "compare_server_default": True}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []
    engine.dispose()


def test_the_newest_revision_is_the_one_that_is_checked_for():
    """The quick check knows the newest revision without Alembic, and revisions are one line, numbered."""
    assert REVISIONS[-1] == migration.HEAD
    assert [f"{number:04}" for number in range(1, len(REVISIONS) + 1)] == REVISIONS


@pytest.mark.parametrize("start", REVISIONS[:-1])
def test_every_earlier_revision_leads_here(settings: Settings, empty: Make, start: str):
    """A database of any earlier revision becomes the same as one that was made today."""
    old = empty()
    command.upgrade(migration._alembic(old), start)
    assert migration.current(old) == start
    with pytest.raises(SchemaOutdated):
        migration.check(old)
    assert migration.upgrade(old) == REVISIONS[REVISIONS.index(start) + 1 :]
    assert shape(old) == shape(settings)


def test_a_migration_is_done_once(settings: Settings, empty: Make):
    """From nothing to the newest revision in one go; asked again it changes nothing and says so."""
    new = empty()
    assert migration.current(new) is None
    assert [revision.revision for revision, _ in migration.plan(new)] == REVISIONS
    assert migration.upgrade(new) == REVISIONS
    migration.check(new)
    assert migration.upgrade(new) == [] and migration.plan(new) == []
    assert all(revision.applied for revision in migration.status(new))
    assert shape(new) == shape(settings)


async def test_without_trigrams_everything_but_their_index_is_there(
    settings: Settings, tenant: tuple[Settings, Settings]
):
    """Where the extension cannot be installed the schema is made without it, and a part of a name is found all the
    same."""
    from pasys.db import Database
    from pasys.service import account

    whole, confined = tenant
    assert migration.upgrade(confined) == REVISIONS
    missing = shape(settings)["indexes"] - shape(whole)["indexes"]
    assert len(missing) == 1 and "account_name_part_idx" in missing.pop()
    db = Database(whole)
    async with db.unit() as unit:
        await account.open(unit, name="alice.smith", asset="USD")
        await account.open(unit, name="bob", asset="USD")
        assert [row.name for row in await account.listing(unit, name_like="SMI")] == ["alice.smith"]
    await db.close()


def test_two_migrators_at_once_are_one(settings: Settings, empty: Make):
    """The later one waits, finds the work done, and ends well."""
    new = empty()
    code = (
        "import sys; from pasys import migration; from pasys.config import Settings\n"
        "migration.upgrade(Settings(home='unused', database_url=sys.argv[1]))"
    )
    words = [sys.executable, "-c", code, new.require("database_url")]
    running = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in running:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
    assert shape(new) == shape(settings)


def test_no_server_is_said_so(settings: Settings):
    """Where PostgreSQL does not answer, every question about the schema ends in that error."""
    nowhere = msgspec.structs.replace(settings, database_url="postgresql://pasys@127.0.0.1:1/none?connect_timeout=2")
    for ask in (migration.current, migration.check, migration.upgrade):
        with pytest.raises(DatabaseUnavailable):
            ask(nowhere)


# What may never be written -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["update {} set {} = {}", "delete from {}", "truncate {} cascade"])
@pytest.mark.parametrize("table", APPEND_ONLY)
def test_what_is_written_once_stays(settings: Settings, table: str, words: str):
    """The journal, the histories, the decisions and the rules refuse UPDATE, DELETE and TRUNCATE, even without rows."""
    column = next(iter(metadata.tables[table].columns)).name
    names = [sql.Identifier(name) for name in (table, column, column)]
    statement = sql.SQL(words).format(*names[: words.count("{}")])  # type: ignore[arg-type]
    with psycopg.connect(settings.require("database_url")) as connection, pytest.raises(pg_errors.RestrictViolation):
        connection.execute(statement)


def test_amounts_are_bigint(settings: Settings):
    """Whatever holds an amount holds whole minor units of 64 bits: a fraction cannot be stored."""
    with psycopg.connect(settings.require("database_url")) as connection:
        rows: list[Any] = connection.execute(COLUMNS.encode()).fetchall()
    amounts = {
        f"{table}.{column}": kind
        for table, column, kind, *_ in rows
        if column.endswith(("_minor", "_pending", "_posted", "_balance")) or column == "amount"
    }
    assert len(amounts) > 15 and set(amounts.values()) == {"bigint"}


IMPOSSIBLE = [
    "insert into asset (code, kind, decimals) values ('AAA', 'fiat', 10)",
    "insert into asset (code, kind, decimals) values ('AAA', 'shell', 2)",
    "insert into account (id, name, asset, type) values (1, 'x', 'NOPE', 'customer')",
    "insert into account (id, name, asset, type, status) values (1, 'x', 'USD', 'customer', 'BANANA')",
    "insert into account (id, name, asset, type, flags, debits_posted) values (1, 'x', 'USD', 'customer', 1, 5)",
    "insert into account (id, name, asset, type, credits_posted) values (1, 'x', 'USD', 'customer', -1)",
    """insert into transaction (id, kind, rail, status, asset, amount_minor, debit_account, credit_account, actor,
       effective_at, created_at) values ('tx', 'payment', 'book', 'BANANA', 'USD', 1, 1, 2, 'me', now(), now())""",
    """insert into transaction (id, kind, rail, status, asset, amount_minor, debit_account, credit_account, actor,
       effective_at, created_at) values ('tx', 'payment', 'book', 'pending', 'USD', 0, 1, 2, 'me', now(), now())""",
    """insert into transaction (id, kind, rail, status, asset, amount_minor, debit_account, credit_account, actor,
       effective_at, created_at, captured_minor, refunded_minor, refunding_minor)
       values ('tx', 'payment', 'x', 'pending', 'USD', 9, 1, 2, 'me', now(), now(), 5, 3, 3)""",
]


@pytest.mark.parametrize("words", IMPOSSIBLE)
def test_wrong_rows_cannot_be_written(settings: Settings, words: str):
    """What no rule allows is refused by the table itself: unknown words, overdrafts, more refunded than captured."""
    with psycopg.connect(settings.require("database_url")) as connection:
        connection.execute("insert into asset (code, kind, decimals) values ('USD', 'fiat', 2)")
        with pytest.raises((pg_errors.CheckViolation, pg_errors.ForeignKeyViolation)):
            connection.execute(words.encode())


EARLIER_BOOKS = """
insert into asset (code, kind, decimals, last_seq, epoch) values ('USD', 'fiat', 2, 4, 0), ('JPY', 'fiat', 0, 0, 0);
insert into account (id, name, asset, type, flags, version, debits_pending, debits_posted, credits_pending,
                     credits_posted)
values (1, 'external:deposits', 'USD', 'system', 0, 1, 0, 100, 0, 0),
       (2, 'alice', 'USD', 'customer', 1, 3, 20, 30, 0, 100), (3, 'bob', 'USD', 'customer', 1, 2, 0, 0, 20, 30);
insert into transfer (asset, seq, id, debit, credit, amount, kind, code, result, debit_version, credit_version,
                      debit_balance, credit_balance, effective_at, recorded_at, reference)
values ('USD', 1, '01900000-0000-7000-8000-000000000001', 1, 2, 100, 0, 20, 0, 1, 1, -100, 100, '2026-01-02',
        '2026-01-02', null),
       ('USD', 2, '01900000-0000-7000-8000-000000000002', 2, 3, 30, 0, 22, 0, 2, 1, 70, 30, '2026-01-01',
        '2026-01-01', 'tx_1'),
       ('USD', 3, '01900000-0000-7000-8000-000000000003', 2, 3, 999, 0, 22, 40, 0, 0, 0, 0, '2026-01-03', '2026-01-03',
        'tx_2'),
       ('USD', 4, '01900000-0000-7000-8000-000000000004', 2, 3, 20, 1, 1, 0, 3, 2, 70, 30, '2026-01-04', '2026-01-04',
        null);
insert into hold (id, asset, debit, credit, amount, expires_at)
values ('01900000-0000-7000-8000-000000000004', 'USD', 2, 3, 20, '2026-02-01');
"""


async def test_books_of_before_are_sealed_on_the_way(empty: Make):
    """Rows that were written before there was a chain keep their places, get seals and ids, and the books verify."""
    from pasys.db import Database
    from pasys.domain.ledger import Kind
    from pasys.service import ledger
    from tests.ledger_kit import direct

    old = empty()
    command.upgrade(migration._alembic(old), "0002")
    with psycopg.connect(old.require("database_url")) as connection:
        connection.execute(EARLIER_BOOKS.encode())
    migration.upgrade(old)
    db = Database(old)
    async with db.unit() as unit:
        assert (await ledger.verify(unit)).findings == []
        rows = await ledger.transfers(unit, asset="USD")
        assert [(row.seq, row.amount.minor, row.reference) for row in rows] == [
            (1, 100, None), (2, 30, "tx_1"), (3, 999, "tx_2"), (4, 20, None)]  # fmt: skip
        (hold,) = (await ledger.holds(unit, [rows[3].id])).values()
        assert rows[3].kind is Kind.PENDING and hold.amount_minor == 20
        (posted,) = await ledger.post(unit, [direct(2, 3, 5)])
        assert posted.seq == 5 and (await ledger.verify(unit)).ok
    await db.close()
