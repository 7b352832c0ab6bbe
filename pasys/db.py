"""PostgreSQL: one Database a process, one Unit of work a transaction, and the reader of named queries.

Two facts shape this file:
  * Hot SQL lives in service/*.sql and goes to the driver untouched, so `::type` casts and JSON literals mean what they
    mean in psql (sqlalchemy.text() would rewrite them). Ordinary queries are SQLAlchemy Core over pasys.schema.
  * An event becomes visible exactly when the rows it speaks of do: Unit.emit writes it to the outbox in the same
    transaction.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import errors as pg_errors
from psycopg.pq import TransactionStatus
from psycopg.rows import namedtuple_row
from sqlalchemy import Executable
from sqlalchemy.exc import DBAPIError, InterfaceError
from sqlalchemy.exc import TimeoutError as PoolExhausted
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from pasys import ids
from pasys.config import Settings
from pasys.driver import array, connect
from pasys.errors import DatabaseUnavailable, DiskFull, OutcomeUnknown, RequestUnderWay, RightsMissing, SchemaOutdated
from pasys.events import Announcement, Event, Facts, encode

if TYPE_CHECKING:
    from sqlalchemy.engine import RowMapping

OUTBOX_CHANNEL = "pasys_outbox"
BULK_LOCK = 7_082_504  # shared by whoever writes a backlog
_BY_INDEX = "-c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off -c plan_cache_mode=force_generic_plan"
_BLOCK = re.compile(r"^-- :(\w+)[ \t]*(.*)\n((?:--.*\n)*)", re.MULTILINE)
_ANNOUNCE = """
with announced as (
    insert into event (id, subject, asset, entity_id, correlation_id, body, at)
    select *, %(now)s::timestamptz
      from unnest(%(id)s::text[], %(subject)s::text[], %(asset)s::text[], %(entity_id)s::text[],
                  %(correlation_id)s::text[], %(body)s::bytea[])
    returning id)
