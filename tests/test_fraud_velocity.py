"""The counters are exact, count each payment once, and survive the loss of Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

import daemons.fraud
from pasys import ids
from pasys.adapters.velocity import PAYMENTS_MAX, History, Past
from pasys.config import Settings
from pasys.db import Database
from pasys.domain.fraud import Rules, VelocityRule
from pasys.errors import VelocityUnavailable
from pasys.events import FraudCleared, FraudFlagged, FraudReview, TransactionCreated
from pasys.service import fraud, fraud_rules
from pasys.service.fraud_watch import Watch, open_counters
from tests import fraud_kit
from tests.fraud_kit import declined, judge, pay, wipe

door, people = fraud_kit.door, fraud_kit.people


@given(st.lists(st.tuples(st.integers(0, 200_000_000), st.integers(0, 5), st.integers(1, 2**60)), max_size=40))
def test_a_window_is_summed_exactly(payments: list[tuple[int, int, int]]) -> None:
    """Whatever the order of arrival, a window holds exactly the payments in it, to the last unit of huge sums."""
    history, amounts = History(), {}
    for at_us, number, amount in payments:
        amounts.setdefault((at_us, f"tx{number}"), amount)
        history.add(at_us, f"tx{number}", amount)
    for at_us, name in amounts:
        inside = [v for k, v in amounts.items() if k <= (at_us, name) and k[0] > at_us - 60_000_000]
        assert history.within(at_us, name, 60) == (len(inside), sum(inside))
    history.forget(100_000_000)
    late = [(k, v) for k, v in amounts.items() if k[0] >= 100_000_000]
    if late:
        at_us, name = max(late)[0]
        assert history.within(at_us, name, 1_000) == (len(late), sum(v for _, v in late))


async def test_counted_twice_counts_once(db: Database, door: Watch, people: None) -> None:
    """A redelivered payment, in the same process or another, raises neither count nor sum."""
    events = await pay(db, "1.00", "2.00", "4.00")
    again = await open_counters(db.settings, db)
    for counters in (door, door, again, door):
        seen = await counters.count_payments(events)
        counted = [seen[event.transaction_id].payments[60] for event in events]
        assert counted == [(1, 100), (2, 300), (3, 700)]
    await again.close()


async def test_copies_see_each_other(db: Database, settings: Settings, door: Watch, people: None) -> None:
    """Two copies of the daemon that take turns count as one would."""
    other = await open_counters(settings, db)
    for number in range(1, 9):
        event = (await pay(db, "1.00"))[0]
        seen = await (door, other)[number % 2].count_payments([event])
        assert seen[event.transaction_id].payments[3_600] == (number, 100 * number)
    await other.close()


async def test_windows_and_huge_sums(db: Database, door: Watch) -> None:
    """A window ends with its payment and begins where it says; sums beyond 2**53 are exact."""
    now = datetime.now(UTC)
    huge = 2**60 + 1

    def event(age_s: float) -> TransactionCreated:
        return TransactionCreated(
            transaction_id=ids.new("tx"),
            kind="payment",
            rail="instant",
            amount_minor=huge,
            account_id=ids.account_id(7),
            payment_method=None,
            created_at=now - timedelta(seconds=age_s),
            asset="USD",
        )

    events = [event(age) for age in (80_000, 3_599, 3_600, 601, 599, 60, 59, 0)]
    seen = (await door.count_payments(events))[events[-1].transaction_id].payments
    assert seen == {60: (2, 2 * huge), 600: (4, 4 * huge), 3_600: (6, 6 * huge), 86_400: (8, 8 * huge)}


async def test_no_account_fills_the_memory(db: Database, settings: Settings, door: Watch) -> None:
    """Of one account so many payments are kept, and no more."""
    now = datetime.now(UTC)
    events = [
        TransactionCreated(
            transaction_id=ids.new("tx"),
            kind="payment",
            rail="instant",
            amount_minor=1,
            account_id=ids.account_id(7),
            payment_method=None,
            created_at=now + timedelta(milliseconds=number),
            asset="USD",
        )
        for number in range(PAYMENTS_MAX + 500)
    ]
    seen = await door.count_payments(events)
    assert seen[events[-1].transaction_id].payments[86_400][0] >= PAYMENTS_MAX
    redis = Redis.from_url(settings.require("redis_url"))
    (key,) = await redis.keys(f"{{{settings.redis_prefix}:*:acc_*")
    assert await redis.zcard(key) == PAYMENTS_MAX + 1
    assert 0 < await redis.ttl(key) <= 90_000
    await redis.aclose()


async def test_a_lost_redis_is_filled_again(db: Database, settings: Settings, people: None) -> None:
    """Flushed in the middle, the counters come back from the books, and the verdicts are those of a quiet run."""
    rules = msgspec.to_builtins(
        Rules(velocity=[VelocityRule(name="burst", window_s=600, weight=0.6, payments_max=6, sum_max={"USD": "900"})])
    )
    async with db.unit() as unit:
        await fraud_rules.change_rules(unit, rules)
    events = [(await pay(db, "100.00"))[0] for _ in range(12)]
    door = await open_counters(settings, db)
    for event in events[:7]:
        assert (await judge(db, door, [event]))[0].score == (0.6 if event is events[6] else 0.0)
    await daemons.fraud.count(declined(events[0]), door)
    await wipe(settings)
    verdicts = [(await judge(db, door, [event]))[0] for event in events[7:]]
    assert [type(verdict) for verdict in verdicts] == [FraudReview] * 5
    async with db.unit() as unit:
        (explained,) = await fraud.explain(unit, events[11].transaction_id)
    assert explained.signals["payments"]["600"] == [12, 120_000]
    await door.close()


async def test_one_fills_while_others_wait(db: Database, settings: Settings, people: None) -> None:
    """Eight copies that find the counters gone at once fill them once, and all count right."""
    events = [(await pay(db, "1.00"))[0] for _ in range(8)]
    doors = [await open_counters(settings, db) for _ in events]
    fills = 0

    class Watched:
        def __init__(self, books: Any) -> None:
            self.books = books

        def history(self, since: datetime) -> AsyncIterator[list[Past]]:
            nonlocal fills
            fills += 1
            return self.books.history(since)

        async def payment(self, transaction_id: str) -> Past | None:
            return await self.books.payment(transaction_id)

    for door in doors:
        door.counters._books = Watched(door.counters._books)
    seen = await asyncio.gather(*(door.count_payments([event]) for door, event in zip(doors, events, strict=True)))
    assert [row[event.transaction_id].payments[60] for row, event in zip(seen, events, strict=True)] == [
        (number, 100 * number) for number in range(1, 9)
    ]
    assert fills == 1
    for door in doors:
        await door.close()


async def test_redis_away_is_unavailable(db: Database, settings: Settings, people: None) -> None:
    """Without Redis there is no verdict, only an error that is tried again."""
    door = await open_counters(msgspec.structs.replace(settings, redis_url="redis://127.0.0.1:1/0"), db)
    (event,) = await pay(db, "1.00")
    with pytest.raises(VelocityUnavailable):
        await judge(db, door, [event])
    with pytest.raises(VelocityUnavailable):
        await door.count_decline(event.transaction_id)
    await door.close()


async def test_card_testing_is_flagged(db: Database, settings: Settings, door: Watch, people: None) -> None:
    """After five refused cards the next payment is fraud; a refusal counts once, a technical one not at all; and what
    Redis forgot of it comes back from the attempts on record."""
    for _ in range(5):
        (event,) = await pay(db, "1.00", payer="bob")
        assert isinstance((await judge(db, door, [event]))[0], FraudCleared)
        await daemons.fraud.count(declined(event), door)
        await daemons.fraud.count(declined(event), door)
        await daemons.fraud.count(declined((await pay(db, "1.00", payer="bob"))[0], "processing_error"), door)
        async with db.unit() as unit:
            await unit.rows(
                "insert into attempt (entity_id, step, transaction_id, psp, asset, amount_minor, outcome, reason,"
                " requested_at) values (%(id)s, 'authorise', %(id)s, 'instant', 'USD', 100, 'declined', 'declined',"
                " now())",
                id=event.transaction_id,
            )
    (sixth,) = await pay(db, "1.00", payer="bob")
    (verdict,) = await judge(db, door, [sixth])
    assert isinstance(verdict, FraudFlagged)
    assert verdict.reasons == ["card_testing"]
    await wipe(settings)
    (seventh,) = await pay(db, "1.00", payer="bob")
    assert (await judge(db, door, [seventh]))[0].reasons == ["card_testing"]
    (innocent,) = await pay(db, "1.00", payer="alice")
    assert isinstance((await judge(db, door, [innocent]))[0], FraudCleared)
