"""No payment is settled without a verdict: rules as data, counters that survive Redis, reviews, and policy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

import daemons.fraud
from pasys import ids
from pasys.adapters.velocity import PAYMENTS_MAX, History, Past
from pasys.cli.main import run
from pasys.config import Settings
from pasys.db import Database
from pasys.domain.fraud import (
    WINDOWS_S,
    Facts,
    Limit,
    Listed,
    Outcome,
    Rules,
    Scored,
    Thresholds,
    Velocity,
    VelocityRule,
    decide,
    prepare,
    read,
    relist,
)
from pasys.errors import (
    DecisionNotFound,
    FlagNotPossible,
    IllegalTransition,
    InvalidInput,
    ReviewNotFound,
    RulesChanged,
    RulesNotFound,
    TransactionNotFound,
    VelocityUnavailable,
)
from pasys.events import FraudCleared, FraudFlagged, FraudReview, SettlementFailed, TransactionCreated
from pasys.money import parse
from pasys.service import fraud, fraud_rules, transaction, transaction_state
from pasys.service.fraud_watch import Watch, open_counters
from pasys.service.transaction import Draft
from tests.support import daemons as running
from tests.support import eventually, open_accounts

QUIET = Velocity(dict.fromkeys(WINDOWS_S, (1, 1250)), dict.fromkeys(WINDOWS_S, 0))


def velocity(*, payments: int = 1, sum_minor: int = 1_250, declines: int = 0) -> Velocity:
    return Velocity(dict.fromkeys(WINDOWS_S, (payments, sum_minor)), dict.fromkeys(WINDOWS_S, declines))


def facts(amount: str = "12.50", asset: str = "USD", *, method: str | None = "pm_card_visa") -> Facts:
    return Facts(asset, parse(amount, asset).minor, "alice", method)


# The rules -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "seen", "outcome", "rules"),
    [
        (facts("12.50"), QUIET, "cleared", []),
        (facts("5000.00"), QUIET, "cleared", []),
        (facts("5000.01"), QUIET, "review", ["amount"]),
        (facts("50000.00"), QUIET, "review", ["amount"]),
        (facts("50000.01"), QUIET, "flagged", ["amount"]),
        (facts("750000", "JPY"), QUIET, "cleared", []),
        (facts("750001", "JPY"), QUIET, "review", ["amount"]),
        (facts("7500001", "JPY"), QUIET, "flagged", ["amount"]),
        (facts("1500.000", "KWD"), QUIET, "cleared", []),
        (facts("1500.001", "KWD"), QUIET, "review", ["amount"]),
        (facts("15000.001", "KWD"), QUIET, "flagged", ["amount"]),
        (facts("99999999", "NGN"), QUIET, "cleared", []),
        (facts(), velocity(payments=30), "cleared", []),
        (facts(), velocity(payments=31), "review", ["payments_a_minute"]),
        (facts(), velocity(payments=301), "flagged", ["payments_a_minute", "payments_an_hour"]),
        (facts(), velocity(sum_minor=2_500_000), "cleared", []),
        (facts(), velocity(sum_minor=2_500_001), "review", ["money_a_day"]),
        (facts("1", "NGN"), velocity(sum_minor=10**15), "cleared", []),
        (facts(), velocity(declines=4), "cleared", []),
        (facts(), velocity(declines=5), "flagged", ["card_testing"]),
        (facts("6000.00"), velocity(payments=31), "flagged", ["amount", "payments_a_minute"]),
    ],
)
def test_the_first_version_of_the_rules(asked: Facts, seen: Velocity, outcome: str, rules: list[str]) -> None:
    """What is at a limit passes, what is above does not, in the asset's own units of 0, 2 or 3 decimals."""
    decision = decide(prepare(Rules(), version=1), asked, seen)
    assert (decision.outcome, [reason.rule for reason in decision.reasons]) == (outcome, rules)


