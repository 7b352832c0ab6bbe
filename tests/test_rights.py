"""Who works on the books may add to them, and has no right to change them, wherever the database is."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import psycopg
import pytest
from psycopg import errors as pg_errors

from pasys import migration
from pasys.config import Settings
from pasys.db import Database
from pasys.errors import RightsMissing
from pasys.service import account
from pasys.stack import doctor
from tests import schema_kit
from tests.schema_kit import APP, APPEND_ONLY, REVISIONS, RIGHTS

empty, tenant = schema_kit.empty, schema_kit.tenant


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
            ("ledger_partition_add",), ("ledger_partition_index",)]  # fmt: skip
        connection.execute("grant all on transfer, alembic_version to pasys_app")
        connection.execute("create table of_somebody_else (); alter table of_somebody_else owner to pg_monitor")
        connection.execute("create procedure not_ours() security definer language sql as 'select 1'")
        assert connection.execute("select grant_app()").fetchone() == (True,)
        given = connection.execute(RIGHTS.encode()).fetchall()
        assert [row for row in given if row[0] != "of_somebody_else"] == rows
        assert ("of_somebody_else", "r", []) in given
    assert len(rows) > 30
    for table, kind, rights in rows:
        reads = kind == "v" or table == "alembic_version"
        adds, changes = ["INSERT", "SELECT"], ["DELETE", "INSERT", "SELECT", "UPDATE"]
        assert rights == (["SELECT"] if reads else adds if table in APPEND_ONLY else changes), table


def test_what_runs_as_the_owner_does_nothing_else(settings: Settings):
    """Whoever may make tables for a session, or functions in the schema, puts none in the place of what is meant; and
    an index is for a partition alone, not for the journal as a whole, which all who post would have to keep."""
    with psycopg.connect(settings.require("database_url")) as connection:
        connection.execute("insert into asset (code, kind, decimals) values ('USD', 'fiat', 2)")
        connection.execute("grant create on schema public to public; set role pasys_app")
        connection.execute("create temp table asset (like public.asset)")
        hijacked = """create function format(text, text, int8) returns text language plpgsql as $$
                      begin raise exception 'as %', current_user; end $$"""
        connection.execute(hijacked)
        assert connection.execute("select ledger_partition_add('USD')").fetchone() == ("transfer_usd_1000001",)
        for table in ("transfer", "archive_transfer", "nowhere"):
            assert connection.execute("select ledger_partition_index(%s)", (table,)).fetchone() == (None,)
        made = connection.execute("select ledger_partition_index('transfer_usd_1')").fetchone()
        assert made == ("transfer_usd_1_debit_idx",)


@pytest.mark.parametrize(
    "change", ["grant update on checkpoint to pasys_app", "grant execute on function ledger_partition_add to public"]
)
def test_rights_that_are_too_many_are_the_doctor_s(settings: Settings, change: str):
    """He says so, and what cures it does."""
    with psycopg.connect(settings.require("database_url"), autocommit=True) as connection:
        connection.execute(change.encode())
        found = doctor.rights(settings)
        assert not found.ok and "grant_app()" in found.fix
        connection.execute("select grant_app()")
    assert doctor.rights(settings).ok


@pytest.fixture
def alone(tenant: tuple[Settings, Settings]) -> tuple[Settings, Settings, str]:
    """An empty database, as its owner reaches it, and as a login of its own that may make tables in it; its name."""
    whole, confined = tenant
    url, name = whole.require("database_url"), confined.require("database_url").rpartition("%3D")[2]
    with psycopg.connect(url, autocommit=True) as superuser:
        superuser.execute(f"alter role {name} login password 'alone'".encode())
    own = msgspec.structs.replace(whole, database_url=re.sub("//[^@]*@", f"//{name}:alone@", url))
    return whole, own, name


async def test_a_schema_of_the_login_s_own_is_found_by_who_works_for_it(alone: tuple[Settings, Settings, str]):
    """By the role it works as it would look in another."""
    whole, own, name = alone
    with psycopg.connect(whole.require("database_url"), autocommit=True) as superuser:
        superuser.execute(f"create schema {name} authorization {name}; grant {APP} to {name}".encode())
    assert migration.upgrade(own) == REVISIONS
    db = Database(own)
    async with db.unit() as unit:
        assert await unit.value("select current_user::text") == APP
        await account.open(unit, name="alice", asset="USD")
        assert await unit.value("select 'account'::regclass = %(table)s::regclass", table=f"{name}.account")
    await db.close()


async def test_whose_login_has_no_such_role_has_books_all_the_same(alone: tuple[Settings, Settings, str]):
    """A login that may make no role, and is no member of the one there is: nobody else is given any right, and the
    triggers refuse what they refuse. As a member it works as that role, once it is said so."""
    whole, own, name = alone
    with psycopg.connect(whole.require("database_url"), autocommit=True) as superuser:
        assert migration.upgrade(own) == REVISIONS
        public = "select count(*) from pg_proc, aclexplode(coalesce(proacl, acldefault('f', proowner))) a"
        assert superuser.execute(f"{public} where prosecdef and grantee = 0".encode()).fetchone() == (0,)
        rows: list[Any] = superuser.execute(RIGHTS.encode()).fetchall()
        assert {table for table, _, rights in rows if rights} == set()
        for member in (False, True):
            if member:
                superuser.execute(f"grant {APP} to {name}".encode())
                with psycopg.connect(own.require("database_url"), autocommit=True) as connection:
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


def test_a_login_without_rights_is_told_so(alone: tuple[Settings, Settings, str]):
    """By the migration, which asks first how far the schema is, and by who would change it."""
    whole, own, name = alone
    migration.upgrade(whole)
    for ask in (migration.current, migration.check, migration.upgrade):
        with pytest.raises(RightsMissing, match="alembic_version"):
            ask(own)
    with psycopg.connect(whole.require("database_url"), autocommit=True) as superuser:
        superuser.execute(f"revoke create on schema public from {name}".encode())
        superuser.execute("drop table alembic_version")
    with pytest.raises(RightsMissing, match="schema public"):
        migration.upgrade(own)
