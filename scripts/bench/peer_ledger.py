"""Any ledger that is a SQL file, measured one call after the other.

    python scripts/bench/peer_ledger.py URL FILE.sql OPEN CALL BATCH TRANSFERS

The file is loaded as it is. OPEN is the SQL that opens account %(account)s, for 1 to 1,000, with funds (or empty); CALL
moves %(amount)s from %(debit)s to %(credit)s. BATCH calls make a transaction.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

import psycopg

ACCOUNTS = 1_000


def main() -> None:
    url, file, opening, call = sys.argv[1:5]
    size, count = int(sys.argv[5]), int(sys.argv[6])
    draw = random.Random(1)
    calls: list[float] = []
    with psycopg.connect(url.replace("postgresql+psycopg://", "postgresql://", 1), autocommit=True) as connection:
        connection.execute(Path(file).read_bytes())
        for number in range(1, ACCOUNTS + 1) if opening else ():
            connection.execute(opening.encode(), {"account": number})
        connection.autocommit = False
        began, cpu = time.perf_counter(), time.process_time()
        for start in range(0, count, size):
            started = time.perf_counter()
            for _ in range(start, min(start + size, count)):
                debit, credit = draw.sample(range(1, ACCOUNTS + 1), 2)
                connection.execute(call.encode(), {"debit": debit, "credit": credit, "amount": 7}, prepare=True)
            connection.commit()
            calls.append(1000 * (time.perf_counter() - started))
        seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    print(json.dumps({"applied": count, "calls_ms": calls, "seconds": seconds, "cpu_s": cpu_s}))


if __name__ == "__main__":
    main()