def test_reasons_carry_facts() -> None:
    """Each reason says by what number the payment broke which limit, for a program to read."""
    decision = decide(prepare(Rules(), version=1), facts("6000.00"), velocity(payments=31))
    assert [msgspec.to_builtins(reason) for reason in decision.reasons] == [
        {"rule": "amount", "weight": 0.6, "facts": {"asset": "USD", "amount_minor": 600000, "above_minor": 500000}},
        {
            "rule": "payments_a_minute",
            "weight": 0.6,
            "facts": {"window_s": 60, "payments": 31, "payments_max": 30},
        },
    ]
    assert decision.score == 0.84


@pytest.mark.parametrize("part", ["accounts", "payment_methods"])
def test_block_beats_allow(part: str) -> None:
    """What is allowed is cleared whatever it costs; what is also blocked is flagged all the same."""
    entry = {"accounts": "alice", "payment_methods": "pm_card_visa"}[part]
    allowed = relist(Rules(), name="allow", field=part, value=entry, present=True)
    blocked = relist(allowed, name="block", field="accounts", value="alice", present=True)
    expensive = facts("99999.00")
    assert decide(prepare(Rules(), version=1), expensive, QUIET).outcome is Outcome.FLAGGED
    cleared = decide(prepare(allowed, version=1), expensive, velocity(declines=99))
    assert (cleared.outcome, cleared.score, cleared.reasons[0].rule) == (Outcome.CLEARED, 0.0, "allow_list")
    flagged = decide(prepare(blocked, version=1), facts("0.01"), QUIET)
    assert (flagged.outcome, flagged.score, flagged.reasons[0].rule) == (Outcome.FLAGGED, 1.0, "block_list")
    gone = relist(blocked, name="block", field="accounts", value="alice", present=False)
    assert gone == allowed


def test_a_payment_without_a_method_is_on_no_list() -> None:
    """An unknown payment method matches nothing, not even an empty list."""
    rules = Rules(block=Listed(payment_methods=["pm_stolen"]))
    assert decide(prepare(rules, version=1), facts(method=None), QUIET).outcome is Outcome.CLEARED


def test_a_model_speaks_with_its_weight() -> None:
    """A model's score alone is the score, at full weight; beside a rule it can only raise it."""
    prepared = prepare(Rules(), version=1)
    alone = decide(prepared, facts(), QUIET, Scored(0.55, "m7"))
    assert (alone.outcome, alone.score) == (Outcome.REVIEW, 0.55)
    assert alone.reasons[0].facts == {"score": 0.55, "model_version": "m7"}
    both = decide(prepared, facts("5000.01"), QUIET, Scored(0.55, "m7"))
    assert (both.outcome, both.score) == (Outcome.FLAGGED, 0.82)


unit_interval = st.floats(0, 1, allow_nan=False)
counts = st.integers(0, 2_000)
minors = st.integers(1, 10**10)


