"""What a PSP tells us over HTTP is verified, stored and announced before the PSP hears that we have it.

    POST /webhooks/<psp>    200 stored, now or before, or of no interest; 400 it does not verify; 503 send it again
    GET  /health            this process answers
    GET  /ready             the database answers, too

Plain ASGI: three paths need no router. What arrives while the last commit runs shares the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import msgspec

from pasys.adapters import Psp, open_psp
from pasys.config import Settings
from pasys.db import Database
from pasys.errors import (
    BadSignature,
    DatabaseUnavailable,
    InvalidSettings,
    PasysError,
    PortTaken,
    PspMisconfigured,
    Unavailable,
    UnknownRail,
)
from pasys.service import notice
from pasys.service.notice import Arrival
from pasys.worker.log import log

BODY_BYTES_MAX = 1 << 20
BODY_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 10.0
READY_TIMEOUT_S = 2.0
STORED_AT_ONCE_MAX = 200
WAITING_MAX = 2_000
BACKLOG = 512
CONNECTIONS_MAX = 3
STOP_S = 2
KEEPALIVE_S = 75
RETRY_AFTER_S = 5

_PREFIX = "/webhooks/"
_SIGNATURE = b"stripe-signature"
_FINE = b'{"status":"ok"}'

Scope = Any
Receive = Any
Send = Any


class Problem(Exception):
    """An answer that says no: problem+json, RFC 9457."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        title = HTTPStatus(status).phrase
        self.body = {"type": "about:blank", "title": title, "status": status, "code": code, "detail": detail}


