"""The supervisor's control socket: one line of JSON asks, one line answers."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from pasys.errors import PasysError
from pasys.stack.state import Trouble

Answer = dict[str, Any]
LINE_MAX = 1024 * 1024


async def serve(path: Path, handle: Callable[[dict[str, Any]], Awaitable[Answer]]) -> asyncio.Server:
    """Answer requests at `path`, whose folder is private to the owner of the home."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(msgspec.json.encode(await _answer(line, handle)) + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError):
            pass
        finally:
            writer.close()

    path.unlink(missing_ok=True)  # the lock is ours: whatever lies here was left by a dead one
    server = await asyncio.start_unix_server(answer, str(path), limit=LINE_MAX)
    path.chmod(0o600)
    return server


async def _answer(line: bytes, handle: Callable[[dict[str, Any]], Awaitable[Answer]]) -> Answer:
    try:
        return {"ok": True} | await handle(json.loads(line))
    except PasysError as error:
        return {"ok": False, "trouble": Trouble.of(error)}


def ask(path: Path | None, request: dict[str, Any], *, timeout_s: float) -> Answer | None:
    """The supervisor's answer; None where nobody listens or nobody answers in time. Raises the error it reports."""
    if path is None:
        return None
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(str(path))
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as lines:
                answer = json.loads(lines.readline())
    except (OSError, ValueError):
        return None
    if not answer["ok"]:
        raise msgspec.convert(answer["trouble"], Trouble).error()
    return answer
