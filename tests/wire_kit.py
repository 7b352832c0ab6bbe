"""A wire to PostgreSQL that loses the answer to a COMMIT."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import msgspec

from pasys.config import Settings


class Wire:
    """A wire to PostgreSQL. While it `breaks`, it carries everything but the answer to a COMMIT: there it breaks.

    With `carries` it carries the COMMIT itself, so that the server commits; without, the server never hears of it.
    """

    def __init__(self, target: str, *, carries: bool, breaks: bool = True) -> None:
        self.breaks = breaks
        self._target, self._carries = target, carries

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, questions = await asyncio.open_unix_connection(self._target)
        back = asyncio.create_task(_pass(answers, writer))
        while data := await reader.read(65_536):
            last = self.breaks and b"COMMIT\0" in data
            if last:
                back.cancel()
                await asyncio.wait([back])
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


@asynccontextmanager
async def wired(
    settings: Settings, folder: Path, *, carries: bool, breaks: bool = True
) -> AsyncIterator[tuple[Settings, Wire]]:
    """The same database behind a wire, whose socket is in this folder."""
    url = settings.require("database_url")
    address = parse_qs(urlsplit(url).query)
    socket = f".s.PGSQL.{address.get('port', ['5432'])[0]}"
    wire = Wire(f"{address['host'][0]}/{socket}", carries=carries, breaks=breaks)
    server = await asyncio.start_unix_server(wire.carry, folder / socket)
    there = url.replace(quote(address["host"][0], safe=""), quote(str(folder), safe=""))
    assert there != url
    try:
        yield msgspec.structs.replace(settings, database_url=there), wire
    finally:
        server.close()
