"""Starts the simulator: `python -m pasys.simulator --data DIR --port N`. It runs until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pasys.simulator import webhook_endpoints
from pasys.simulator.app import App
from pasys.simulator.execution import Executor
from pasys.simulator.refusal import Refusal
from pasys.simulator.store import Store
from pasys.simulator.unit import Settings

DATABASE = "simulator.sqlite3"
LOCK = "simulator.lock"
BACKLOG = 2048
STOP_S = 1
KEEP_ALIVE_S = 60
PRUNE_EVERY_S = 600
WEBHOOK_EVENTS = (
    "payment_intent.succeeded,payment_intent.payment_failed,payment_intent.canceled,charge.refunded,"
    "charge.refund.updated,refund.updated,refund.failed,charge.dispute.created,payout.paid"
)


class Server(uvicorn.Server):
    """A server whose signals are ours: uvicorn would raise them again after the stop, and exit with -15."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Protocol(HttpToolsProtocol):
    """Gives the application the connection, so that a fault can cut it."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {"transport": {"connection": self.transport}}


def main(argv: list[str] | None = None) -> None:
    options = _options(argv)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    options.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.umask(0o077)
    lock = _lock(options.data / LOCK)
    listener = _listen(options.host, options.port)
    with lock, listener, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(options, listener))


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pasys.simulator", description="A PSP that speaks Stripe's API.")
    parser.add_argument("--data", type=Path, required=True, help="directory of the simulator's only file")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--api-key", help="the only key that is let in; without it any sk_test_ key is")
    parser.add_argument("--webhook-url", help="registers a webhook endpoint, once however often it starts")
    parser.add_argument("--webhook-secret", help="the endpoint's signing secret, whsec_…")
    parser.add_argument("--webhook-events", default=WEBHOOK_EVENTS, help="comma-separated event types, or *")
    parser.add_argument("--pending-s", type=int, default=2 * 86_400, help="seconds until a charge is available")
    parser.add_argument("--refund-delay-s", type=float, default=2.0, help="seconds until a slow refund is settled")
    options = parser.parse_args(argv)
    if bool(options.webhook_url) != bool(options.webhook_secret):
        parser.error("--webhook-url and --webhook-secret go together")
    return options


def _lock(path: Path) -> IO[str]:
    """Two simulators on one file would each believe to be the only writer."""
    lock = path.open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.exit(f"another simulator is using {path.parent}")
    return lock


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        sys.exit(f"cannot listen on {host}:{port}: {error.strerror}")
    listener.listen(BACKLOG)
    return listener


async def _serve(options: argparse.Namespace, listener: socket.socket) -> None:
    store = Store(options.data / DATABASE)
    executor = Executor(store, Settings(options.pending_s, options.refund_delay_s))
    await _register(executor, options)
    server = Server(_config(App(executor, options.api_key)))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _stop, server)
    background = [
        asyncio.create_task(job) for job in (executor.delivery.run(), executor.deferred.run(), _prune(executor))
    ]
    try:
        await server.serve([listener])
    finally:
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        store.close()


def _stop(server: uvicorn.Server) -> None:
    server.should_exit = True


def _config(app: App) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=STOP_S,
        timeout_keep_alive=KEEP_ALIVE_S,
    )


async def _register(executor: Executor, options: argparse.Namespace) -> None:
    if not options.webhook_url:
        return
    names = [name.strip() for name in options.webhook_events.split(",") if name.strip()]
    try:
        executor.run(lambda unit: webhook_endpoints.register(unit, options.webhook_url, options.webhook_secret, names))
    except Refusal as refusal:
        sys.exit(str(refusal))
    await executor.store.settled()


async def _prune(executor: Executor) -> None:
    while True:
        executor.prune()
        await asyncio.sleep(PRUNE_EVERY_S)


if __name__ == "__main__":
    main()
