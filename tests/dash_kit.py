"""What tests of the dashboard share: screens on real servers, what they show, and a second world for the shell."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from textual.pilot import Pilot
from textual.widgets import Static

from pasys.config import Settings
from pasys.db import Database
from pasys.schema import metadata
from pasys.tui.action import Confirm
from pasys.tui.app import Dash, Doors, module_of, text_of
from tests.support import eventually

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SERVICES = {"services": [
    {"name": "ledger", "state": "ready", "lag": 3, "rate": 12.0, "last_error": None},
    {"name": "settlement", "state": "failed", "lag": None, "rate": None, "last_error": "it lost its way"},
]}  # fmt: skip
ID = re.compile(r"\b([a-z]{2,4})_[0-9a-z]{26}\b")
UUID = re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?")


def doors_to(load: Callable[[], Settings]) -> Doors:
    return Doors(load=load, look=lambda _: SERVICES, moment=lambda _: NOON)


@asynccontextmanager
async def showing(
    doors: Doors, screen: str, size: tuple[int, int] = (120, 40)
) -> AsyncIterator[tuple[Dash, Pilot[None]]]:
    importlib.import_module(module_of(screen))  # at once, whichever test comes first: what opens first takes no keys
    app = Dash(doors, screen=screen)
    async with app.run_test(size=size) as pilot:
        yield app, pilot


async def sees(app: Dash, *words: str) -> str:
    """The screen's text, once it has all these words, on one line or on more."""

    async def look() -> str | None:
        text = text_of(app.screen)
        whole = " ".join(text.split())
        return text if all(word in text or word in whole for word in words) else None

    try:
        return await eventually(look, within_s=30.0)  # type: ignore[return-value]
    except AssertionError:
        raise AssertionError(f"not all of {words} in:\n{text_of(app.screen)}") from None


# Actions --------------------------------------------------------------------------------------------------------------


async def opened(app: Dash, pilot: Pilot[None], key: str) -> Confirm:
    """The action that a key opens, once it is drawn."""
    await pilot.press(key)
    await sees(app, "The same as this command", "pasys")
    assert isinstance(app.screen, Confirm)
    return app.screen


def shown_command(screen: Confirm) -> str:
    return str(screen.query_one("#command", Static).content)


async def does_the_same(
    app: Dash, pilot: Pilot[None], settings: Settings, db: Database, *, more: str = "", code: int = 0
) -> None:
    """What Enter does to this world, the command on the screen does to a copy of it, pasted into a shell with `more`
    behind it: afterwards all tables are the same, row by row, and not what they were."""
    assert isinstance(app.screen, Confirm)
    command = shown_command(app.screen)
    await app.source.close()
    await db.close()
    before = books(settings)
    with twin(settings) as other:
        exit_code, printed = await paste(command + more, other)
        assert exit_code == code, printed
        await pilot.press("enter")
        await sees(app, "Done.")
        now, there = books(settings), books(other)
    for table, rows in now.items():
        assert rows == there[table], f"{table}: {sorted({*rows} ^ {*there[table]})}"
    assert now != before


# A second world ------------------------------------------------------------------------------------------------------


@contextmanager
def twin(settings: Settings) -> Iterator[Settings]:
    """A copy of a test's database, in which another hand may do what was done in the first. Nobody may be connected."""
    url = settings.require("database_url")
    head, _, query = url.partition("?")
    name = head.rsplit("/", 1)[1]
    with psycopg.connect(url.replace(f"/{name}", "/postgres", 1), autocommit=True) as connection:
        connection.execute(f"create database {name}_twin template {name} strategy file_copy".encode())
    try:
        yield msgspec.structs.replace(settings, database_url=f"{head}_twin" + (f"?{query}" if query else ""))
    finally:
        with psycopg.connect(url.replace(f"/{name}", "/postgres", 1), autocommit=True) as connection:
            connection.execute(f"drop database if exists {name}_twin with (force)".encode())


async def paste(command: str, settings: Settings) -> tuple[int, str]:
    """Give a command to a shell as it stands, in a world; its exit code and what it printed."""
    servers = {name.upper(): getattr(settings, name) for name in ("database_url", "nats_url", "redis_url")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    shell = await asyncio.create_subprocess_exec(
        "sh", "-c", command, env=os.environ | servers | {"PATH": path},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    printed, _ = await shell.communicate()
    assert shell.returncode is not None
    return shell.returncode, printed.decode()


def books(settings: Settings) -> dict[str, list[str]]:
    """Every row of every table, but for what is drawn anew each time: ids of new things, times, and hashes of them."""
    with psycopg.connect(settings.require("database_url")) as connection:
        accounts = {number: f"{name} {asset}" for number, name, asset in
                    connection.execute("select id, name, asset from account").fetchall()}  # fmt: skip
        found = {}
        for table in metadata.sorted_tables:
            columns = [column.name for column in table.columns]
            listed = ", ".join(f'"{column}"' for column in columns)
            rows = connection.execute(f"select {listed} from {table.name}".encode()).fetchall()
            found[table.name] = sorted(
                json.dumps({name: _lasting(name, value, accounts) for name, value in zip(columns, row, strict=True)})
                for row in rows
            )
    return found


def _lasting(name: str, value: Any, accounts: dict[int, str]) -> Any:
    if isinstance(value, bytes):
        return _scrubbed(value.decode()) if name == "body" else len(value)
    if isinstance(value, datetime) or name == "seal":
        return "drawn anew"
    if isinstance(value, int) and value in accounts:
        return accounts[value]
    if isinstance(value, list | dict):
        return _scrubbed(json.dumps(value, default=str))
    return value if value is None or isinstance(value, bool | int | float) else _scrubbed(str(value))


def _scrubbed(text: str) -> str:
    return TIME.sub("T", UUID.sub("U", ID.sub(_kept, text)))


def _kept(match: re.Match[str]) -> str:
    """Transactions are older than both worlds, and the same in both; a key is the one that the screen showed."""
    return match[0] if match[1] in ("tx", "key") else f"{match[1]}_"