@given(
    minors, minors, counts, counts, counts, counts, unit_interval, unit_interval, st.lists(unit_interval, max_size=3)
)
def test_the_score_is_monotone(
    amount: int, more: int, n: int, n2: int, d: int, d2: int, s: float, s2: float, weights: list[float]
) -> None:
    """The score lies in 0 to 1, and never falls when amount, counts, declines or the model's score rise."""
    extra = [VelocityRule(name=f"v{i}", window_s=60, weight=w, payments_max=9 * i) for i, w in enumerate(weights)]
    prepared = prepare(Rules(velocity=[*Rules().velocity, *extra]), version=1)

    def score(amount_minor: int, payments: int, declines: int, model: float) -> float:
        seen = velocity(payments=payments, sum_minor=amount_minor * 3, declines=declines)
        return decide(prepared, Facts("USD", amount_minor, "a", None), seen, Scored(model, "m")).score

    low = score(amount, n, d, min(s, s2))
    high = score(amount + more, n + n2, d + d2, max(s, s2))
    assert 0.0 <= low <= high <= 1.0


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"amount": {}}, "rules.amount"),
        ({"amounts": {"USD": {"review_over": "5"}}}, "rules.amounts.USD.review_over"),
        ({"amounts": {"USD": {"review_above": 5}}}, "rules.amounts.USD.review_above"),
        ({"amounts": {"USD": {"review_above": "-5"}}}, "rules.amounts.USD.review_above"),
        ({"amounts": {"JPY": {"flag_above": "1.5"}}}, "rules.amounts.JPY.flag_above"),
        ({"amounts": {"KWD": {"flag_above": "1.0005"}}}, "rules.amounts.KWD.flag_above"),
        ({"amounts": {"XXQ": {"flag_above": "1"}}}, "rules.amounts.XXQ.flag_above"),
        ({"amounts": {"USD": {"review_above": "9", "flag_above": "8"}}}, "rules.amounts.USD.review_above"),
        ({"velocity": [{"name": "v", "window_s": 61, "weight": 0.5, "payments_max": 1}]}, "rules.velocity[0].window_s"),
        ({"velocity": [{"name": "v", "window_s": 60, "weight": 1.5, "payments_max": 1}]}, "rules.velocity[0].weight"),
        ({"velocity": [{"name": "v", "window_s": 60, "weight": 0.5}]}, "rules.velocity[0]"),
        (
            {"velocity": [{"name": "v", "window_s": 60, "weight": 0.5, "sum_max": {"JPY": "0.5"}}]},
            "rules.velocity[0].sum_max.JPY",
        ),
        (
            {"declines": [{"name": "amount", "window_s": 60, "weight": 0.5, "declines_max": 1}]},
            "rules.declines[0].name",
        ),
        ({"block": {"accounts": [""]}}, "rules.block.accounts[0]"),
        ({"block": {"cards": ["x"]}}, "rules.block.cards"),
        ({"thresholds": {"review": 0.9}}, "rules.thresholds.review"),
        ({"weights": {"amount_review": 0.95}}, "rules.weights.amount_review"),
        ([], "rules"),
    ],
)
def test_a_bad_rule_is_refused_with_its_path(document: Any, field: str) -> None:
    """Unknown fields, wrong types, amounts that do not exist and contradictions are refused, each where it stands."""
    with pytest.raises(InvalidInput) as refused:
        read(document)
    assert refused.value.facts["field"] == field


def test_a_document_reads_back_as_it_was_written() -> None:
    """The stored document and the rules are the same thing."""
    rules = relist(Rules(thresholds=Thresholds(flag=0.95)), name="block", field="accounts", value="x", present=True)
    assert read(msgspec.json.decode(msgspec.json.encode(rules))) == rules


def test_limits_may_be_left_out() -> None:
    """An asset may have one of its two limits, or none."""
    prepared = prepare(Rules(amounts={"USD": Limit(flag_above="10")}), version=1)
    assert decide(prepared, facts("10.00"), QUIET).outcome is Outcome.CLEARED
    assert decide(prepared, facts("10.01"), QUIET).outcome is Outcome.FLAGGED


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


# Through the servers -------------------------------------------------------------------------------------------------


@pytest.fixture
async def door(settings: Settings, db: Database) -> AsyncIterator[Watch]:
    """The counters as the daemon opens them."""
    opened = await open_counters(settings, db)
    yield opened
    await opened.close()


@pytest.fixture
async def people(db: Database) -> None:
    """alice and bob pay a shop."""
    async with db.unit() as unit:
        await open_accounts(unit)


async def pay(
    db: Database, *amounts: str, payer: str = "alice", asset: str = "USD", at: datetime | None = None
) -> list:
    """Create payments by PSP; what was announced of them."""
    announced: list[Any] = []
    for amount in amounts:
        draft = Draft(amount=parse(amount, "USD"), rail="instant", debit=payer, credit="shop")
        async with db.unit(now=at and at + timedelta(milliseconds=len(announced))) as unit:
            await transaction.create(unit, draft)
            announced += [event for event in unit._emitted if isinstance(event, TransactionCreated)]
    return announced


async def judge(db: Database, door: Watch, events: Sequence[TransactionCreated]) -> list[Any]:
    """What the worker does: read the world, then judge in one unit."""
    seen = await daemons.fraud.Seen.read(door, list(events))
    async with db.unit(actor="daemon:fraud") as unit:
        return await daemons.fraud.judge(list(events), unit, seen)


