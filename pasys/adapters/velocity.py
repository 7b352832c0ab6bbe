"""Velocity counters in Redis: what each account has paid, and how often it was refused, in the last day.

A sorted set for each account holds its payments, the time as the score and `id:amount` as the member, so counting a
payment twice counts it once. What lies in a window is added up here, in integers: Redis and Lua would use doubles.

Redis may lose everything. A marker says that the sets are whole; where it is missing they are filled again from the
books before anything is counted. Its value names the filling, so nobody trusts what it remembers of an earlier one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from pasys import ids
from pasys.domain.fraud import WINDOWS_S, Velocity
from pasys.errors import VelocityUnavailable
from pasys.events import TransactionCreated

KEEP_S = WINDOWS_S[-1] + 3_600  # a backlog of an hour is still counted as it happened
PAYMENTS_MAX = 5_000  # of one account; what is older is forgotten, so that no account can fill the memory
ACCOUNTS_MAX = 10_000  # remembered in this process
TIMEOUT_S = 2.0
REBUILDER_S = 10.0  # how long a rebuilder that went silent keeps the others waiting
REBUILD_WAIT_S = 5.0
LOSSES_MAX = 3
SECOND_US = 1_000_000
NO_DECLINES: dict[int, int] = dict.fromkeys(WINDOWS_S, 0)

ByAccount = dict[str, list[tuple[int, TransactionCreated]]]  # payments with their times in microseconds
Answer = tuple[int, bytes, bytes]  # an account's version; its payments, where the version is a surprise; its declines

# The member `version` counts the additions to a set, downwards, so that it sorts before every time. Where it is what
# the caller expects, the caller knows all of the set, and none of it is sent. What is asked and answered is joined by
# blanks: a client packs and reads one long text much faster than a thousand short ones.
_COUNT = """
local marker = redis.call('get', KEYS[1])
if not marker then return false end
local keep, oldest, most, trusted = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4] == marker
redis.call('pexpire', KEYS[1], keep)
local next_word = string.gmatch(ARGV[5], '%S+')
local versions, more = {}, {}
for i = 2, #KEYS do
    local key, refused = KEYS[i], KEYS[i] .. ':declined'
    local n, known, added, payments = tonumber(next_word()), tonumber(next_word()), 0, {}
    for j = 1, n do
        payments[#payments + 1] = next_word()
        payments[#payments + 1] = next_word()
        if j % 1000 == 0 or j == n then  -- Lua passes a few thousand values at most
            added = added + redis.call('zadd', key, 'nx', unpack(payments))
            payments = {}
        end
    end
    local version = -tonumber(redis.call('zincrby', key, -added, 'version'))
    redis.call('zremrangebyscore', key, 1, '(' .. oldest)
    redis.call('zremrangebyrank', key, 1, -most - 1)
    redis.call('pexpire', key, keep)
    versions[#versions + 1] = string.format('%d', version)
    local whole = ''
    if not (trusted and version == known + added) then
        whole = table.concat(redis.call('zrange', key, 1, -1, 'withscores'), ' ')
    end
    local declines = table.concat(redis.call('zrange', refused, 0, -1, 'withscores'), ' ')
    if whole ~= '' or declines ~= '' then
        more[#more + 1] = {i - 2, whole, declines}
    end
end
return {marker, table.concat(versions, ' '), more}
"""
_STILL_MINE = "return redis.call('get', KEYS[1]) == ARGV[1] and redis.call('pexpire', KEYS[1], ARGV[2]) or 0"
# Whatever was lost while the sets were being filled took the rebuilder's claim with it.
_FINISH = """
if redis.call('get', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('set', KEYS[2], ARGV[1], 'px', ARGV[2])
return redis.call('del', KEYS[1])
"""


@dataclass(frozen=True, slots=True)
class Past:
    """A payment as the books have it: who paid, when, how much, and whether the PSP refused the card."""

    account_id: str
    transaction_id: str
    created_at: datetime
    amount_minor: int
    declined: bool


class Books(Protocol):
    """Where lost counters come from."""

    def history(self, since: datetime) -> AsyncIterator[list[Past]]:
        """Every payment since a time, in portions."""
        ...

    async def payment(self, transaction_id: str) -> Past | None: ...


class History:
    """What one account has paid, in the order of time: sums over any window by two look-ups."""

    __slots__ = ("_before", "_order", "_sums", "version")

    def __init__(self) -> None:
        self.version = -1  # of no set
        self._order: list[tuple[int, str]] = []
        self._sums: list[int] = []
        self._before = 0

    def add(self, at_us: int, transaction_id: str, amount_minor: int) -> None:
        key = (at_us, transaction_id)
        i = bisect_left(self._order, key)
        if i < len(self._order) and self._order[i] == key:
            return
        self._order.insert(i, key)
        self._sums.insert(i, self._upto(i))
        for later in range(i, len(self._sums)):
            self._sums[later] += amount_minor

    def within(self, at_us: int, transaction_id: str, window_s: int) -> tuple[int, int]:
        """Count and sum of the window that ends with a payment; of equal times, the ids say which came first."""
        end = bisect_right(self._order, (at_us, transaction_id))
        start = bisect_left(self._order, (at_us - window_s * SECOND_US + 1, ""))
        return end - start, self._upto(end) - self._upto(start)

    def forget(self, before_us: int) -> None:
        cut = max(bisect_left(self._order, (before_us, "")), len(self._order) - PAYMENTS_MAX)
        self._before = self._upto(cut)
        del self._order[:cut], self._sums[:cut]

    def _upto(self, i: int) -> int:
        return self._sums[i - 1] if i else self._before


class RedisCounters:
    """Counters behind an address. `prefix` keeps namespaces apart; `books` fill what was lost."""

    def __init__(self, url: str, *, prefix: str, books: Books) -> None:
        self._redis: Redis = Redis.from_url(
            url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 1)
        )
        self._stem = _stem(prefix)
        self._marker, self._claim = f"{self._stem}:whole", f"{self._stem}:rebuilding"
        self._books = books
        self._count_script = self._redis.register_script(_COUNT)
        self._histories: dict[str, History] = {}
        self._filling = b""
        self._one_at_a_time = asyncio.Lock()

    async def close(self) -> None:
        await self._redis.aclose()

    async def count_payments(self, events: Sequence[TransactionCreated]) -> dict[str, Velocity]:
        """One round trip for all of them. Raises VelocityUnavailable."""
        by_account: ByAccount = {}
        for event in events:
            by_account.setdefault(event.account_id, []).append((_us(event.created_at), event))
        async with self._one_at_a_time:
            for _ in range(LOSSES_MAX):
                with _redis_errors():
                    answer = await self._count(by_account)
                if answer is not None:
                    return dict(self._velocities(by_account, answer))
                await self._rebuild()
        raise VelocityUnavailable(reason="Redis loses them as fast as they are filled")

    async def count_decline(self, transaction_id: str) -> None:
        """Raises VelocityUnavailable."""
        past = await self._books.payment(transaction_id)
        if past is None:
            return
        key, at_us = self._declines(past.account_id), _us(past.created_at)
        for _ in range(LOSSES_MAX):
            with _redis_errors():
                async with self._redis.pipeline(transaction=True) as pipe:
                    pipe.exists(self._marker)
                    pipe.zadd(key, {transaction_id: at_us}, nx=True)
                    pipe.zremrangebyscore(key, 0, f"({_oldest_us()}")
                    pipe.zremrangebyrank(key, 0, -PAYMENTS_MAX - 1)
                    pipe.pexpire(key, KEEP_S * 1_000)
                    whole, *_ = await pipe.execute()
            if whole:
                return
            await self._rebuild()
        raise VelocityUnavailable(reason="Redis loses them as fast as they are filled")

    def _payments(self, account_id: str) -> str:
        return f"{self._stem}:{account_id}"

    def _declines(self, account_id: str) -> str:
        return f"{self._stem}:{account_id}:declined"

    async def _count(self, by_account: ByAccount) -> list[Answer] | None:
        """What Redis says of each account, in their order; None where the counters are lost."""
        words: list[str] = []
        for account_id, payments in by_account.items():
            history = self._histories.get(account_id)
            words.append(f"{len(payments)} {history.version if history else -1}")
            words += [f"{at_us} {event.transaction_id}:{event.amount_minor}" for at_us, event in payments]
        reply = await self._count_script(
            keys=[self._marker, *map(self._payments, by_account)],
            args=[KEEP_S * 1_000, _oldest_us(), PAYMENTS_MAX, self._filling, " ".join(words)],
        )
        if not reply:
            return None
        filling, versions, more = reply
        if filling != self._filling:
            self._histories.clear()
            self._filling = filling
        said = {i: (whole, declines) for i, whole, declines in more}
        return [(int(version), *said.get(i, (b"", b""))) for i, version in enumerate(versions.split())]

    def _velocities(self, by_account: ByAccount, answers: list[Answer]) -> Iterator[tuple[str, Velocity]]:
        oldest_us = _oldest_us()
        for (account_id, payments), (version, whole, refused) in zip(by_account.items(), answers, strict=True):
            history = self._remember(account_id, whole)
            history.version = version
            for at_us, event in payments:
                history.add(at_us, event.transaction_id, event.amount_minor)
            declines = sorted((at_us, member) for member, at_us in _members(refused))
            for at_us, event in payments:
                yield (
                    event.transaction_id,
                    Velocity(
                        {window: history.within(at_us, event.transaction_id, window) for window in WINDOWS_S},
                        {window: _between(declines, at_us, window) for window in WINDOWS_S}
                        if declines
                        else NO_DECLINES,
                    ),
                )
            history.forget(oldest_us)

    def _remember(self, account_id: str, whole: bytes) -> History:
        history = self._histories.pop(account_id, None)
        if history is None or whole:
            history = History()
            for member, at_us in _members(whole):
                transaction_id, _, amount = member.partition(":")
                history.add(at_us, transaction_id, int(amount))
        self._histories[account_id] = history  # at the end: the first is the one that was asked for longest ago
        if len(self._histories) > ACCOUNTS_MAX:
            del self._histories[next(iter(self._histories))]
        return history

    # What was lost --------------------------------------------------------------------------------------------------

    async def _rebuild(self) -> None:
        """Fill the counters from the books, or wait until another process has. Raises VelocityUnavailable."""
        token = ids.new("fill")
        with _redis_errors():
            if not await self._claim_rebuild(token):
                return
        since = datetime.fromtimestamp(_oldest_us() / SECOND_US, UTC)
        async for portion in self._books.history(since):
            with _redis_errors():
                await self._fill(portion)
                mine = await self._redis.eval(_STILL_MINE, 1, self._claim, token, str(int(REBUILDER_S * 1_000)))
            if not mine:
                raise VelocityUnavailable(reason="they were lost while they were being filled")
        with _redis_errors():
            if not await self._redis.eval(_FINISH, 2, self._claim, self._marker, token, str(KEEP_S * 1_000)):
                raise VelocityUnavailable(reason="they were lost while they were being filled")

    async def _claim_rebuild(self, token: str) -> bool:
        """Whether it is ours to do. False once another process has done it."""
        until = time.monotonic() + REBUILD_WAIT_S
        while not await self._redis.set(self._claim, token, nx=True, px=int(REBUILDER_S * 1_000)):
            if await self._redis.exists(self._marker):
                return False
            if time.monotonic() > until:
                raise VelocityUnavailable(reason="another process is filling them")
            await asyncio.sleep(0.05)
        if await self._redis.exists(self._marker):  # filled between the loss and our claim
            await self._redis.delete(self._claim)
            return False
        return True

    async def _fill(self, portion: list[Past]) -> None:
        sets: dict[str, dict[str, int]] = {}
        for past in portion:
            at_us = _us(past.created_at)
            payments = sets.setdefault(self._payments(past.account_id), {})
            payments[f"{past.transaction_id}:{past.amount_minor}"] = at_us
            if past.declined:
                sets.setdefault(self._declines(past.account_id), {})[past.transaction_id] = at_us
        async with self._redis.pipeline(transaction=False) as pipe:
            for key, members in sets.items():
                pipe.zadd(key, members, nx=True)
                pipe.pexpire(key, KEEP_S * 1_000)
            await pipe.execute()


async def forget_counters(url: str, *, prefix: str) -> int:
    """Delete all counters of a namespace, which are filled anew when they are next asked for; how many keys.

    Raises VelocityUnavailable.
    """
    async with Redis.from_url(url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S) as redis:
        with _redis_errors():
            await redis.delete(f"{_stem(prefix)}:whole")  # first: from here on nobody takes the rest for all
            return sum([await redis.delete(key) async for key in redis.scan_iter(match=f"{_stem(prefix)}:*")])


def _stem(prefix: str) -> str:
    return f"{{{prefix}:velocity}}"  # in braces: a cluster keeps all of it in one place


@contextlib.contextmanager
def _redis_errors() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise VelocityUnavailable(reason=" ".join(str(error).split())[:300] or type(error).__name__) from error


def _us(at: datetime) -> int:
    return int(at.timestamp() * SECOND_US)


def _oldest_us() -> int:
    return int((time.time() - KEEP_S) * SECOND_US)


def _members(text: bytes) -> Iterator[tuple[str, int]]:
    """The members of a set with their scores, as Redis joined them."""
    words = text.decode().split()
    return zip(words[::2], map(int, words[1::2]), strict=True)


def _between(times: list[tuple[int, str]], at_us: int, window_s: int) -> int:
    return bisect_right(times, (at_us, "~")) - bisect_left(times, (at_us - window_s * SECOND_US + 1, ""))
