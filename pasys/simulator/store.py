"""All state is one SQLite file with one writer; the calls that arrive together share one commit.

A call is answered only after the commit that holds its rows, so what a caller was told survives `kill -9`.
WAL with synchronous=NORMAL keeps every commit when the process dies; only a power cut can take the last ones.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from pasys.simulator import schema
from pasys.simulator.schema import KINDS, Kind

CHECKPOINT_PAGES = 1000
CACHE_KIBIBYTES = 65_536
STATEMENTS_MAX = 512

encode = msgspec.json.encode
decode = msgspec.json.decode

Object = dict[str, Any]


class Store:
    """Rows in, rows out. Reads see what is written but not yet committed; `settled()` waits for the commit."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, cached_statements=STATEMENTS_MAX)
        self._execute = self._connection.execute
        self._execute("PRAGMA journal_mode = wal")
        self._execute("PRAGMA synchronous = normal")
        self._execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        self._execute(f"PRAGMA cache_size = -{CACHE_KIBIBYTES}")
        self._connection.executescript(schema.ddl())
        self._commit_done: asyncio.Future[None] | None = None
        self._after_commit: list[Callable[[], None]] = []
        self._serial = int.from_bytes(os.urandom(2), "big")
        self._inserts = {name: _insert(kind) for name, kind in KINDS.items()}
        self._updates = {name: _update(kind) for name, kind in KINDS.items()}

    # -- commit ------------------------------------------------------------------------------------------------------

    def write(self, sql: str, values: Iterable[Any] = ()) -> sqlite3.Cursor:
        """One statement of the open group; the group commits as soon as the event loop has no call left to run."""
        if self._commit_done is None:
            loop = asyncio.get_running_loop()
            self._execute("BEGIN IMMEDIATE")
            self._commit_done = loop.create_future()
            loop.call_soon(self._commit)
        return self._execute(sql, tuple(values))

    def after_commit(self, callback: Callable[[], None]) -> None:
        self._after_commit.append(callback)

    async def settled(self) -> None:
        """Returns when nothing is uncommitted; raises what made the commit impossible."""
        if self._commit_done is not None:
            await asyncio.shield(self._commit_done)

    def _commit(self) -> None:
        done, callbacks = self._commit_done, self._after_commit
        if done is None:  # aborted, or committed by close
            return
        self._commit_done, self._after_commit = None, []
        try:
            self._execute("COMMIT")  # point of no return
        except sqlite3.Error as error:
            if self._connection.in_transaction:
                self._execute("ROLLBACK")
            done.set_exception(error)
            # A group of writes without a waiting call has no one else to retrieve it.
            done.exception()
            return
        done.set_result(None)
        for callback in callbacks:
            callback()

    def abort(self, error: BaseException) -> None:
        """Undoes the open group: a row that cannot be written must not leave half a call behind."""
        done, self._commit_done, self._after_commit = self._commit_done, None, []
        if self._connection.in_transaction:
            self._execute("ROLLBACK")
        if done is not None and not done.done():
            done.set_exception(error)
            done.exception()

    def close(self) -> None:
        if self._commit_done is not None:
            self._commit()
        self._connection.close()

    # -- objects -----------------------------------------------------------------------------------------------------

    def new_id(self, prefix: str) -> str:
        """An id that sorts by time, so that new rows land at the end of the index however many there are."""
        self._serial = (self._serial + 1) & 0xFFFF
        return f"{prefix}_{time.time_ns() // 1_000_000:011x}{self._serial:04x}{os.urandom(4).hex()}"

    def rows(self, sql: str, values: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
        return self._execute(sql, tuple(values)).fetchall()

    def row(self, sql: str, values: Iterable[Any] = ()) -> tuple[Any, ...] | None:
        return self._execute(sql, tuple(values)).fetchone()

    def find(self, kind: Kind, object_id: str) -> Object | None:
        row = self.row(f"SELECT body FROM {kind.table} WHERE id = ?", (object_id,))
        return None if row is None else decode(row[0])

    def private(self, kind: Kind, object_id: str, column: str) -> Any:
        row = self.row(f"SELECT {column} FROM {kind.table} WHERE id = ?", (object_id,))
        return None if row is None else row[0]

    def insert(self, made: Object, private: dict[str, Any]) -> None:
        kind = KINDS[made["object"]]
        extra = [private[name] if name in kind.private else made[name] for name in schema.columns(kind)]
        self.write(self._inserts[kind.name], (made["id"], made["created"], *extra, encode(made)))

    def update(self, changed: Object) -> None:
        kind = KINDS[changed["object"]]
        moved = [changed.get(name) for name in kind.moving if name not in kind.private]
        self.write(self._updates[kind.name], (*moved, encode(changed), changed["id"]))

    def index_metadata(self, changed: Object) -> None:
        """Makes the object searchable by its metadata as it is now."""
        self.write("DELETE FROM search WHERE object = ? AND id = ?", (changed["object"], changed["id"]))
        self.add_metadata(changed)

    def add_metadata(self, made: Object) -> None:
        for key, value in made["metadata"].items():
            self.write("INSERT INTO search VALUES (?, ?, ?, ?)", (made["object"], key, value, made["id"]))

    def empty(self) -> None:
        for table in schema.tables():
            self.write(f"DELETE FROM {table}")


def _insert(kind: Kind) -> str:
    names = ("id", "created", *schema.columns(kind), "body")
    return f"INSERT INTO {kind.table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"


def _update(kind: Kind) -> str:
    moving = "".join(f"{name} = ?, " for name in kind.moving if name not in kind.private)
    return f"UPDATE {kind.table} SET {moving}body = ? WHERE id = ?"
