"""Programs for tests of the machine room: they stay, crash, answer HTTP, or write, and know nothing of payments."""

from __future__ import annotations

import http.server
import signal
import time
from collections.abc import Callable
from pathlib import Path


def stay(*args: object, ready: Callable[[], None] | None = None) -> None:
    """Works until SIGTERM, then leaves a word behind."""
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
    if ready:
        ready()
    while not stopped:
        time.sleep(0.02)
    if args:
        Path(str(args[0])).write_text("drained", encoding="utf-8")


def crash(*, ready: Callable[[], None] | None = None) -> None:
    raise ValueError("the tea is cold")


def answer(port: int) -> None:
    """Answers 200 to everything."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

    http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()


def once() -> None:
    print("done", flush=True)
