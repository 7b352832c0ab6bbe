"""The migrations make exactly the schema that is declared, from nothing and from every earlier revision."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg import errors as pg_errors
from psycopg import sql
from sqlalchemy import create_engine

from pasys import migration
from pasys.config import Settings
from pasys.errors import DatabaseUnavailable, RightsMissing, SchemaOutdated
from pasys.schema import metadata
from pasys.stack import doctor

APPEND_ONLY = (
    "transfer",
    "transfer_key",
    "checkpoint",
    "archive",
    "archive_account",
    "archive_answer",
    "archive_transfer",
    "transaction_history",
    "refund_history",
    "fraud_decision",
    "fraud_rules",
)
HOME = Settings(home="unused", database_url="postgresql://nowhere")
REVISIONS = [
    script.revision for script in reversed(list(ScriptDirectory.from_config(migration._alembic(HOME)).walk_revisions()))
]

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
RIGHTS = """
select c.relname, c.relkind::text, array(select privilege_type::text from aclexplode(c.relacl) a
                                    where a.grantee = 'pasys_app'::regrole order by 1)
  from pg_class c
 where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'S') order by c.relname
"""
APP = "pasys_app"

Make = Callable[[], Settings]


@pytest.fixture
def empty(servers: Settings, settings: Settings) -> Iterator[Make]:
    """Makes empty databases."""
    made: list[str] = []
    own, admin = str(settings.bus_prefix), servers.require("database_url")

    def make() -> Settings:
        made.append(f"{own}_{len(made)}")
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute(f"create database {made[-1]} template template0 strategy file_copy".encode())
        url = settings.require("database_url").replace(f"/{own}", f"/{made[-1]}")
        return msgspec.structs.replace(settings, database_url=url)

    yield make
    with psycopg.connect(admin, autocommit=True) as connection:
        for name in made:
            connection.execute(f"drop database {name} with (force)".encode())


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


@pytest.fixture
def tenant(empty: Make) -> Iterator[tuple[Settings, Settings]]:
    """An empty database, as its owner reaches it, and as somebody who may make tables in it and nothing else."""
    whole = empty()
    url = whole.require("database_url")
    name = f"tenant_{url.partition('?')[0].rsplit('/', 1)[1]}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"create role {name}; grant create on schema public to {name}".encode())
        yield whole, msgspec.structs.replace(whole, database_url=f"{url}&options=-crole%3D{name}")
        connection.execute(f"reassign owned by {name} to current_user; drop owned by {name}; drop role {name}".encode())


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


def test_who_works_on_the_books_may_add_and_no_more(settings: Settings):
    """To what is written once pasys_app may add, and the rest it may change; it owns nothing, and of the owner's it
    runs what keeps the journal's partitions. A revision that makes a table and forgets the rights is found here."""
    with psycopg.connect(settings.require("database_url")) as connection:
        rows: list[Any] = connection.execute(RIGHTS.encode()).fetchall()
        owns = """select count(*) from pg_shdepend s join pg_database d on d.oid = s.dbid
                   where datname = current_database() and refobjid = 'pasys_app'::regrole and deptype = 'o'"""
        assert connection.execute(owns).fetchone() == (0,)
        asked = "select proname from pg_proc where pronamespace = 'public'::regnamespace and prosecdef order by 1"
        assert connection.execute(asked).fetchall() == [
            ("ledger_partition_add",), ("ledger_partition_index",), ("oldest_writer",)]  # fmt: skip
        public = "select count(*) from pg_proc, aclexplode(proacl) a where prosecdef and a.grantee = 0"
        assert connection.execute(public).fetchone() == (0,)
        connection.execute("grant all on transfer, alembic_version to pasys_app")
        assert connection.execute("select grant_app()").fetchone() == (True,)
        assert connection.execute(RIGHTS.encode()).fetchall() == rows
        connection.execute("insert into asset (code, kind, decimals) values ('USD', 'fiat', 2)")
        connection.execute("set role pasys_app; create temp table asset (like public.asset)")  # in front of the other
        assert connection.execute("select ledger_partition_add('USD')").fetchone() == ("transfer_usd_1000001",)
    assert len(rows) > 30
    for table, kind, rights in rows:
        reads = kind == "v" or table == "alembic_version"
        adds, changes = ["INSERT", "SELECT"], ["DELETE", "INSERT", "SELECT", "UPDATE"]
        assert rights == (["SELECT"] if reads else adds if table in APPEND_ONLY else changes), table


async def test_whose_login_has_no_such_role_has_books_all_the_same(tenant: tuple[Settings, Settings]):
    """A login that may make no role, and is no member of the one there is: nobody else is given any right, and the
    triggers refuse what they refuse. As a member it works as that role, once it is said so."""
    from pasys.db import Database
    from pasys.service import account

    whole, confined = tenant
    name = confined.require("database_url").rpartition("%3D")[2]
    alone = re.sub("//[^@]*@", f"//{name}:alone@", whole.require("database_url"))
    own = msgspec.structs.replace(whole, database_url=alone)
    with psycopg.connect(whole.require("database_url"), autocommit=True) as superuser:
        superuser.execute(f"alter role {name} login password 'alone'".encode())
        assert migration.upgrade(own) == REVISIONS
        rows: list[Any] = superuser.execute(RIGHTS.encode()).fetchall()
        assert {table for table, _, rights in rows if rights} == set()
        for member in (False, True):
            if member:
                superuser.execute(f"grant {APP} to {name}".encode())
                with psycopg.connect(alone, autocommit=True) as connection:
                    assert connection.execute("select grant_app()").fetchone() == (True,)
            assert ("pasys_app" if member else "triggers alone") in doctor.rights(own).says
            db = Database(own)
            async with db.unit() as unit:
                assert await unit.value("select current_user::text") == (APP if member else name)
                await account.open(unit, name=f"alice.{member}", asset="USD")
            with pytest.raises(RightsMissing if member else pg_errors.RestrictViolation):
                async with db.unit() as unit:
                    await unit.rows("delete from transfer")
            await db.close()


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
