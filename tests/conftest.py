"""Real servers, started once a run; each test has its own database, streams and key prefix on them."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest

from pasys import migration
from pasys.config import Settings
from pasys.db import Database, Unit
from pasys.stack.servers import running_servers

MEMORY_BYTES = 1 << 30  # that one run's servers may take
SERVERS = "PASYS_TEST_SERVERS"  # in the environment: servers that run already, as JSON
pytest.register_assert_rewrite("tests.ledger_kit", "tests.ledger_world", "tests.ledger_machine")
_numbers = itertools.count(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so a shell starts what it puts into the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # and the programs of the tests are to hear Ctrl-C


@pytest.fixture(scope="session")
def servers() -> Iterator[Settings]:
    """PostgreSQL, NATS and Valkey, and settings that point at them. Durability is off here and only here.

    Whoever runs the tests many times may start them once, and say where they are.
    """
    if SERVERS in os.environ:
        yield _settings(**json.loads(os.environ[SERVERS]))
        return
    home = Path(tempfile.mkdtemp(prefix="pasys-t", dir=in_memory()))
    try:
        with running_servers(home, durable=False) as endpoints:
            yield _settings(home=str(home), **endpoints)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def in_memory() -> Path | None:
    """Where files are kept in memory, if there is room for the servers'; else None, which stands for the usual place.

    Each test makes the three hundred files of a database, and deletes them. A disk's ext4 does not use the place of a
    file again that was deleted in the last five seconds, and goes through them all for each new one: that was a fifth
    of all that the tests cost.
    """
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > MEMORY_BYTES
    return memory if roomy else None


def _settings(**fields: str) -> Settings:
    return Settings(actor="tester", ack_wait_s=2.0, resolve_every_s=0.2, **fields)


@pytest.fixture(scope="session")
def template(servers: Settings) -> Iterator[str]:
    """A database at the newest revision; every test's own is a copy of it."""
    name = f"pasys_template_{os.getpid()}"
    with psycopg.connect(_url(servers.require("database_url"), "postgres"), autocommit=True) as connection:
        connection.execute(f"create database {name}".encode())
    migration.upgrade(msgspec.structs.replace(servers, database_url=_url(servers.require("database_url"), name)))
    yield name
    with psycopg.connect(_url(servers.require("database_url"), "postgres"), autocommit=True) as connection:
        connection.execute(f"drop database {name} with (force)".encode())


@pytest.fixture(scope="session")
def copies(servers: Settings, template: str) -> Iterator[Callable[[], str]]:
    """Gives a new copy of the template, by name. The next one is made meanwhile: it takes a quarter of a second, in
    which the second core has nothing else to do."""
    admin = _url(servers.require("database_url"), "postgres")

    def make() -> str:
        name = f"t{os.getpid()}_{next(_numbers)}"
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute(f"create database {name} template {template} strategy file_copy".encode())
        return name

    with ThreadPoolExecutor(1) as maker:
        ahead = [maker.submit(make)]

        def take() -> str:
            ahead.append(maker.submit(make))
            return ahead.pop(0).result()

        yield take
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute(f"drop database {ahead.pop().result()}".encode())


@pytest.fixture(scope="session")
def spaces(servers: Settings, copies: Callable[[], str]) -> Callable[[], AbstractContextManager[Settings]]:
    """Makes namespaces that nobody else has, for as long as they are open."""
    return lambda: _space(servers, copies())


@pytest.fixture
def settings(spaces: Callable[[], AbstractContextManager[Settings]]) -> Iterator[Settings]:
    """Settings of a namespace that nobody else has."""
    with spaces() as found:
        yield found


@contextmanager
def _space(servers: Settings, name: str) -> Iterator[Settings]:
    try:
        yield msgspec.structs.replace(
            servers, database_url=_url(servers.require("database_url"), name), bus_prefix=name, redis_prefix=name
        )
    finally:
        with psycopg.connect(_url(servers.require("database_url"), "postgres"), autocommit=True) as connection:
            connection.execute(f"drop database if exists {name} with (force)".encode())


@pytest.fixture
async def db(settings: Settings) -> AsyncIterator[Database]:
    """The test's own database, at the newest revision."""
    database = Database(settings, connections_max=12)
    yield database
    await database.close()


@pytest.fixture
async def unit(db: Database) -> AsyncIterator[Unit]:
    """An open unit; it commits when the test ends well."""
    async with db.unit() as opened:
        yield opened


@pytest.fixture
def doors(settings: Settings) -> Any:
    """What the dashboard's screens ask, in the test's own namespace."""
    from tests.dash_kit import doors_to  # Textual, which most tests do not need

    return doors_to(lambda: settings)


def _url(url: str, database: str) -> str:
    head, _, query = url.partition("?")
    return f"{head.rsplit('/', 1)[0]}/{database}" + (f"?{query}" if query else "")
