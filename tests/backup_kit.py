"""What tests of backups and restores share: a stack of servers, names that were paid, moments between them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pasys import config
from pasys.stack import backup, client
from pasys.stack.restore import Restored
from tests.stack_kit import STAY_ON_SERVERS, ask, until

PASYS = str(Path(sys.executable).parent / "pasys")
NAMES = "select string_agg(name, ' ' order by name) from paid"


@pytest.fixture
def stack(home: Path, programs: Callable[..., None]) -> Path:
    """Three servers, without daemons, and a table of names."""
    programs(STAY_ON_SERVERS | {"args": [str(home.with_name("word"))]})
    client.up(home)
    ask(home, "create table paid (name text)")
    return home


def pay(home: Path, name: str) -> datetime:
    """A commit, and a moment after it, and before anything that follows."""
    ask(home, f"insert into paid values ('{name}')")
    time.sleep(0.02)
    moment = datetime.now(UTC)
    time.sleep(0.02)
    return moment


def paid(home: Path) -> object:
    return ask(home, NAMES)


def connected(restored: Restored) -> psycopg.Connection[Any]:
    return psycopg.connect(restored.url, autocommit=True)


def names(connection: psycopg.Connection[Any]) -> object:
    row = connection.execute(NAMES.encode()).fetchone()
    assert row is not None
    return row[0]


def cluster(home: Path) -> Path:
    folder = backup.cluster(config.load(home))
    assert folder is not None
    return folder


def to_archive(home: Path) -> str:
    """Have everything so far archived; the name of the last segment."""
    ask(home, "select pg_logical_emit_message(false, 'test', 'a segment that is empty is not closed')")
    name = str(ask(home, "select pg_walfile_name(pg_switch_wal())"))
    until(lambda: (cluster(home) / "wal" / name).exists(), timeout_s=60)
    return name