def declined(event: TransactionCreated, reason: str = "declined") -> SettlementFailed:
    return SettlementFailed(
        transaction_id=event.transaction_id,
        psp="instant",
        step="authorise",
        reason=reason,
        processor_code=None,
        psp_reference=None,
        latency_ms=1,
        asset=event.asset,
    )


async def wipe(settings: Settings) -> None:
    """Redis loses everything of this test."""
    redis = Redis.from_url(settings.require("redis_url"))
    keys = await redis.keys(f"{{{settings.redis_prefix}:*")
    assert keys
    await redis.delete(*keys)
    await redis.aclose()


async def one(db: Database, sql: str, **values: Any) -> Any:
    async with db.unit() as unit:
        return await unit.value(sql, **values)


async def test_verdicts_are_recorded(db: Database, door: Watch, people: None) -> None:
    """A batch gets one verdict for each payment, on record with reasons and facts; a review marks its transaction."""
    events = await pay(db, "12.50", "6000.00", "60000.00")
    verdicts = await judge(db, door, events)
    assert [type(verdict) for verdict in verdicts] == [FraudCleared, FraudReview, FraudFlagged]
    assert verdicts[1].reasons == ["amount"]
    assert verdicts[1].rules_version == 1
    async with db.unit() as unit:
        (explained,) = await fraud.explain(unit, events[1].transaction_id)
        assert (explained.outcome, explained.score, explained.decided_by) == ("review", 0.6, "daemon:fraud")
        assert explained.id == verdicts[1].decision_id
        assert explained.signals["payments"]["60"] == [2, 601250]
        assert explained.signals["facts"]["account"] == "alice"
        marks = await unit.rows("select review from transaction order by id")
        assert [row.review for row in marks] == [False, True, False]


async def test_a_verdict_is_given_once(db: Database, door: Watch, people: None) -> None:
    """The same announcement again, or a payment that was cancelled meanwhile, gets no verdict."""
    first, second = await pay(db, "6000.00", "7000.00")
    async with db.unit() as unit:
        await transaction_state.cancel(unit, second.transaction_id)
    assert len(await judge(db, door, [first, second])) == 1
    assert await judge(db, door, [first, second]) == []
    assert await one(db, "select count(*) from fraud_decision") == 1
    async with db.unit() as unit:
        with pytest.raises(DecisionNotFound):
            await fraud.explain(unit, second.transaction_id)
        with pytest.raises(TransactionNotFound):
            await fraud.explain(unit, "tx_nothing")


async def test_a_decision_cannot_be_changed(db: Database, door: Watch, people: None) -> None:
    """The database refuses to change or delete a decision or a version of the rules."""
    await judge(db, door, await pay(db, "12.50"))
    for statement in (
        "update fraud_decision set outcome = 'flagged'",
        "delete from fraud_decision",
        "truncate fraud_decision",
        "update fraud_rules set note = 'x'",
        "delete from fraud_rules",
    ):
        with pytest.raises(psycopg.errors.RestrictViolation):
            await one(db, statement)


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


async def test_a_new_version_judges_the_next_payment(db: Database, door: Watch, people: None) -> None:
    """A changed threshold counts from the next payment on, and each decision names the version that it was made by."""
    (before,) = await judge(db, door, await pay(db, "6000.00"))
    strict = msgspec.to_builtins(Rules(thresholds=Thresholds(review=0.5, flag=0.55)))
    async with db.unit() as unit:
        changed = await fraud_rules.change_rules(unit, strict, "stricter")
    (after,) = await judge(db, door, await pay(db, "6000.00"))
    assert (type(before), before.rules_version) == (FraudReview, 1)
    assert (type(after), after.rules_version) == (FraudFlagged, 2)
    assert (changed.version, changed.note, changed.actor) == (2, "stricter", "tester")
    async with db.unit() as unit:
        assert [row.version for row in await fraud_rules.rules_versions(unit)] == [2, 1]
        assert (await fraud_rules.rules_at(unit, 1)).rules["thresholds"]["flag"] == 0.8
        assert (await fraud_rules.rules_at(unit)).rules == strict
        with pytest.raises(RulesNotFound):
            await fraud_rules.rules_at(unit, 3)


