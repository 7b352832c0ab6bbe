"""A connection that breaks while a unit commits: what can be known is said, and what cannot be known is said too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import msgspec
import pytest

from pasys.config import Settings
from pasys.db import Database
from pasys.errors import DatabaseUnavailable, OutcomeUnknown
from tests.worker_kit import opened, waiting


class Wire:
    """A wire to PostgreSQL that carries everything but the answer to a COMMIT: there it breaks.

    With `carries` it carries the COMMIT itself, so that the server commits; without, the server never hears of it.
    """

    def __init__(self, target: str, *, carries: bool) -> None:
        self._target, self._carries = target, carries

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, questions = await asyncio.open_unix_connection(self._target)
        back = asyncio.create_task(_pass(answers, writer))
        while data := await reader.read(65_536):
            last = b"COMMIT\0" in data
            if last:
                back.cancel()
            if not last or self._carries:
                questions.write(data)
                await questions.drain()
            if last:
                if self._carries:
                    await answers.read(65_536)  # it has committed
                break
        for end in (writer, questions):
            end.close()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()


@pytest.fixture(params=[True, False], ids=["committed", "not committed"])
async def broken(
    settings: Settings, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[tuple[Database, bool]]:
    """A database whose connections break at the commit, and whether the server has then committed."""
    url = settings.require("database_url")
    address = parse_qs(urlsplit(url).query)
    socket = f".s.PGSQL.{address.get('port', ['5432'])[0]}"
    wire = Wire(f"{address['host'][0]}/{socket}", carries=request.param)
    server = await asyncio.start_unix_server(wire.carry, tmp_path / socket)
    there = url.replace(quote(address["host"][0], safe=""), quote(str(tmp_path), safe=""))
    assert there != url
    database = Database(msgspec.structs.replace(settings, database_url=there))
    try:
        yield database, request.param
    finally:
        await database.close()
        server.close()


async def test_whether_a_change_was_committed_is_unknown(db: Database, broken: tuple[Database, bool]) -> None:
    """Nobody claims that it was not made: it may have been. The exit code is that of an unknown outcome."""
    database, committed = broken
    with pytest.raises(OutcomeUnknown) as unknown:
        async with database.unit() as unit:
            unit.emit(opened("perhaps"))
    assert unknown.value.exit_code == 8
    assert "--key" in unknown.value.advice
    assert await waiting(db) == committed


async def test_a_question_that_breaks_is_no_change(broken: tuple[Database, bool]) -> None:
    """What only asked has changed nothing, wherever its connection broke: it may simply be asked again."""
    database, _ = broken
    with pytest.raises(DatabaseUnavailable):
        async with database.unit() as unit:
            assert await unit.value("select 1") == 1


async def test_a_server_that_answers_the_commit_with_an_error_has_not_committed(db: Database) -> None:
    """A deferred check that ends the connection is an answer: nothing was changed, and that is known."""
    async with db.unit() as unit:
        await unit.rows("""create function cut() returns trigger language plpgsql as $$
                           begin perform pg_terminate_backend(pg_backend_pid()); return null; end $$""")
        await unit.rows("""create constraint trigger cut after insert on outbox deferrable initially deferred
                           for each row execute function cut()""")
    with pytest.raises(DatabaseUnavailable):
        async with db.unit() as unit:
            unit.emit(opened("never"))
    assert await waiting(db) == 0
