"""One log line a fact: time, level, sentence. Processes of the stack write to stderr, which becomes their log file."""

from __future__ import annotations

import logging
import sys
import time

log = logging.getLogger("pasys")


class _Utc(logging.Formatter):
    converter = time.gmtime
    default_msec_format = "%s.%03dZ"
    default_time_format = "%Y-%m-%dT%H:%M:%S"


def configure(level: str) -> None:
    """Send the log to stderr, once."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Utc("%(asctime)s %(levelname)s %(message)s"))
    log.handlers[:] = [handler]
    log.setLevel(level.upper())
    log.propagate = False