async def test_rules_are_changed_one_after_the_other(db: Database) -> None:
    """Twelve changes at once are twelve versions and none is lost; a change of an outdated version is refused."""

    async def block(number: int) -> None:
        async with db.unit() as unit:
            await fraud_rules.relist_rules(unit, name="block", field="accounts", value=f"mule{number}", present=True)

    await asyncio.gather(*(block(number) for number in range(12)))
    async with db.unit() as unit:
        newest = await fraud_rules.rules_at(unit)
        assert newest.version == 13
        assert sorted(newest.rules["block"]["accounts"]) == sorted(f"mule{number}" for number in range(12))
        again = await fraud_rules.relist_rules(unit, name="block", field="accounts", value="mule3", present=True)
        assert again.version == 13
        with pytest.raises(RulesChanged):
            await fraud_rules.change_rules(unit, {}, based_on=12)
        assert (await fraud_rules.change_rules(unit, {}, based_on=13)).version == 14


async def test_the_first_version_is_written_once(db: Database) -> None:
    """Whoever needs rules first writes the first version; many at once agree on it."""

    async def need() -> int:
        async with db.unit() as unit:
            return await fraud_rules.ensure_rules(unit)

    assert await asyncio.gather(*(need() for _ in range(8))) == [1] * 8
    assert await one(db, "select count(*) from fraud_rules") == 1


# People --------------------------------------------------------------------------------------------------------------


async def review_one(db: Database, door: Watch) -> str:
    events = await pay(db, "6000.00")
    await judge(db, door, events)
    return events[0].transaction_id


async def test_a_person_decides(db: Database, door: Watch, people: None) -> None:
    """A review is approved or rejected once, by a name that stands in the decision; nothing else is reviewable."""
    good, bad = await review_one(db, door), await review_one(db, door)
    (cleared,) = await pay(db, "1.00")
    await judge(db, door, [cleared])
    async with db.unit() as unit:
        waiting = await fraud.reviews(unit)
        assert [(row.transaction_id, row.account, row.amount_minor) for row in waiting] == [
            (good, "alice", 600_000),
            (bad, "alice", 600_000),
        ]
        assert waiting[0].reasons[0]["rule"] == "amount"
    async with db.unit(actor="ann") as unit:
        row = await fraud.approve(unit, good, "known customer")
        await fraud.reject(unit, bad, "stolen card")
        assert [type(event) for event in unit._emitted] == [FraudCleared, FraudFlagged]
        assert (row.outcome, row.decided_by, row.reasons[0]["facts"]["reason"]) == ("cleared", "ann", "known customer")
    async with db.unit() as unit:
        assert await fraud.reviews(unit) == []
        assert [(row.outcome, row.decided_by) for row in await fraud.explain(unit, bad)] == [
            ("review", "daemon:fraud"),
            ("flagged", "ann"),
        ]
        for transaction_id in (good, bad, cleared.transaction_id, "tx_nothing"):
            with pytest.raises(ReviewNotFound):
                await fraud.approve(unit, transaction_id, "again")


async def test_two_people_decide_at_once(db: Database, door: Watch, people: None) -> None:
    """Of an approval and a rejection at the same moment exactly one counts."""
    transaction_id = await review_one(db, door)

    async def decide_it(how: Any) -> bool:
        try:
            async with db.unit() as unit:
                await how(unit, transaction_id, "mine")
            return True
        except ReviewNotFound:
            return False

    assert sum(await asyncio.gather(*(decide_it(how) for how in (fraud.approve, fraud.reject) * 4))) == 1
    assert await one(db, "select count(*) from fraud_decision") == 2


async def test_a_cancelled_payment_is_reviewed_no_more(db: Database, door: Watch, people: None) -> None:
    """Approving what was cancelled meanwhile is an illegal move; a reason is always asked for."""
    transaction_id = await review_one(db, door)
    async with db.unit() as unit:
        with pytest.raises(InvalidInput):
            await fraud.approve(unit, transaction_id, "  ")
    assert await one(db, "select review from transaction where id = %(id)s", id=transaction_id)
    async with db.unit() as unit:
        await transaction_state.cancel(unit, transaction_id)
        assert await fraud.reviews(unit) == []
        with pytest.raises(IllegalTransition):
            await fraud.approve(unit, transaction_id, "too late")


