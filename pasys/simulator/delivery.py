"""A webhook is sent until its endpoint takes it: signed, oldest first, a bounded number at once, each a row until then.

Signature: `t=<unix seconds>,v1=<HMAC-SHA256 of "<t>.<body>" under the secret>`, as Stripe's libraries verify.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import hmac
import logging
import time
from typing import Literal, NamedTuple

import aiohttp

from pasys.simulator.faults import Faults
from pasys.simulator.store import Store, decode
from pasys.simulator.unit import Announced

CONCURRENCY_MAX = 16
TIMEOUT_S = 10.0
BACKOFF_FIRST_S = 0.2
BACKOFF_MAX_S = 60.0
GIVEN_UP_AFTER_S = 3 * 86_400

Outcome = Literal["taken", "refused", "unreachable"]

log = logging.getLogger("pasys.simulator")


class Pending(NamedTuple):
    """One delivery to make; the order of the fields is the order of sending."""

    due: float
    seq: int
    event_id: str
    attempts: int
    created: float


class Lane:
    """One endpoint and its deliveries. A lane whose endpoint cannot be reached waits as a whole and tries with one."""

    def __init__(self, endpoint_id: str, url: str, secret: str, enabled_events: list[str]) -> None:
        self.endpoint_id = endpoint_id
        self.pending: list[Pending] = []
        self.unreachable = 0
        self.paused_until = 0.0
        self.in_flight = 0
        self.configure(url, secret, enabled_events)

    def configure(self, url: str, secret: str, enabled_events: list[str]) -> None:
        self.url = url
        self.secret = secret.encode()
        self.wants_all = "*" in enabled_events
        self.events = frozenset(enabled_events)

    def wants(self, event_type: str) -> bool:
        return self.wants_all or event_type in self.events

    def fail(self) -> None:
        """The endpoint could not be reached. Those that were under way together count as one failure."""
        if self.paused_until < time.time():
            self.paused_until = time.time() + backoff_s(self.unreachable)
            self.unreachable += 1

    def next_due(self) -> float | None:
        """When the lane may send next; None while it has nothing to send or is trying out its endpoint."""
        if not self.pending or (self.unreachable and self.in_flight):
            return None
        return max(self.pending[0].due, self.paused_until)


class Delivery:
    """The lanes, and the one loop that sends from them."""

    def __init__(self, store: Store, faults: Faults) -> None:
        self._store = store
        self._faults = faults
        self._lanes: dict[str, Lane] = {}
        self._woken = asyncio.Event()
        self._slots = asyncio.Semaphore(CONCURRENCY_MAX)
        self._tasks: set[asyncio.Task[None]] = set()
        self._sequence = 1 + (store.rows("SELECT ifnull(max(seq), 0) FROM delivery")[0][0])
        self.reload()
        for seq, event_id, endpoint_id, attempts, due, created in store.rows("SELECT * FROM delivery ORDER BY seq"):
            if endpoint_id in self._lanes:
                heapq.heappush(self._lanes[endpoint_id].pending, Pending(due, seq, event_id, attempts, created))

    # -- what is to be sent ------------------------------------------------------------------------------------------

    def reload(self) -> None:
        """Takes the endpoints as they are now; deliveries to one that is gone are dropped."""
        lanes: dict[str, Lane] = {}
        for endpoint_id, secret, body in self._store.rows("SELECT id, secret, body FROM webhook_endpoints"):
            endpoint = decode(body)
            if endpoint["status"] != "enabled":
                continue
            lane = self._lanes.get(endpoint_id)
            if lane is None:
                lane = Lane(endpoint_id, endpoint["url"], secret, endpoint["enabled_events"])
            else:
                lane.configure(endpoint["url"], secret, endpoint["enabled_events"])
            lanes[endpoint_id] = lane
        for gone in set(self._lanes) - set(lanes):
            self._store.write("DELETE FROM delivery WHERE endpoint = ?", (gone,))
        self._lanes = lanes

    def wanted(self, event_type: str) -> bool:
        return any(lane.wants(event_type) for lane in self._lanes.values())

    def clear(self) -> None:
        for lane in self._lanes.values():
            lane.pending.clear()

    def undelivered(self) -> int:
        return sum(len(lane.pending) + lane.in_flight for lane in self._lanes.values())

    def enqueue(self, announced: list[Announced]) -> None:
        """Writes the deliveries of these events into the open group; they are sent after its commit."""
        fresh: list[tuple[Lane, Pending]] = []
        now = time.time()
        for event in announced:
            for lane in self._lanes.values():
                if not lane.wants(event.type):
                    continue
                for delay_s in self._faults.webhooks(event.type, event.metadata):
                    fresh.append((lane, Pending(now + delay_s, self._sequence, event.event_id, 0, now)))
                    self._sequence += 1
        for lane, pending in fresh:
            self._store.write(
                "INSERT INTO delivery VALUES (?, ?, ?, 0, ?, ?)",
                (pending.seq, pending.event_id, lane.endpoint_id, pending.due, pending.created),
            )
        if fresh:
            self._store.after_commit(lambda: self._push(fresh))

    def _push(self, fresh: list[tuple[Lane, Pending]]) -> None:
        for lane, pending in fresh:
            heapq.heappush(lane.pending, pending)
        self._woken.set()

    # -- sending -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        connector = aiohttp.TCPConnector(limit=CONCURRENCY_MAX, limit_per_host=CONCURRENCY_MAX, ttl_dns_cache=60)
        async with aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            headers={"Content-Type": "application/json; charset=utf-8", "User-Agent": "Stripe/1.0"},
            auto_decompress=False,
        ) as session:
            try:
                while True:
                    await self._slots.acquire()
                    lane, pending = await self._next()
                    task = asyncio.create_task(self._send(session, lane, pending))
                    self._tasks.add(task)
                    task.add_done_callback(self._sent)
            finally:
                for task in self._tasks:
                    task.cancel()

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._slots.release()
        if not task.cancelled() and task.exception() is not None:
            log.error("a webhook could not be recorded as sent", exc_info=task.exception())

    async def _next(self) -> tuple[Lane, Pending]:
        while True:
            self._woken.clear()
            ready = [(due, lane) for lane in self._lanes.values() if (due := lane.next_due()) is not None]
            wait_s = None
            if ready:
                due, lane = min(ready, key=lambda candidate: candidate[0])
                wait_s = due - time.time()
                if wait_s <= 0:
                    lane.in_flight += 1
                    return lane, heapq.heappop(lane.pending)
            try:
                await asyncio.wait_for(self._woken.wait(), wait_s)
            except TimeoutError:
                continue

    async def _send(self, session: aiohttp.ClientSession, lane: Lane, pending: Pending) -> None:
        row = self._store.row("SELECT body FROM events WHERE id = ?", (pending.event_id,))
        try:
            outcome = "taken" if row is None else await self._post(session, lane, row[0])
        finally:
            lane.in_flight -= 1
            self._woken.set()
        if outcome == "taken" or pending.created < time.time() - GIVEN_UP_AFTER_S:
            self._store.write("DELETE FROM delivery WHERE seq = ?", (pending.seq,))
            return
        if outcome == "unreachable":
            # The lane waits, not the delivery: the oldest stays first.
            heapq.heappush(lane.pending, pending)
            return
        again = pending._replace(due=time.time() + backoff_s(pending.attempts), attempts=pending.attempts + 1)
        self._store.write(
            "UPDATE delivery SET due = ?, attempts = ? WHERE seq = ?", (again.due, again.attempts, again.seq)
        )
        heapq.heappush(lane.pending, again)

    async def _post(self, session: aiohttp.ClientSession, lane: Lane, body: bytes) -> Outcome:
        try:
            async with session.post(lane.url, data=body, headers=signature(lane.secret, body)) as response:
                lane.unreachable = 0
                return "taken" if response.status < 300 else "refused"
        except (aiohttp.ClientError, TimeoutError, OSError):
            lane.fail()
            return "unreachable"


def backoff_s(failures: int) -> float:
    return min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(failures, 20))


def signature(secret: bytes, body: bytes) -> dict[str, str]:
    at = int(time.time())
    digest = hmac.new(secret, b"%d." % at + body, hashlib.sha256).hexdigest()
    return {"Stripe-Signature": f"t={at},v1={digest}"}
