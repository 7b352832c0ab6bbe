"""One question to PostgreSQL over its Unix socket, without a driver: the supervisor stays small and starts at once.

Protocol 3.0 (PostgreSQL documentation, "Frontend/Backend Protocol") and SCRAM-SHA-256 (RFC 5802, RFC 7677).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import secrets
import struct
from pathlib import Path

from pasys.stack.server import NotReady

_PROTOCOL = 196608  # 3.0
_SASL, _SASL_CONTINUE, _SASL_FINAL = 10, 11, 12


class Refused(NotReady):
    """PostgreSQL answered with an error; `sqlstate` says which."""

    def __init__(self, sqlstate: str, message: str) -> None:
        super().__init__(f"{message} ({sqlstate})")
        self.sqlstate = sqlstate


async def query(sql: str, *, socket: Path, user: str, password: str, database: str) -> list[list[str]]:
    """Run one statement; its rows as text. Raises Refused, OSError, EOFError."""
    reader, writer = await asyncio.open_unix_connection(str(socket))
    try:
        parameters = f"user\0{user}\0database\0{database}\0application_name\0pasys supervisor\0\0".encode()
        writer.write(struct.pack("!ii", len(parameters) + 8, _PROTOCOL) + parameters)
        await _authenticate(reader, writer, password)
        await _until_idle(reader)
        writer.write(_message(b"Q", sql.encode() + b"\0"))
        rows = await _until_idle(reader)
        writer.write(_message(b"X", b""))
        return rows
    finally:
        writer.close()


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


async def _receive(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    kind, length = struct.unpack("!ci", await reader.readexactly(5))
    body = await reader.readexactly(length - 4)
    if kind == b"E":
        fields = {part[:1]: part[1:].decode("utf-8", "replace") for part in body.split(b"\0") if part}
        raise Refused(fields.get(b"C", "?"), fields.get(b"M", "an error without a message"))
    return kind, body


async def _until_idle(reader: asyncio.StreamReader) -> list[list[str]]:
    """Read up to ReadyForQuery; the rows on the way."""
    rows: list[list[str]] = []
    while True:
        kind, body = await _receive(reader)
        if kind == b"Z":
            return rows
        if kind == b"D":
            rows.append(_row(body))


def _row(body: bytes) -> list[str]:
    (count,), at = struct.unpack_from("!h", body), 2
    values: list[str] = []
    for _ in range(count):
        (length,) = struct.unpack_from("!i", body, at)
        at += 4
        values.append(body[at : at + max(length, 0)].decode())
        at += max(length, 0)
    return values


async def _challenge(reader: asyncio.StreamReader, expected: int) -> bytes:
    kind, body = await _receive(reader)
    (code,) = struct.unpack_from("!i", body)
    if kind != b"R" or code != expected:
        raise NotReady(f"unexpected authentication message {kind!r} {code}")
    return body[4:]


async def _authenticate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, password: str) -> None:
    await _challenge(reader, _SASL)
    first = f"n=,r={secrets.token_urlsafe(18)}"
    initial = f"n,,{first}".encode()
    writer.write(_message(b"p", b"SCRAM-SHA-256\0" + struct.pack("!i", len(initial)) + initial))
    server_first = (await _challenge(reader, _SASL_CONTINUE)).decode()
    fields = dict(part.split("=", 1) for part in server_first.split(","))
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(fields["s"]), int(fields["i"]))
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    without_proof = f"c=biws,r={fields['r']}"
    signed = f"{first},{server_first},{without_proof}".encode()
    signature = hmac.digest(hashlib.sha256(client_key).digest(), signed, "sha256")
    proof = base64.b64encode(bytes(a ^ b for a, b in zip(client_key, signature, strict=True))).decode()
    writer.write(_message(b"p", f"{without_proof},p={proof}".encode()))
    final = await _challenge(reader, _SASL_FINAL)
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    if final.decode() != "v=" + base64.b64encode(hmac.digest(server_key, signed, "sha256")).decode():
        raise NotReady("the server on this socket does not know our password")
