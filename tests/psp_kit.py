"""What tests of PSP adapters share: settings, payments, and the questions that a daemon would ask."""

from __future__ import annotations

import asyncio
import http.client
import http.server
import threading
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest

from pasys import ids
from pasys.adapters import Authorised, Captured, Payment, Psp, Repayment
from pasys.config import Settings
from pasys.errors import (
    PspUnavailable,
)
from pasys.events import StatementLine
from pasys.money import Money
from tests.simulator_process import KEY, SECRET

TIMEOUT_S = 0.5


def settings_for(url: str, **changed: Any) -> Settings:
    known = {"stripe_api_key": KEY, "stripe_webhook_secret": SECRET, "psp_timeout_s": TIMEOUT_S}
    return Settings(home="unused", stripe_api_base=url, **{**known, **changed})


def payment(minor: int = 1250, asset: str = "USD", method: str | None = "pm_card_visa", *, age_s: float = 0) -> Payment:
    asked_at = datetime.now(UTC) - timedelta(seconds=age_s)
    return Payment(ids.new("tx"), Money(minor, asset), method, "alice", asked_at)


def repayment(paid: Payment, captured: Captured, minor: int, *, age_s: float = 0) -> Repayment:
    asked_at = datetime.now(UTC) - timedelta(seconds=age_s)
    amount = Money(minor, paid.amount.asset)
    return Repayment(ids.new("rf"), paid.transaction_id, captured.psp_reference, amount, asked_at)


async def take(psp: Psp, asked: Payment) -> tuple[Authorised, Captured]:
    authorised = await psp.authorise(asked)
    assert isinstance(authorised, Authorised), authorised
    captured = await psp.capture(asked, authorised)
    assert isinstance(captured, Captured), captured
    return authorised, captured


async def ask_until_known(ask: Any, *args: Any) -> Any:
    """What the resolver does: the same question until there is an answer."""
    for _ in range(20):
        try:
            return await ask(*args)
        except PspUnavailable:
            await asyncio.sleep(0.02)
    pytest.fail("the outcome stayed unknown")


async def statement(psp: Psp, since: datetime) -> list[StatementLine]:
    lines, cursor = [], None
    for _ in range(100):
        page = await psp.statement(since=since, until=datetime.now(UTC) + timedelta(seconds=2), cursor=cursor)
        lines += page.lines
        cursor = page.cursor
        if cursor is None:
            return lines
    pytest.fail("the statement has no last page")


def aged(asked: Payment, age_s: float) -> Payment:
    at = asked.requested_at - timedelta(seconds=age_s)
    return Payment(asked.transaction_id, asked.amount, asked.payment_method, asked.customer, at)


class NoSearch:
    """A Stripe that refuses to search, as it does in some countries: everything else goes through to the simulator."""

    def __init__(self, url: str) -> None:
        target = urlsplit(url)

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                status, said = 400, b'{"error":{"type":"invalid_request_error","message":"Search is not available."}}'
                if "/search" not in self.path:
                    inner = http.client.HTTPConnection(target.hostname or "", target.port, timeout=5)
                    inner.request(self.command, self.path, body, dict(self.headers))
                    response = inner.getresponse()
                    status, said = response.status, response.read()
                    inner.close()
                self.send_response(status)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            do_GET = do_POST = answer

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
