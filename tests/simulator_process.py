"""A real simulator process for tests, and a real receiver of its webhooks."""

from __future__ import annotations

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import stripe

KEY = "sk_test_simulator"
SECRET = "whsec_simulator"
DEADLINE_S = 10.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def eventually(look: Callable[[], Any], *, deadline_s: float = DEADLINE_S) -> Any:
    """The first truthy answer; fails after the deadline."""
    end = time.monotonic() + deadline_s
    while True:
        seen = look()
        if seen:
            return seen
        assert time.monotonic() < end, f"not within {deadline_s} s: last seen {seen!r}"
        time.sleep(0.01)


class Simulator:
    """`python -m pasys.simulator` on a free port."""

    def __init__(self, data: Path, *options: str) -> None:
        self.data = data
        self.options = options
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        # One client for all calls: each new one reads the certificates of the whole world.
        self._client = stripe.StripeClient(KEY, base_addresses={"api": self.url}, max_network_retries=0)
        self.http = httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=10)
        self.start()

    @property
    def command(self) -> list[str]:
        program = [sys.executable, "-m", "pasys.simulator", "--data", str(self.data), "--port", str(self.port)]
        return [*program, "--api-key", KEY, *self.options]

    def start(self) -> None:
        self.process = subprocess.Popen(self.command)
        eventually(self.healthy)

    def healthy(self) -> bool:
        assert self.process.poll() is None, "the simulator did not start"
        try:
            return self.http.get("/health").status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(timeout=5)

    def client(self) -> stripe.StripeClient:
        return self._client

    def control(self, method: str, path: str, body: Any = None, **query: str) -> Any:
        answer = self.http.request(method, f"/_simulator/{path}", json=body, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def calls(self, **query: str) -> Any:
        return self.control("GET", "calls", None, **query)

    def fault(self, kind: str, operation: str = "*", **rule: Any) -> None:
        self.control("POST", "faults", {"kind": kind, "operation": operation, **rule})

    def refuse(self, path: str, **parameters: Any) -> dict[str, Any]:
        """The error of a call that has to be refused."""
        answer = self.http.post(f"/v1/{path}", data=parameters)
        assert answer.status_code >= 400, answer.text
        return answer.json()["error"]

    def pay(self, amount: int = 1000, card: str = "pm_card_visa", **more: Any) -> stripe.PaymentIntent:
        asked: Any = {"amount": amount, "currency": "usd", "payment_method": card, "confirm": True, **more}
        return self.client().v1.payment_intents.create(asked)


class Receiver:
    """Takes webhooks, and refuses as many as it is told to."""

    def __init__(self, port: int | None = None) -> None:
        self.events: list[Any] = []
        self.refusals = 0
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(receiver.take(body, self.headers["Stripe-Signature"]))
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port or 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/webhooks"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def take(self, body: bytes, signature: str) -> int:
        stripe.WebhookSignature.verify_header(body.decode(), signature, SECRET, tolerance=60)
        if self.refusals:
            self.refusals -= 1
            return 503
        self.events.append(json.loads(body))
        return 200

    def about(self, object_id: str) -> list[str]:
        return [event["type"] for event in self.events if event["data"]["object"]["id"] == object_id]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
