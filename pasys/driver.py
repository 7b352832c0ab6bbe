"""Connections of PostgreSQL's driver, for the pool and for those who keep one of their own; lists as it sends them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg.pq import TransactionStatus

Driver = psycopg.AsyncConnection[Any]
PLACE_WITHIN_S = 15.0  # at a server that has as many connections as it takes
LOOK_EVERY_S = 0.2
# What libpq hands on of SQLSTATE 53300 is the sentence alone. In another language nobody waits.
_FULL = ("too many clients", "too many connections", "connection slots are reserved")
# Where there is that role for this login, and it has rights in this database (migrations/versions/0017_app_role.sql):
# from then on the session works as pasys_app, and finds its tables where the login does, be that a schema of its name.
AS_APP = """
select set_config('search_path', (select string_agg(quote_ident(schema), ', ')
                                    from unnest(current_schemas(false)) schema), false),
       set_config('role', rolname, false)
  from pg_roles
 where rolname = 'pasys_app' and has_table_privilege(oid, to_regclass('transfer'), 'insert')
   and pg_has_role(session_user, oid,
                   case when current_setting('server_version_num')::int < 160000 then 'member' else 'set' end)
"""


def address(url: str) -> str:
    """As the driver takes it, of one that may be for SQLAlchemy."""
    return url.replace("postgresql+psycopg://", "postgresql://", 1)


async def connect(conninfo: str = "", **parameters: Any) -> Driver:
    """A new connection, as psycopg.AsyncConnection.connect makes it; the address may be one for SQLAlchemy. Raises
    psycopg.OperationalError.

    It works as the role that has no right to change what is append-only, where the database has one.

    Where the server is full it waits for a place, for a while: of a hundred commands at once each gets its own. Who is
    cancelled meanwhile leaves nothing behind: what was begun is ended and closed. The driver would forget it half open,
    and the server keep a place for it, in its database, until a minute has passed.
    """
    conninfo = address(conninfo)
    given_up = time.monotonic() + PLACE_WITHIN_S
    while True:
        try:
            return await _connect(conninfo, **parameters)
        except psycopg.OperationalError as error:
            if time.monotonic() >= given_up or not any(words in str(error) for words in _FULL):
                raise
        await asyncio.sleep(LOOK_EVERY_S)


async def _connect(conninfo: str, **parameters: Any) -> Driver:
    attempt = asyncio.ensure_future(_connect_as_app(conninfo, **parameters))
    try:
        return await asyncio.shield(attempt)
    except asyncio.CancelledError:
        attempt.add_done_callback(_abandon)
        raise


async def _connect_as_app(conninfo: str, *, autocommit: bool = False, **parameters: Any) -> Driver:
    driver = await psycopg.AsyncConnection.connect(conninfo, autocommit=True, **parameters)
    try:
        await driver.execute(AS_APP.encode())
        await driver.set_autocommit(autocommit)
    except BaseException:
        driver.pgconn.finish()
        raise
    return driver


@asynccontextmanager
async def as_owner(driver: Driver) -> AsyncIterator[None]:
    """Within a transaction, the block works as the login itself: what changes tables is for those who own them."""
    row = await (await driver.execute("select current_setting('role')")).fetchone()
    assert row is not None and driver.info.transaction_status is TransactionStatus.INTRANS
    await driver.execute("set local role to default")
    try:
        yield
    finally:
        if driver.info.transaction_status is TransactionStatus.INTRANS:  # else the role of before is back by itself
            await driver.execute("select set_config('role', %s, true)", row)


def _abandon(attempt: asyncio.Future[Driver]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().pgconn.finish()


def array(items: list[Any]) -> str:
    """A list as PostgreSQL writes an array, for `%(name)s::type[]`. The driver's own way costs four times as much."""
    kinds = set(map(type, items))
    kind = kinds.pop() if len(kinds) == 1 else None
    if kind is str:
        text = "".join(items)
        if '"' not in text and "\\" not in text:
            return '{"' + '","'.join(items) + '"}'
    if kind is int or kind is UUID:
        return "{" + ",".join(map(str, items)) + "}"
    if kind is type(None):
        return "{" + ",".join(["NULL"] * len(items)) + "}"
    if kind is datetime:  # most are one and the same
        known = {at: f'"{at.isoformat()}"' for at in set(items)}
        return "{" + ",".join([known[at] for at in items]) + "}"
    return "{" + ",".join(map(_element, items)) + "}"


def _element(item: Any) -> str:
    if item is None:
        return "NULL"
    if type(item) is str:
        escaped = item.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    if type(item) is bytes:
        return f'"\\\\x{item.hex()}"'
    if isinstance(item, datetime):
        return f'"{item.isoformat()}"'
    assert isinstance(item, int | float | UUID), f"no array of {type(item).__name__}"
    return str(item)