class Intake:
    """Stores arrivals in groups: one transaction at a time, which takes everything that waits."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._waiting: list[tuple[Arrival, asyncio.Future[None]]] = []
        self._wake = asyncio.Event()

    async def store(self, arrival: Arrival) -> None:
        """Returns after the commit. Raises DatabaseUnavailable."""
        if len(self._waiting) >= WAITING_MAX:
            raise DatabaseUnavailable(reason=f"{WAITING_MAX} webhooks are waiting for it already")
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((arrival, stored))
        self._wake.set()
        try:
            await asyncio.wait_for(stored, ANSWER_TIMEOUT_S)
        except TimeoutError:
            raise DatabaseUnavailable(reason=f"no commit within {ANSWER_TIMEOUT_S:g} s") from None

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                group = self._waiting[:STORED_AT_ONCE_MAX]
                self._waiting = self._waiting[STORED_AT_ONCE_MAX:]
                await self._store(group)

    async def _store(self, group: list[tuple[Arrival, asyncio.Future[None]]]) -> None:
        error: Exception | None = None
        try:
            async with self._db.unit(actor="webhook") as unit:
                await notice.receive(unit, [arrival for arrival, _ in group])
        except Exception as raised:
            error = raised
        if error is not None and not isinstance(error, Unavailable) and len(group) > 1:
            for one in group:  # a payload that cannot be stored must not take the others with it
                await self._store([one])
            return
        for _, stored in group:
            if stored.done():
                continue
            if error is None:
                stored.set_result(None)
            else:
                stored.set_exception(error)


class Webhooks:
    """The ASGI application."""

    def __init__(self, settings: Settings, db: Database) -> None:
        self._settings = settings
        self._db = db
        self._psps: dict[str, Psp] = {}
        self.intake = Intake(db)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            status, body = 200, await self._answer(scope["method"], scope["path"], dict(scope["headers"]), receive)
        except Problem as problem:
            status, body = problem.status, msgspec.json.encode(problem.body)
            if status >= 500:
                log.warning("webhook: %s", problem)
        except Exception as error:
            log.exception("webhook: a request was not answered")
            problem = Problem(500, "unexpected_error", f"{type(error).__name__}; the log says more")
            status, body = problem.status, msgspec.json.encode(problem.body)
        await _write(send, status, body)

    async def close(self) -> None:
        for psp in self._psps.values():
            await psp.close()

    async def _answer(self, method: str, path: str, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        name = path.removeprefix(_PREFIX)
        match method, path:
            case "GET" | "HEAD", "/health":
                return _FINE
            case "GET" | "HEAD", "/ready":
                await self._ask_database()
                return _FINE
            case "POST", _ if path.startswith(_PREFIX) and name and "/" not in name:
                await self._take(name, headers, receive)
                return _FINE
        if path in ("/health", "/ready") or path.startswith(_PREFIX):
            raise Problem(405, "method_not_allowed", f"{method} is not for {path}")
        raise Problem(404, "not_found", f"there is nothing at {path}")

    async def _take(self, name: str, headers: dict[bytes, bytes], receive: Receive) -> None:
        psp = self._psp(name)
        payload = await _body(headers, receive)
        signature = headers.get(_SIGNATURE)
        try:
            told = psp.verify(payload, signature.decode("latin-1") if signature is not None else None)
            if told is not None:
                await self.intake.store(Arrival(name, told, payload))
        except BadSignature as error:
            log.warning("webhook: refused one for %s: %s", name, error)
            raise _problem(400, error) from None
        except Unavailable as error:
            raise _problem(503, error) from None

    def _psp(self, name: str) -> Psp:
        if name not in self._psps:
            try:
                self._psps[name] = open_psp(name, self._settings)
            except UnknownRail as error:
                raise _problem(404, error) from None
            except PspMisconfigured as error:
                raise _problem(503, error) from None
        return self._psps[name]

    async def _ask_database(self) -> None:
        try:
            async with asyncio.timeout(READY_TIMEOUT_S), self._db.unit() as unit:
                await unit.value("select 1")
        except (Unavailable, TimeoutError) as error:
            raise Problem(503, "database_unavailable", str(error) or "PostgreSQL did not answer") from None


def main(settings: Settings, *, ready: Callable[[], None] | None = None) -> None:
    """Take webhooks until SIGTERM or SIGINT. Raises InvalidSettings, PortTaken, StackNotRunning."""
    import uvloop

    from pasys.worker.log import configure

    configure(settings.log_level)
    uvloop.run(_until_signal(settings, ready))


async def _until_signal(settings: Settings, ready: Callable[[], None] | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await run(settings, stop=stop, ready=ready)


async def run(settings: Settings, *, stop: asyncio.Event, ready: Callable[[], None] | None = None) -> None:
    """Take webhooks in this event loop until `stop` is set."""
    with _listen(settings) as listener:
        db = Database(settings, connections_max=CONNECTIONS_MAX)
        app = Webhooks(settings, db)
        server = _server(app)
        taking = asyncio.create_task(app.intake.run())
        serving = asyncio.create_task(server.serve([listener]))
        stopping = asyncio.create_task(stop.wait())
        log.info("webhook listens on %s", settings.webhook_url)
        if ready is not None:
            ready()
        await asyncio.wait({stopping, serving, taking}, return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        await serving
        for task in (taking, stopping):
            task.cancel()
        await asyncio.gather(taking, stopping, return_exceptions=True)
        await app.close()
        await db.close()


def _listen(settings: Settings) -> socket.socket:
    """A socket at the host and port of webhook_url, which requests may wait on from now on."""
    url = urlsplit(settings.require("webhook_url"))
    if not url.hostname or not url.port:
        raise InvalidSettings(source="webhook_url", reason="it names no host and port to listen on")
    listener = socket.socket(socket.AF_INET6 if ":" in url.hostname else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((url.hostname, url.port))
    except OSError as error:
        listener.close()
        raise PortTaken(port=url.port, service="webhook", holder=f"somebody else ({error.strerror})") from None
    listener.listen(BACKLOG)
    return listener


def _server(app: Webhooks) -> Any:
    import uvicorn  # not at the top: whoever looks for daemons in this folder imports this module

    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        interface="asgi3",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEPALIVE_S,
        timeout_graceful_shutdown=STOP_S,
    )
    server = uvicorn.Server(config)
    # Our own signals stop it; uvicorn would raise its once more after the stop, and the process would end with -15.
    server.capture_signals = contextlib.nullcontext  # pyright: ignore[reportAttributeAccessIssue]
    return server


async def _body(headers: dict[bytes, bytes], receive: Receive) -> bytes:
    """The whole body. Raises Problem for one that is too large or too slow."""
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or int(length) > BODY_BYTES_MAX:
        raise _too_large()
    body = b""
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Problem(400, "incomplete", "the connection was closed before the body was complete")
                body += message.get("body", b"")
                if len(body) > BODY_BYTES_MAX:
                    raise _too_large()
                if not message.get("more_body"):
                    return body
    except TimeoutError:
        raise Problem(408, "too_slow", f"the body did not arrive within {BODY_TIMEOUT_S:g} s") from None


def _too_large() -> Problem:
    return Problem(413, "too_large", f"a webhook has at most {BODY_BYTES_MAX} bytes")


def _problem(status: int, error: PasysError) -> Problem:
    return Problem(status, error.code, str(error))


async def _write(send: Send, status: int, body: bytes) -> None:
    kind = b"application/json" if status < 400 else b"application/problem+json"
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
    if status == 503:
        headers.append((b"retry-after", b"%d" % RETRY_AFTER_S))
    if status in (408, 413):
        headers.append((b"connection", b"close"))  # the rest of the body is not read
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
