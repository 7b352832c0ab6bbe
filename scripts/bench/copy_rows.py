"""What COPY alone achieves with the rows of a journal: the ceiling of any ledger on this PostgreSQL.

    python scripts/bench/copy_rows.py URL our|four BATCHES

`our` has the indexes of pasys's journal (a partition's primary key, and the table of ids), `four` those that a journal
without partitions would have. 8,000 rows a commit, binary, ids in order of time.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import psycopg
import stage

from pasys.bulk import copy_rows
from pasys.domain.ledger_chain import ROW
from pasys.ids import uuid7s

SIZE, ACCOUNTS = 8_000, 100_000
TABLES = """
drop table if exists bench_journal, bench_key;
create table bench_journal (like transfer including defaults, primary key (asset, seq));
create table bench_key (like transfer_key including defaults, primary key (id));
"""
PLAIN = """
create unique index on bench_journal (id);
create index on bench_journal (debit, seq);
create index on bench_journal (credit, seq);
"""
FIELDS = ("seq", "id", "debit", "credit", "amount", "kind", "code", "result", "debit_version", "credit_version")
FIELDS += ("debit_balance", "credit_balance", "effective_at", "recorded_at")
COPY_KEYS = "copy bench_key (id, asset, seq) from stdin (format binary)"
COPY_ROWS = f"copy bench_journal (asset, {', '.join(FIELDS)}, seal) from stdin (format binary)"


def rows(number: int) -> tuple[bytes, bytes]:
    """A batch as COPY takes it: its keys, and its rows."""
    draw = np.random.default_rng(number)
    made = np.zeros(SIZE, ROW)
    made["seq"] = np.arange(SIZE) + 1 + number * SIZE
    made["id"] = np.frombuffer(uuid7s(SIZE), "V16")
    made["debit"], made["credit"] = draw.integers(1, ACCOUNTS, SIZE), draw.integers(ACCOUNTS, 2 * ACCOUNTS, SIZE)
    made["amount"] = draw.integers(1, 1_000, SIZE)
    fields = {name: made[name] for name in FIELDS}
    _, keys = copy_rows(SIZE, {"id": made["id"], "asset": "USD", "seq": made["seq"]})
    _, journal = copy_rows(SIZE, {"asset": "USD", **fields, "seal": made["seq"]})
    return keys, journal


def copied(connection: psycopg.Connection[Any], data: Sequence[tuple[bytes, bytes]], indexes: str) -> list[float]:
    """Copy and commit batch by batch; the time that each took, in ms."""
    calls: list[float] = []
    for keys, journal in data:
        started = time.perf_counter()
        with connection.cursor() as cursor:
            if indexes == "our":
                with cursor.copy(COPY_KEYS) as copy:
                    copy.write(keys)
            with cursor.copy(COPY_ROWS.encode()) as copy:
                copy.write(journal)
        connection.commit()
        calls.append(1000 * (time.perf_counter() - started))
    return calls


def main() -> None:
    url, indexes, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    data = [rows(number) for number in range(count)]
    with psycopg.connect(url.replace("postgresql+psycopg://", "postgresql://", 1)) as connection:
        connection.execute((TABLES + (PLAIN if indexes == "four" else "")).encode())
        connection.commit()
        stage.perform(lambda: copied(connection, data, indexes), batch=SIZE)
        connection.execute("drop table bench_journal, bench_key")


if __name__ == "__main__":
    main()