async def test_flagged_by_a_person(db: Database, door: Watch, people: None) -> None:
    """A person can flag a payment at any time until it is over, once; a book transfer cannot be flagged."""
    (event,) = await pay(db, "1.00")
    await judge(db, door, [event])
    async with db.unit() as unit:
        await unit.rows("update transaction set status = 'succeeded', final_at = now()")
        row = await fraud.flag(unit, event.transaction_id, "chargeback")
        assert (row.outcome, row.score, row.decided_by) == ("flagged", 1.0, "tester")
        assert [type(said) for said in unit._emitted] == [FraudFlagged]
    async with db.unit() as unit:
        with pytest.raises(IllegalTransition):
            await fraud.flag(unit, event.transaction_id, "again")
        with pytest.raises(TransactionNotFound):
            await fraud.flag(unit, "tx_nothing", "x")
        (cancelled,) = await pay(db, "1.00")
        await transaction_state.cancel(unit, cancelled.transaction_id)
        with pytest.raises(IllegalTransition):
            await fraud.flag(unit, cancelled.transaction_id, "x")
        book = await transaction.create(unit, Draft(amount=parse("5", "USD"), rail="book", credit="alice"))
        with pytest.raises(FlagNotPossible):
            await fraud.flag(unit, book.transaction_id or "", "x")


# When the rules are late ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "says"), [("hold", None), ("allow", FraudCleared), ("review", FraudReview)])
async def test_policy_for_late_rules(db: Database, door: Watch, people: None, policy: str, says: Any) -> None:
    """Held, allowed or sent to a person, by configuration, and only what has waited too long without a verdict."""
    long_ago = datetime.now(UTC) - timedelta(seconds=60)
    (judged,) = await pay(db, "2.00", at=long_ago)
    await judge(db, door, [judged])
    (late,) = await pay(db, "3.00", at=long_ago)
    (cancelled,) = await pay(db, "5.00", at=long_ago)
    async with db.unit() as unit:
        await transaction_state.cancel(unit, cancelled.transaction_id)
    await pay(db, "4.00")
    db.settings = msgspec.structs.replace(db.settings, fraud_when_down=policy)
    async with db.unit() as unit:
        said = await fraud.overdue(unit)
    assert [(type(event), event.transaction_id) for event in said] == ([(says, late.transaction_id)] if says else [])
    if says:
        assert said[0].reasons == [f"policy_{policy}"]
        async with db.unit() as unit:
            assert (await fraud.explain(unit, late.transaction_id))[0].decided_by == "policy"
            assert await fraud.overdue(unit) == []
            assert len(await fraud.reviews(unit)) == (policy == "review")


async def test_the_rules_catch_up(db: Database, door: Watch, people: None) -> None:
    """What policy let pass is judged when the rules are back, and flagged if it was fraud."""
    harmless, suspicious, criminal = await pay(
        db, "2.00", "6000.00", "60000.00", at=datetime.now(UTC) - timedelta(seconds=60)
    )
    db.settings = msgspec.structs.replace(db.settings, fraud_when_down="allow")
    async with db.unit() as unit:
        assert len(await fraud.overdue(unit)) == 3
        await unit.rows(
            "update transaction set status = 'succeeded', final_at = now() where id = %(id)s",
            id=criminal.transaction_id,
        )
    verdicts = await judge(db, door, [harmless, suspicious, criminal])
    assert [(type(verdict), verdict.transaction_id) for verdict in verdicts] == [
        (FraudFlagged, criminal.transaction_id)
    ]


async def test_the_daemon_judges_what_is_created(db: Database, settings: Settings, people: None) -> None:
    """Through the bus: a payment that is created gets its verdict from the running daemon."""
    async with running(settings, "fraud"):
        (event,) = await pay(db, "6000.00")

        async def marked() -> bool:
            return await one(db, "select review from transaction where id = %(id)s", id=event.transaction_id)

        await eventually(marked)
    async with db.unit() as unit:
        (explained,) = await fraud.explain(unit, event.transaction_id)
    assert (explained.outcome, explained.decided_by, explained.rules_version) == ("review", "daemon:fraud", 1)


