"""Connections of PostgreSQL's driver, for the pool and for those who keep one of their own."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg

Driver = psycopg.AsyncConnection[Any]


async def connect(conninfo: str = "", **parameters: Any) -> Driver:
    """A new connection, as psycopg.AsyncConnection.connect makes it; the address may be one for SQLAlchemy. Raises
    psycopg.OperationalError.

    Who is cancelled meanwhile leaves nothing behind: what was begun is ended and closed. The driver would forget it
    half open, and the server keep a place for it, in its database, until a minute has passed.
    """
    conninfo = conninfo.replace("postgresql+psycopg://", "postgresql://", 1)
    attempt = asyncio.ensure_future(psycopg.AsyncConnection.connect(conninfo, **parameters))
    try:
        return await asyncio.shield(attempt)
    except asyncio.CancelledError:
        attempt.add_done_callback(_abandon)
        raise


def _abandon(attempt: asyncio.Future[Driver]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().pgconn.finish()
