"""A connection that breaks while a unit commits: what can be known is said, and what cannot be known is said too."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from psycopg.errors import UndefinedTable

from pasys.config import Settings
from pasys.db import Database
from pasys.errors import DatabaseUnavailable, OutcomeUnknown
from tests.support import owning
from tests.wire_kit import wired
from tests.worker_kit import opened, waiting


@pytest.fixture(params=[True, False], ids=["committed", "not committed"])
async def broken(
    settings: Settings, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[tuple[Database, bool]]:
    """A database whose connections break at the commit, and whether the server has then committed."""
    async with wired(settings, tmp_path, carries=request.param) as (there, _):
        database = Database(there)
        try:
            yield database, request.param
        finally:
            await database.close()


async def test_whether_a_change_was_committed_is_unknown(db: Database, broken: tuple[Database, bool]) -> None:
    """Nobody claims that it was not made: it may have been. The exit code is that of an unknown outcome."""
    database, committed = broken
    with pytest.raises(OutcomeUnknown) as unknown:
        async with database.unit() as unit:
            unit.emit(opened("perhaps"))
    assert unknown.value.exit_code == 8
    assert "--key" in unknown.value.advice
    assert await waiting(db) == committed


async def test_a_change_that_announces_nothing_is_one_where_its_caller_says_so(
    broken: tuple[Database, bool],
) -> None:
    """Nothing that was written tells a change from a question; whoever changes something says it."""
    database, _ = broken
    with pytest.raises(OutcomeUnknown):
        async with database.unit(changes=True) as unit:
            await unit.rows("update account set name = name")


async def test_a_question_that_breaks_is_no_change(broken: tuple[Database, bool]) -> None:
    """What only asked has changed nothing, wherever its connection broke: it may simply be asked again."""
    database, _ = broken
    with pytest.raises(DatabaseUnavailable):
        async with database.unit() as unit:
            assert await unit.value("select 1") == 1


async def test_a_server_that_answers_the_commit_with_an_error_has_not_committed(db: Database) -> None:
    """A deferred check that ends the connection is an answer: nothing was changed, and that is known."""
    async with owning(db) as unit:
        await unit.rows("""create function cut() returns trigger language plpgsql security definer as $$
                           begin perform pg_terminate_backend(pg_backend_pid()); return null; end $$""")
        await unit.rows("""create constraint trigger cut after insert on outbox deferrable initially deferred
                           for each row execute function cut()""")
    with pytest.raises(DatabaseUnavailable):
        async with db.unit() as unit:
            unit.emit(opened("never"))
    assert await waiting(db) == 0


async def test_a_unit_does_not_go_on_after_a_statement_that_failed(db: Database) -> None:
    """PostgreSQL would answer its commit with a rollback, and nobody would know that all of it was lost."""
    ended: list[bool] = []
    with pytest.raises(AssertionError, match="has failed"):
        async with owning(db) as unit:
            unit.afterwards(ended.append)
            await unit.rows("create table kept (x int)")
            with pytest.raises(UndefinedTable):
                await unit.rows("select * from nothing")
    async with db.unit() as unit:
        assert await unit.value("select to_regclass('kept')") is None
    assert ended == [False]