# From the command line -----------------------------------------------------------------------------------------------


async def typed(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
    """A command line in a thread of its own; what it printed as JSON."""
    capsys.readouterr()
    assert await asyncio.to_thread(run, [*words, "--json"]) == code
    return msgspec.json.decode(capsys.readouterr().out)


@pytest.fixture
def typist(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The command line speaks to this test's database."""
    monkeypatch.setenv("DATABASE_URL", settings.require("database_url"))
    monkeypatch.setenv("PASYS_HOME", str(tmp_path))
    monkeypatch.setenv("PASYS_ACTOR", "ann")
    return tmp_path


async def test_reviews_from_the_command_line(
    db: Database, door: Watch, people: None, typist: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What waits is listed, decided once and explained; the refusals have the exit codes that are promised."""
    good, bad = await review_one(db, door), await review_one(db, door)
    listed = (await typed(capsys, "fraud", "review", "list"))["reviews"]
    assert [(row["transaction_id"], row["amount"], row["account"]) for row in listed] == [
        (good, "6000.00", "alice"),
        (bad, "6000.00", "alice"),
    ]
    approved = await typed(capsys, "fraud", "review", "approve", good, "--reason", "known")
    assert (approved["outcome"], approved["decided_by"]) == ("cleared", "ann")
    again = await typed(capsys, "fraud", "review", "approve", good, "--reason", "known", code=3)
    assert again["error"]["code"] == "review_not_found"
    await typed(capsys, "fraud", "review", "reject", bad, "--reason", "stolen")
    await typed(capsys, "fraud", "flag", bad, "--reason", "stolen", code=4)
    explained = await typed(capsys, "fraud", "explain", bad)
    assert [row["outcome"] for row in explained["decisions"]] == ["review", "flagged"]
    assert await asyncio.to_thread(run, ["fraud", "explain", bad]) == 0
    assert "stolen" in capsys.readouterr().out


async def test_rules_from_the_command_line(typist: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The document is shown, edited and put in force; lists are edited in place; a bad document names its field."""
    shown = await typed(capsys, "fraud", "rules", "show")
    assert shown["version"] == 1
    file = typist / "rules.json"
    file.write_bytes(msgspec.json.encode(shown["rules"] | {"thresholds": {"review": 0.5, "flag": 0.9}}))
    put = await typed(capsys, "fraud", "rules", "set", str(file), "--note", "softer", "--based-on", "1")
    assert (put["version"], put["rules"]["thresholds"]["flag"], put["actor"]) == (2, 0.9, "ann")
    await typed(capsys, "fraud", "rules", "set", str(file), "--based-on", "1", code=4)
    await typed(capsys, "fraud", "block", "add", "mallory")
    listed = await typed(capsys, "fraud", "allow", "add", "pm_card_visa")
    assert listed["rules"]["block"]["accounts"] == ["mallory"]
    assert listed["rules"]["allow"]["payment_methods"] == ["pm_card_visa"]
    assert (await typed(capsys, "fraud", "block", "remove", "mallory"))["rules"]["block"]["accounts"] == []
    versions = (await typed(capsys, "fraud", "rules", "list"))["versions"]
    assert [(row["version"], row["note"]) for row in versions] == [
        (5, "block remove mallory"),
        (4, "allow add pm_card_visa"),
        (3, "block add mallory"),
        (2, "softer"),
        (1, "built in"),
    ]
    file.write_text('{"block": {"cards": []}}')
    refused = await typed(capsys, "fraud", "rules", "set", str(file), code=2)
    assert refused["error"]["facts"]["field"] == "rules.block.cards"
    file.write_text("{")
    assert (await typed(capsys, "fraud", "rules", "set", str(file), code=2))["error"]["facts"]["field"] == "file"
    await typed(capsys, "fraud", "rules", "show", "--version", "9", code=3)
    assert await asyncio.to_thread(run, ["fraud", "rules", "show"]) == 0
