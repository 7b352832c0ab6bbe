"""One call from the socket to the answer: the key is checked, the route found, and faults strike before or after.

It is plain ASGI: the few paths need no router, and a payment system's tests call this program all day.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import logging
import re
from contextlib import suppress
from typing import Any, NamedTuple

from pasys.simulator import form
from pasys.simulator.control import Control
from pasys.simulator.execution import ROUTES, Answer, Asked, Executor, error_body, given_metadata
from pasys.simulator.faults import STALL_DEFAULT_S, Plan, Rule
from pasys.simulator.idempotency import fingerprint
from pasys.simulator.refusal import Refusal, invalid, unauthorized, unrecognized_url
from pasys.simulator.schema import BY_PREFIX
from pasys.simulator.store import encode

BODY_BYTES_MAX = 1 << 20
KNOWN_KEYS_MAX = 1000

_TEST_KEY = re.compile(r"(sk|rk)_test_[A-Za-z0-9_]{1,250}")

log = logging.getLogger("pasys.simulator")

Scope = Any
Receive = Any
Send = Any


class Request(NamedTuple):
    """One HTTP request, read to its end."""

    method: str
    path: str
    query: bytes
    headers: dict[bytes, bytes]
    body: bytes


class Disconnect(Exception):
    """The connection is to be closed without an answer, after a while of silence."""

    def __init__(self, silence_s: float) -> None:
        super().__init__(silence_s)
        self.silence_s = silence_s


class App:
    """The ASGI application."""

    def __init__(self, executor: Executor, api_key: str | None) -> None:
        self._executor = executor
        self._control = Control(executor)
        self._api_key = api_key
        self._known_keys: set[bytes] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError("only HTTP is spoken here")
        try:
            request = await _read(scope, receive)
            answer = await self._answer(request)
        except Refusal as refusal:
            answer = Answer(refusal.status, encode(refusal.body), self._executor.unit().request_id)
        except Disconnect as disconnect:
            return await _hang_up(scope, receive, disconnect.silence_s)
        except Exception:
            log.exception("a call failed by a fault of the simulator itself")
            answer = Answer(500, encode(error_body(500)), self._executor.unit().request_id)
        await _write(send, answer)

    async def _answer(self, request: Request) -> Answer:
        if request.path == "/health":
            return Answer(200, b'{"status":"ok"}', "")
        self._authenticate(request.headers.get(b"authorization", b""))
        if request.path.startswith("/_simulator/"):
            return await self._control.answer(request.method, request.path, request.query, request.body)
        return await self._call(_asked(request))

    # -- who ---------------------------------------------------------------------------------------------------------

    def _authenticate(self, header: bytes) -> None:
        if header in self._known_keys:
            return
        key = _key(header)
        if not key:
            raise unauthorized(
                "You did not provide an API key. You need to provide your API key in the Authorization header, "
                "using Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY')."
            )
        expected = self._api_key
        right = _TEST_KEY.fullmatch(key) if expected is None else hmac.compare_digest(key.encode(), expected.encode())
        if not right:
            raise unauthorized(f"Invalid API Key provided: {key[:8]}{'*' * 8}")
        if len(self._known_keys) < KNOWN_KEYS_MAX:
            self._known_keys.add(header)

    # -- what --------------------------------------------------------------------------------------------------------

    async def _call(self, asked: Asked) -> Answer:
        executor = self._executor
        plan = self._plan(asked) if executor.faults.on_calls else Plan()
        if plan.before is not None:
            # The call never reached the PSP, so nothing of it is remembered but the journal's line.
            rule = plan.before
            executor.journal_fault(asked, plan, rule.status if rule.kind == "error_before" else None)
            await executor.store.settled()
            await asyncio.sleep(plan.delay_s)
            return _strike(rule)
        answer = await self._execute(asked, plan)
        if plan.after is not None:
            return _strike(plan.after, answer)
        return answer

    async def _execute(self, asked: Asked, plan: Plan) -> Answer:
        executor = self._executor
        if asked.key is not None:
            executor.idempotency.take(asked.key)
        try:
            if plan.delay_s:
                await asyncio.sleep(plan.delay_s)
            answer = executor.execute(asked, plan)
        finally:
            if asked.key is not None:
                executor.idempotency.release(asked.key)
        await executor.store.settled()
        return answer

    def _plan(self, asked: Asked) -> Plan:
        metadata = given_metadata(asked)
        kind = BY_PREFIX.get(asked.object_id.partition("_")[0])
        found = self._executor.store.find(kind, asked.object_id) if kind else None
        if found is not None:
            metadata = {**(found.get("metadata") or {}), **metadata}
        return self._executor.faults.plan(asked.operation.name, metadata)


def _strike(rule: Rule, answer: Answer | None = None) -> Answer:
    """The answer of an error fault; raises Disconnect for the others."""
    if rule.kind.startswith("error_"):
        request_id = answer.request_id if answer else "req_fault"
        return Answer(rule.status, encode(error_body(rule.status)), request_id)
    silence_s = STALL_DEFAULT_S if rule.delay_s is None else rule.delay_s
    raise Disconnect(silence_s if rule.kind.startswith("timeout_") else 0.0)


def _asked(request: Request) -> Asked:
    routed = ROUTES.find(request.method, request.path.removeprefix("/v1/")) if request.path.startswith("/v1/") else None
    if routed is None:
        raise unrecognized_url(request.method, request.path)
    pairs = form.decode(request.body if request.method == "POST" else request.query)
    key = request.headers.get(b"idempotency-key", b"").decode("latin-1") if request.method == "POST" else ""
    mark = fingerprint(request.path, pairs) if key else b""
    return Asked(*routed, request.path, form.nest(pairs), key or None, mark)


def _key(header: bytes) -> str:
    """The API key of a Bearer or Basic header, or an empty text."""
    scheme, _, rest = header.decode("latin-1").partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    if scheme.lower() == "basic":
        with suppress(ValueError):
            return base64.b64decode(rest, validate=True).decode("latin-1").partition(":")[0]
    return ""


async def _read(scope: Scope, receive: Receive) -> Request:
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnect(0.0)
        body += message.get("body", b"")
        if len(body) > BODY_BYTES_MAX:
            raise invalid(f"The request body is larger than {BODY_BYTES_MAX} bytes.")
        if not message.get("more_body"):
            return Request(scope["method"], scope["path"], scope["query_string"], dict(scope["headers"]), body)


async def _write(send: Send, answer: Answer) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(answer.body)),
        (b"request-id", answer.request_id.encode()),
    ]
    if answer.replay_of is not None:
        headers += [(b"idempotent-replayed", b"true"), (b"original-request", answer.replay_of.encode())]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


async def _hang_up(scope: Scope, receive: Receive, silence_s: float) -> None:
    """Stays silent until the caller gives up or the time is over, then closes the connection without an answer."""
    with suppress(TimeoutError):
        async with asyncio.timeout(silence_s):
            await _gone(receive)
            return
    scope["extensions"]["transport"]["connection"].abort()
    await _gone(receive)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
