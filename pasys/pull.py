"""Messages are pulled ahead of need, so that a batch is whatever has arrived and nobody waits for it to fill."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.js.errors import APIError

PULL_EXPIRES_S = 5.0
PAUSE_S = 0.2  # before another request, when one was refused
# nats-py raises the builtin TimeoutError beside its own errors.
BUS_ERRORS = (NatsError, TimeoutError, OSError, asyncio.TimeoutError)


class Pull:
    """Messages of one durable consumer, asked for ahead of need: one request is always open while there is room.

    Messages go to whoever asked as soon as they exist, so a batch is whatever has arrived, and nobody waits for it to
    fill. A request that the server never answers (it restarted) is given up and asked again; where it says that there
    is no such consumer (somebody deleted it, or the server came back empty), the consumer is made again.
    """

    def __init__(self, client: Client, subject: str, *, batch: int, make: Callable[[], Awaitable[None]]) -> None:
        self._client = client
        self._subject = subject
        self._batch = batch
        self._make = make
        self._refused = False
        self._queue: asyncio.Queue[Msg] = asyncio.Queue()
        self._wanted = 0
        self._room = asyncio.Event()
        self._settled = asyncio.Event()
        self._asking: asyncio.Task[None] | None = None
        self._subscription: Subscription | None = None
        self._inbox = ""

    async def open(self) -> None:
        self._inbox = self._client.new_inbox()
        self._subscription = await self._client.subscribe(self._inbox, cb=self._arrived)
        self._room.set()
        self._asking = asyncio.create_task(self._ask_for_ever())

    async def take(self, count: int) -> list[Msg]:
        """At least one message and at most `count`: what is there."""
        return [await self._queue.get(), *self.arrived(count - 1)]

    def arrived(self, count: int) -> list[Msg]:
        """At most `count` messages, of those that are there."""
        messages = []
        while len(messages) < count and not self._queue.empty():
            messages.append(self._queue.get_nowait())
        if self._queue.qsize() < self._batch:
            self._room.set()
        return messages

    def waiting(self) -> list[Msg]:
        """What has arrived and nobody has taken: its redelivery must be held off, too."""
        return list(self._queue._queue)  # type: ignore[attr-defined]  # asyncio.Queue has no peek

    async def close(self) -> list[Msg]:
        """Ask for no more; what had arrived and was not taken."""
        if self._asking is not None:
            self._asking.cancel()
        if self._subscription is not None:
            with contextlib.suppress(*BUS_ERRORS):
                await self._subscription.unsubscribe()
        left = []
        while not self._queue.empty():
            left.append(self._queue.get_nowait())
        return left

    async def _arrived(self, message: Msg) -> None:
        status = (message.headers or {}).get("Status") if message.headers else None
        if status is None or message.data:
            self._queue.put_nowait(message)
            self._wanted -= 1
            if self._wanted <= 0:
                self._settled.set()
        elif status != "100":
            self._refused = status not in ("404", "408")  # else none, or expired
            self._settled.set()

    async def _ask_for_ever(self) -> None:
        request = b'{"batch":%d,"expires":%d}' % (self._batch, int(PULL_EXPIRES_S * 1e9))
        while True:
            await self._room.wait()
            self._room.clear()
            self._wanted = self._batch
            self._settled.clear()
            try:
                await self._client.publish(self._subject, request, reply=self._inbox)
                await asyncio.wait_for(self._settled.wait(), PULL_EXPIRES_S + 1)
                if self._refused:
                    self._refused = False
                    await asyncio.sleep(PAUSE_S)
                    await self._make()
            except (*BUS_ERRORS, APIError):
                await asyncio.sleep(PAUSE_S)
            if self._queue.qsize() < self._batch:
                self._room.set()
