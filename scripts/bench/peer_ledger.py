"""Any ledger that is a SQL file, measured one call after the other.

    python scripts/bench/peer_ledger.py URL FILE.sql OPEN CALL BATCH COUNT

The file is loaded as it is, into an empty database of its own, which is dropped afterwards. OPEN is the SQL that opens
account %(account)s, for 1 to 1,000, with funds (or empty); CALL moves %(amount)s from %(debit)s to %(credit)s. BATCH
calls make a transaction, and COUNT transactions a measurement. Ends with 2 where PostgreSQL refuses the file or a
statement, which is named on stderr.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
import stage

ACCOUNTS = 1_000
DATABASE = "bench_peer"


class Peer:
    """A connection to the peer's database, on which every failure says what had failed."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url, dbname=DATABASE, autocommit=True)

    def execute(self, what: str, sql: bytes, values: Mapping[str, Any] | None = None) -> None:
        try:
            self._connection.execute(sql, values)
        except (psycopg.Error, KeyError) as error:
            print(f"{what}: {str(error).splitlines()[0]}", file=sys.stderr)
            raise SystemExit(2) from None

    def in_transactions(self) -> None:
        self._connection.autocommit = False
        self._connection.prepare_threshold = 0  # as ours are: parsed once

    def commit(self) -> None:
        self.execute("--peer-call, at its commit", b"commit")


def called(peer: Peer, call: str, size: int, count: int) -> list[float]:
    """So many transactions of so many calls; the time that each took, in ms."""
    draw = random.Random(1)
    calls: list[float] = []
    for _ in range(count):
        started = time.perf_counter()
        for _ in range(size):
            debit, credit = draw.sample(range(1, ACCOUNTS + 1), 2)
            peer.execute("--peer-call", call.encode(), {"debit": debit, "credit": credit, "amount": 7})
        peer.commit()
        calls.append(1000 * (time.perf_counter() - started))
    return calls


def main() -> None:
    url, file, opening, call = sys.argv[1:5]
    size, count = int(sys.argv[5]), int(sys.argv[6])
    url = url.replace("postgresql+psycopg://", "postgresql://", 1)
    with psycopg.connect(url, autocommit=True) as server:
        server.execute(f"drop database if exists {DATABASE} with (force)".encode())
        server.execute(f"create database {DATABASE}".encode())
        try:
            peer = Peer(url)
            peer.execute(file, Path(file).read_bytes())
            for number in range(1, ACCOUNTS + 1) if opening else ():
                peer.execute("--peer-open", opening.encode(), {"account": number})
            peer.in_transactions()
            stage.perform(lambda: called(peer, call, size, count), batch=size)
        finally:
            server.execute(f"drop database {DATABASE} with (force)".encode())


if __name__ == "__main__":
    main()
