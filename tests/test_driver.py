"""A connection that nobody wants any more leaves nothing behind at the server; one to a full server is waited for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from uuid import uuid4

import psycopg
import pytest

from pasys import driver
from pasys.config import Settings
from pasys.db import Database
from pasys.driver import as_owner, connect
from tests.support import eventually, owning

TURNS = range(1, 13)  # of the loop, until it is cancelled: behind them all, most often, a connection is made


async def test_a_connection_that_is_not_wanted_any_more_is_closed(db: Database) -> None:
    """Cancelled at any moment of its making; the server has nobody left who has not yet said who he is."""
    attempts = []
    for turns in TURNS:
        attempts.append(asyncio.ensure_future(connect(db.url)))
        for _ in range(turns):
            await asyncio.sleep(0)
        attempts[-1].cancel()
        await asyncio.wait(attempts)
    made = [attempt.result() for attempt in attempts if not attempt.cancelled()]  # where a turn took long enough
    for connection in made:
        await connection.close()
    assert len(made) < len(attempts) / 2, "most while they were being made; what they know is kept"
    await eventually(lambda: _alone(db))


async def test_a_pool_s_connection_is_no_exception(settings: Settings, db: Database) -> None:
    """As when a screen is left that has only just asked."""
    pool = Database(settings)

    async def ask() -> None:
        async with pool.unit() as unit:
            await unit.value("select 1")

    asked = []
    for turns in TURNS:
        asked.append(asyncio.ensure_future(ask()))
        for _ in range(turns):
            await asyncio.sleep(0)
        asked[-1].cancel()
        await asyncio.wait(asked)
    await pool.close()
    await eventually(lambda: _alone(db))


async def test_an_address_may_name_sqlalchemy_s_driver(db: Database) -> None:
    """As the settings may have it, for whoever connects by himself."""
    url = db.url.replace("postgresql://", "postgresql+psycopg://", 1)
    assert url != db.url
    async with await connect(url) as connection:
        assert await (await connection.execute("select 1")).fetchone() == (1,)


async def test_an_error_is_the_driver_s() -> None:
    """A server that is not there is the driver's own error, as whoever asks for a connection expects."""
    with pytest.raises(psycopg.OperationalError):
        await connect("host=127.0.0.1 port=1 dbname=none connect_timeout=2")


@pytest.fixture
async def one_place(db: Database) -> AsyncIterator[dict[str, str]]:
    """A user for whom the server has a single place: what to connect with."""
    name = f"narrow_{uuid4().hex}"
    async with owning(db) as unit:
        await unit.rows(f"create role {name} login password 'narrow' connection limit 1")
    yield {"conninfo": db.url, "user": name, "password": "narrow"}
    async with owning(db) as unit:
        await unit.rows(f"drop role {name}")


async def test_who_comes_to_a_full_server_waits_for_a_place(one_place: dict[str, str]) -> None:
    """It is there as soon as somebody goes."""
    first = await connect(**one_place)
    second = asyncio.create_task(connect(**one_place))
    await asyncio.sleep(3 * driver.LOOK_EVERY_S)
    assert not second.done()
    await first.close()
    async with await asyncio.wait_for(second, 10) as connection:
        assert await (await connection.execute("select 1")).fetchone() == (1,)


async def test_nobody_waits_for_ever(one_place: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the error says what it is. Nor does anybody stay behind who is cancelled while he waits."""
    monkeypatch.setattr(driver, "PLACE_WITHIN_S", 0.5)
    async with await connect(**one_place):
        with pytest.raises(psycopg.OperationalError, match="too many connections"):
            await connect(**one_place)
        monkeypatch.undo()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(connect(**one_place), 0.5)


async def _alone(db: Database) -> bool:
    """Whether nobody else is in the database, or on the way to one."""
    async with owning(db) as unit:
        others = (
            "select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()"
        )
        return not await unit.value(f"{others} and (datname = current_database() or datname is null)")


# Who works on the books ----------------------------------------------------------------------------------------------


async def test_a_connection_works_as_who_may_only_add(db: Database) -> None:
    """In every unit anew, and for those who keep a connection of their own; a pool's is the same after an error."""
    for fails in (False, True, False):
        with contextlib.suppress(ZeroDivisionError):
            async with db.unit() as unit:
                assert await unit.value("select current_user") == "pasys_app"
                assert not fails or 1 / 0
    async with await connect(db.url, autocommit=True) as own:
        assert await (await own.execute("select current_user")).fetchone() == ("pasys_app",)


async def test_the_owner_is_asked_for(db: Database) -> None:
    """For a block alone, whether it fails or not; behind the unit nothing is left of it."""
    login = "select current_user = session_user"
    for fails in (False, True):
        with contextlib.suppress(ZeroDivisionError):
            async with db.unit() as unit:
                async with as_owner(unit.driver):
                    assert await unit.value(login)
                    assert not fails or 1 / 0
                assert not await unit.value(login)
        async with db.unit() as unit:
            assert not await unit.value(login)
    with pytest.raises(psycopg.errors.DivisionByZero):  # the server's own, behind which it takes no statement any more
        async with db.unit() as unit, as_owner(unit.driver):
            await unit.value("select 1 / 0")
    async with db.unit() as unit:
        assert not await unit.value(login)


@pytest.mark.parametrize("change", ["revoke all on transfer from pasys_app", "drop table transfer cascade"])
async def test_where_the_role_has_no_rights_the_login_works(db: Database, change: str) -> None:
    """In a database that has not been migrated so far; the server knows the role from another."""
    async with owning(db) as unit:
        await unit.rows(change)
    async with await connect(db.url) as connection:
        assert await (await connection.execute("select current_user = session_user")).fetchone() == (True,)


async def test_who_may_not_work_as_the_role_does_not(db: Database, one_place: dict[str, str]) -> None:
    """A login of the operator's that is no member of it; as a member it does."""
    ask = "select current_user::text"
    async with await connect(**one_place) as connection:
        assert await (await connection.execute(ask)).fetchone() == (one_place["user"],)
    await eventually(lambda: _alone(db))
    async with owning(db) as unit:
        await unit.rows(f"grant pasys_app to {one_place['user']}")
    async with await connect(**one_place) as connection:
        assert await (await connection.execute(ask)).fetchone() == ("pasys_app",)
