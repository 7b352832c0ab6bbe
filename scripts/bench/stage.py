"""A program that is measured beside pasys has a stage: it is ready, waits for the word, works, and then tidies up.

`pasys bench ledger` counts WAL and CPU between the word and the answer; by hand, Enter is the word.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence


def perform(work: Callable[[], Sequence[float]], *, batch: int) -> None:
    """Wait for the word, work, and say how it went. `work` answers how long each of its calls took, in ms; each moved
    `batch` transfers. Returns when the answer has been read and it is time to tidy up."""
    print("ready", flush=True)
    sys.stdin.readline()
    began, cpu = time.perf_counter(), time.process_time()
    calls = list(work())
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    answer = {"applied": batch * len(calls), "calls_ms": calls, "seconds": seconds, "cpu_s": cpu_s}
    print(json.dumps(answer), flush=True)
    sys.stdin.read()
