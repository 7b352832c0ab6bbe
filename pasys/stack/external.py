"""Asks the operator's own servers for a real piece of work, through the drivers that the daemons use."""

from __future__ import annotations

import asyncio


async def postgres(url: str) -> None:
    def ask() -> None:
        import psycopg

        from pasys.driver import address

        with psycopg.connect(address(url), connect_timeout=5, autocommit=True) as connection:
            connection.execute("select 1")

    await asyncio.to_thread(ask)


async def nats(url: str) -> None:
    """JetStream's account information: a bus of somebody else's gets no stream of ours for a mere question."""
    from nats.aio.client import Client

    async def quiet(error: Exception) -> None:
        del error  # the connect call raises it too

    client = Client()
    await client.connect(url.split(","), connect_timeout=5, allow_reconnect=False, error_cb=quiet)
    try:
        await client.jetstream().account_info()
    finally:
        await client.close()


async def redis(url: str) -> None:
    from redis.asyncio import Redis

    client = Redis.from_url(url, socket_connect_timeout=5)
    try:
        await client.execute_command("PING")
    finally:
        await client.aclose()