insert into outbox (event_id, claimed_until)
select id, clock_timestamp() + make_interval(secs => %(claim_s)s::float8) from announced
"""
COPY_FROM = 500  # events, or keys: below, one statement is cheaper than the turns of COPY
ANNOUNCED_AT_ONCE = 10_000  # by one statement: PostgreSQL takes no value of a gigabyte
CONNECTIONS_MAX = 4  # of a pool: who opens more units at a time waits for a connection
BRIEFLY_S = 10.0
CLAIM_S = 2.0  # how long a worker's own announcements are left to it before any relay takes them


@cache
def queries(noun: str) -> dict[str, str]:
    """The named queries of service/<noun>.sql, by name."""
    text = (resources.files("pasys.service") / f"{noun}.sql").read_text(encoding="utf-8")
    parts = _BLOCK.split(text)[1:]
    return {name: sql.strip() for name, _, _, sql in zip(*[iter(parts)] * 4, strict=True)}


class Unit:
    """One transaction: everything in it happens, or nothing does.

    `now` is the unit's time, `actor` who is answerable for it, and `causes` which event made each story go on.
    `changes` says whether it changes anything that somebody would look for, `decided` whether its commit has begun.
    """

    def __init__(
        self,
        connection: AsyncConnection,
        driver: psycopg.AsyncConnection[Any],
        *,
        settings: Settings,
        now: datetime,
        actor: str,
        causes: Mapping[str, str] | None = None,
        changes: bool = False,
    ) -> None:
        self._connection = connection
        self._driver = driver
        self.settings = settings
        self.now = now
        self.actor = actor
        self.causes = dict(causes or {})
        self._emitted: list[Event | Facts] = []
        self.changes, self.decided = changes, False
        self.announcements: list[Announcement] = []
        self.in_books = False  # whether it has locked an asset's books
        self._listeners: list[Callable[[bool], None]] = []

    @property
    def driver(self) -> psycopg.AsyncConnection[Any]:
        """The psycopg connection under this transaction, for COPY and array functions."""
        return self._driver

    async def execute(self, statement: Executable, values: Any = None) -> Sequence[RowMapping]:
        """Run a Core statement; its rows, or nothing where it returns none."""
        result = await self._connection.execute(statement, values)
        return result.mappings().all() if result.returns_rows else []

    async def one(self, statement: Executable, values: Any = None) -> RowMapping | None:
        """The row of a Core statement that answers with at most one."""
        rows = await self.execute(statement, values)
        assert len(rows) <= 1, "asked for one row"
        return rows[0] if rows else None

    async def rows(self, sql: str, **values: Any) -> list[Any]:
        """Run SQL as it is written; named tuples."""
        bound = {name: array(value) if type(value) is list else value for name, value in values.items()}
        async with self._driver.cursor(row_factory=namedtuple_row) as cursor:
            await cursor.execute(sql.encode(), bound or None)
            return await cursor.fetchall() if cursor.description else []

    async def row(self, sql: str, **values: Any) -> Any | None:
        """The named tuple of SQL that answers with at most one."""
        rows = await self.rows(sql, **values)
        assert len(rows) <= 1, "asked for one row"
        return rows[0] if rows else None

    async def value(self, sql: str, **values: Any) -> Any:
        """The single value of SQL that answers with one row of one column; None for no row."""
        row = await self.row(sql, **values)
        return None if row is None else row[0]

    async def copy(self, table: str, count: int, **columns: Any) -> None:
        """Write so many rows into a table at once, columns as bulk.Column; those that are not named have their
        defaults."""
        from pasys.bulk import copy_rows  # numpy: not for every command

        await copy_into(self._driver, table, copy_rows(count, columns))

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """What the block does is undone when it raises, and it alone; else it stands or falls with the unit.

        The driver's own `transaction()` is none before the unit's first statement: it commits.
        """
        async with self._connection.begin_nested():
            yield

    @property
    def in_savepoint(self) -> bool:
        """Whether what is done now may be undone before the unit ends."""
        return self._connection.in_nested_transaction()

    @asynccontextmanager
    async def briefly(self) -> AsyncIterator[None]:
        """Once the unit has locked books, the block waits BRIEFLY_S for a lock: who holds it may be waiting for the
        books in a queue outside of PostgreSQL, which does not see that one waits for the other."""
        if not self.in_books:
            yield
            return
        await self.rows(f"set local lock_timeout = '{BRIEFLY_S:g}s'")
        try:
            yield
        finally:
            if self._driver.info.transaction_status is TransactionStatus.INTRANS:  # else there is nothing to go on with
                await self.rows("set local lock_timeout to default")

    def emit(self, *events: Event) -> None:
        """Announce facts, if and when this unit commits."""
        self.changes = True
        self._emitted += events

    def emit_many(self, facts: Facts) -> None:
        """The same for many of one kind."""
        self.changes = True
        self._emitted.append(facts)

    def afterwards(self, tell: Callable[[bool], None]) -> None:
        """Have somebody told when this unit has ended: whether it has committed, as far as is known."""
        self._listeners.append(tell)

    def end(self, *, committed: bool) -> None:
        """Tell those who want to know."""
        for tell in self._listeners:
            tell(committed)

    def cause_of(self, correlation_id: str) -> str | None:
        """The event that is being handled for this story, if any."""
        return self.causes.get(correlation_id)

    async def write_outbox(self, *, relayed: bool) -> None:
        """Write what was emitted and is not written yet. Called before the commit, whatever was written earlier."""
        emitted, self._emitted = self._emitted, []
        count = sum(len(one) if isinstance(one, Facts) else 1 for one in emitted)
        backlog = count >= COPY_FROM and not relayed
        for part in _in_order(emitted, by_column=backlog and not self.causes):
            if isinstance(part, Facts):
                await self._announce_many(part)
                continue
            for events in chunks(part, ANNOUNCED_AT_ONCE):
                await self._announce(events, relayed=relayed, backlog=backlog)
        if count and not backlog and not relayed:
            await self.rows("select pg_notify(%(channel)s, '')", channel=OUTBOX_CHANNEL)

    async def _announce(self, events: Sequence[Event], *, relayed: bool, backlog: bool) -> None:
        fresh = ids.many("evt", len(events)) if len(events) > 1 else [ids.new("evt")]
        correlations = [event.correlation_id for event in events]
        bodies = [
            encode(
                event,
                id=event_id,
                time=self.now,
                correlation_id=correlation_id,
                causation_id=self.causes.get(correlation_id),
                actor=self.actor,
            )
            for event, event_id, correlation_id in zip(events, fresh, correlations, strict=True)
        ]
        columns = {
            "id": fresh,
            "subject": [event.subject for event in events],
            "asset": [event.asset for event in events],
            "entity_id": [event.entity_id for event in events],
            "correlation_id": correlations,
            "body": bodies,
        }
        if relayed:
            said = zip(fresh, columns["subject"], columns["asset"], bodies, strict=True)
            self.announcements += [Announcement(id, f"{subject}.{asset}", body) for id, subject, asset, body in said]
        if backlog:
            await self._announce_at_once(**columns)
        else:
            await self.rows(_ANNOUNCE, **columns, now=self.now, claim_s=CLAIM_S if relayed else None)

    async def _announce_many(self, facts: Facts) -> None:
        fresh = ids.many("evt", len(facts))
        await self._announce_at_once(
            id=fresh,
            subject=facts.kind.subject,
            asset=facts.asset,
            entity_id=facts.entity_ids,
            correlation_id=facts.entity_ids,
            body=facts.encode(fresh, time=self.now, actor=self.actor),
        )

    async def _announce_at_once(self, id: list[str], **columns: Any) -> None:
        """Nobody waits for one of so many: they are a backlog from the start, and relays make way for more."""
        await self.rows("select pg_advisory_xact_lock_shared(%(key)s)", key=BULK_LOCK)
        await self.copy("event", len(id), id=id, **columns, at=self.now)
        await self.copy("outbox", len(id), event_id=id, claimed_until=self.now)


def _in_order(emitted: Iterable[Event | Facts], *, by_column: bool) -> list[Facts | list[Event]]:
    """What was emitted, in that order: events that stand together, and facts that are many enough for columns."""
    parts: list[Facts | list[Event]] = []
    events: list[Event] = []
    for one in emitted:
        if by_column and isinstance(one, Facts) and len(one) >= COPY_FROM:
            parts += [events, one]
            events = []
        else:
            events += one if isinstance(one, Facts) else [one]
    return [part for part in [*parts, events] if part]


async def copy_into(driver: psycopg.AsyncConnection[Any], table: str, rows: tuple[list[str], bytes]) -> None:
    """Write rows into a table at once, as bulk.copy_rows has laid them out: their columns, and the data."""
    names, data = rows
    statement = f"copy {table} ({', '.join(names)}) from stdin (format binary)"
    async with driver.cursor() as cursor, cursor.copy(statement.encode()) as copy:
        await copy.write(data)


class Database:
    """A pool of connections to one PostgreSQL. Errors of the server become errors of pasys here, and only here.

    `by_index` is for those who only ever look rows up by their keys, in batches, for a long time: their plans are made
    once, while tables may still be empty, and must still be right when they are full.
    """

    def __init__(self, settings: Settings, *, connections_max: int = CONNECTIONS_MAX, by_index: bool = False) -> None:
        self.settings = settings
        self.url = settings.require("database_url")
        self._engine = create_async_engine(
            self.url.replace("postgresql://", "postgresql+psycopg://", 1),
            pool_size=connections_max,
            max_overflow=0,
            pool_timeout=60,
            pool_pre_ping=False,
            connect_args={
                "async_creator_fn": connect,
                "prepare_threshold": 3,
                "connect_timeout": 10,
                "application_name": "pasys",
                "options": _BY_INDEX if by_index else "",
            },
        )

    async def close(self) -> None:
        await self._engine.dispose()

    @asynccontextmanager
    async def unit(
        self,
        *,
        actor: str | None = None,
        causes: Mapping[str, str] | None = None,
        now: datetime | None = None,
        relayed: bool = False,
        changes: bool = False,
    ) -> AsyncIterator[Unit]:
        """Open a Unit; commit when the block ends, roll back when it raises.

        Raises OutcomeUnknown where the connection broke while a change was committed: one that the unit announced, or
        any where the caller says that it `changes` something. After any other error nothing was changed. `relayed`
        promises that the caller publishes unit.announcements itself; else the commit wakes a relay.
        """
        unit, committed = None, False
        try:
            with database_errors(self.settings):
                async with self._engine.begin() as connection:
                    raw = await connection.get_raw_connection()
                    driver = raw.driver_connection
                    assert isinstance(driver, psycopg.AsyncConnection)
                    unit = Unit(
                        connection,
                        driver,
                        settings=self.settings,
                        now=now or datetime.now(UTC),
                        actor=actor or self.settings.who,
                        causes=causes,
                        changes=changes,
                    )
                    yield unit
                    await unit.write_outbox(relayed=relayed)
                    if driver.info.transaction_status is TransactionStatus.INERROR:  # its commit would roll it back
                        raise AssertionError("a statement has failed, and the unit went on")
                    unit.decided = True  # from here on only the server knows whether it is committed
            committed = True
        except DatabaseUnavailable as error:
            if unit is not None and unit.decided and unit.changes and _no_answer(error.__cause__):
                raise OutcomeUnknown(reason=error.facts["reason"]) from error
            raise
        finally:
            if unit is not None:
                unit.end(committed=committed)


def _no_answer(error: BaseException | None) -> bool:
    """Whether the connection broke. A server that answers with an error has rolled back."""
    found = error.orig if isinstance(error, DBAPIError) else error
    return getattr(found, "sqlstate", None) is None


# No connection, or one that broke; a deadlock; a server that has become a standby; a pool that has none left.
_NOT_NOW = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    pg_errors.ReadOnlySqlTransaction,
    pg_errors.IdleInTransactionSessionTimeout,
    PoolExhausted,
)
# The driver counts these as operational, but the same statement will never pass.
_NEVER = (pg_errors.ProgramLimitExceeded, pg_errors.StatementTooComplex)


class database_errors:
    """Turns what a driver raises about the server's health into the family that retries."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        found = error.orig if isinstance(error, DBAPIError) else error
        if isinstance(found, pg_errors.DiskFull):
            raise DiskFull(path=f"PostgreSQL ({self.settings.home})", free="0 B") from error
        if isinstance(found, pg_errors.UndefinedTable):
            raise SchemaOutdated(found="an older revision, or none", wanted="its own revision") from error
        if isinstance(found, pg_errors.InsufficientPrivilege):
            raise RightsMissing(reason=found.diag.message_primary) from error
        if isinstance(found, pg_errors.LockNotAvailable):
            raise RequestUnderWay() from error
        if isinstance(found, _NEVER):
            return
        if isinstance(found, _NOT_NOW) or isinstance(error, InterfaceError):
            reason = " ".join(str(found).split())[:300] or type(found).__name__
            raise DatabaseUnavailable(reason=reason) from error


def chunks(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    """Consecutive slices of at most `size` items."""
    return (items[start : start + size] for start in range(0, len(items), size))
