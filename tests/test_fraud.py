"""No payment is settled without a verdict, which names the version of the rules, or the policy, that it came from."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import psycopg
import pytest

from pasys.config import Settings
from pasys.db import Database
from pasys.domain.fraud import Rules, Thresholds
from pasys.errors import DecisionNotFound, RightsMissing, RulesChanged, RulesNotFound, TransactionNotFound
from pasys.events import FraudCleared, FraudFlagged, FraudReview
from pasys.service import fraud, fraud_rules, transaction_state
from pasys.service.fraud_watch import Watch
from tests import fraud_kit
from tests.fraud_kit import judge, one, pay
from tests.support import daemons as running
from tests.support import eventually, owning

door, people = fraud_kit.door, fraud_kit.people


# Verdicts ------------------------------------------------------------------------------------------------------------


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
        with pytest.raises(RightsMissing):
            await one(db, statement)
        with pytest.raises(psycopg.errors.RestrictViolation):
            async with owning(db) as unit:
                await unit.rows(statement)


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


# Versions of the rules -----------------------------------------------------------------------------------------------


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
