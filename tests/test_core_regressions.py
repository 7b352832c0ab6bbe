"""What a careful reader found in the money path, kept from coming back."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg import errors as pg_errors
from sqlalchemy import exc

from pasys.bus import Bus
from pasys.daemon import Daemon
from pasys.db import Database, Unit, database_errors
from pasys.errors import DatabaseUnavailable, InvalidInput
from pasys.events import (
    AccountOpened,
    Announcement,
    RefundApproved,
    RefundCompleted,
    RefundDeclined,
    RefundRequested,
    SettlementUnknown,
)
from pasys.money import parse
from pasys.service import account, fraud, ledger_history, refund, settlement, transaction
from pasys.worker.relay import Relay
from tests.faults_said import captured, cleared, declined, flagged
from tests.support import balance_of, eventually, open_accounts, owning, pay
from tests.worker_kit import announce, opened, running

GROSS = 10_000


def _later(**far: float) -> datetime:
    return datetime.now(UTC) + timedelta(**far)


def _unknown(transaction_id: str, step: str) -> SettlementUnknown:
    return SettlementUnknown(
        transaction_id=transaction_id,
        psp="instant",
        step=step,
        reason="silence",
        latency_ms=1,
        psp_reference=None,
        asset="USD",
    )


async def _at_the_psp(db: Database) -> str:
    """A payment that the PSP is being asked about."""
    async with db.unit() as unit:
        await open_accounts(unit)
    transaction_id = await pay(db, "100.00")
    async with db.unit() as unit:
        assert await settlement.prepare(unit, [cleared(transaction_id)])
    return transaction_id


async def _settled(db: Database) -> str:
    transaction_id = await _at_the_psp(db)
    async with db.unit() as unit:
        await settlement.succeed(unit, [captured(transaction_id, GROSS)])
    return transaction_id


async def _transaction(db: Database, transaction_id: str) -> Any:
    async with db.unit() as unit:
        return await unit.row("select * from transaction where id = %(id)s", id=transaction_id)


async def _attempts(db: Database, transaction_id: str) -> dict[str, Any]:
    async with db.unit() as unit:
        rows = await unit.rows("select * from attempt where entity_id = %(id)s", id=transaction_id)
    return {row.step: row for row in rows}


async def _to_the_psp_again(db: Database, refund_id: str) -> None:
    async with db.unit() as unit:
        await refund.reserve(unit, refund_id)
        await refund.send(unit, refund_id)


async def _decline_refund(db: Database, transaction_id: str, refund_id: str) -> None:
    await _to_the_psp_again(db, refund_id)
    no = RefundDeclined(refund_id=refund_id, transaction_id=transaction_id, reason="declined", asset="USD")
    async with db.unit() as unit:
        await refund.decline(unit, no)


# Holds ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_fraud", [False, True])
async def test_a_capture_between_deadline_and_timer_releases_the_hold(db, is_fraud):
    """A hold that lapsed, and that the timer has not seen yet, goes with the capture: nothing stays pending."""
    transaction_id = await _at_the_psp(db)
    if is_fraud:
        async with db.unit() as unit:
            await settlement.block(unit, [flagged(transaction_id)])
    after = _later(days=30)
    async with db.unit(now=after) as unit:
        await settlement.succeed(unit, [captured(transaction_id, GROSS)])
    async with db.unit(now=after) as unit:
        assert await ledger_history.expired_holds(unit) == []
        for name in ("alice", "psp:instant:receivable"):
            (held,) = await account.balance(unit, name)
            assert held.pending.minor == 0, name
    assert (await balance_of(db, "shop")).minor == (0 if is_fraud else GROSS)


async def test_a_lapsed_hold_of_a_finished_transaction_does_not_stay(db):
    """The timer releases every lapsed hold, so that those of finished transactions never fill its page."""
    transaction_id = await _at_the_psp(db)
    async with db.unit() as unit:
        await unit.rows("update transaction set status = 'failed' where id = %(id)s", id=transaction_id)
    async with db.unit(now=_later(days=30)) as unit:
        assert await settlement.expire(unit) == []
        assert await ledger_history.expired_holds(unit) == []


async def test_a_payment_that_nobody_settled_is_in_the_reports(db):
    """Whichever way a transaction ends, the flat facts say so: one whose hold expired has failed like any other."""
    async with db.unit() as unit:
        await open_accounts(unit)
    await pay(db, "100.00")
    async with db.unit(now=_later(days=30)) as unit:
        assert [event.subject for event in await settlement.expire(unit)] == [
            "analytics.recorded",
            "transaction.failed",
        ]


async def test_who_waited_for_the_lock_sees_the_hold_as_it_is(db):
    """The timer released the hold while a decline waited for the row: the decline does not release it again."""
    transaction_id = await _at_the_psp(db)
    waits = asyncio.Event()

    async def decline() -> None:
        async with db.unit() as unit:
            await unit.value("select 1")
            waits.set()
            await settlement.fail(unit, [declined(transaction_id)])

    async def waiting_for_a_lock() -> Any:
        async with owning(db) as unit:
            return await unit.value(
                "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
            )

    async with db.unit(now=_later(days=30)) as unit:
        assert await settlement.expire(unit) == []
        declining = asyncio.create_task(decline())
        await waits.wait()
        await eventually(waiting_for_a_lock)
    await declining
    assert (await _transaction(db, transaction_id)).status == "failed"


# Refunds -------------------------------------------------------------------------------------------------------------


async def test_fraud_stays_fraud_when_its_refund_isdeclined(db):
    """A settled payment that was flagged does not become a good one because the PSP would not give it back."""
    transaction_id = await _settled(db)
    async with db.unit() as unit:
        said = await settlement.block(unit, [flagged(transaction_id)])
    (refund_id,) = {event.refund_id for event in said if isinstance(event, RefundApproved)}
    await _decline_refund(db, transaction_id, refund_id)
    row = await _transaction(db, transaction_id)
    assert (row.status, row.reason, row.refunding_minor) == ("fraud", "suspected_fraud", 0)


async def test_a_good_payment_is_good_again_when_its_refund_isdeclined(db):
    """Nobody flagged it: it is what it was before."""
    transaction_id = await _settled(db)
    async with db.unit() as unit:
        asked = await refund.request(unit, transaction_id)
    await _decline_refund(db, transaction_id, asked.refund_id)
    assert (await _transaction(db, transaction_id)).status == "succeeded"


async def test_a_person_flags_what_is_being_refunded(db):
    """A part of it waits for a second person, for days: whoever sees that it is fraud can say so meanwhile."""
    transaction_id = await _settled(db)
    async with db.unit() as unit:
        await refund.request(unit, transaction_id, amount=parse("40.00", "USD"))
        await fraud.flag(unit, transaction_id, "the owner called")
    async with db.unit() as unit:
        said = await settlement.block(unit, [flagged(transaction_id)])
    assert [event.amount_minor for event in said if isinstance(event, RefundRequested)] == [6_000]
    assert (await _transaction(db, transaction_id)).reason == "suspected_fraud"


async def test_flagged_while_a_part_goes_back_the_rest_follows(db):
    """A verdict that comes during a partial refund is not lost: the rest is sent back too."""
    transaction_id = await _settled(db)
    async with db.unit() as unit:
        part = await refund.request(unit, transaction_id, amount=parse("40.00", "USD"))
    async with db.unit() as unit:
        said = await settlement.block(unit, [flagged(transaction_id)])
    assert {"transaction.flagged", "refund.approved"} <= {event.subject for event in said}
    (rest,) = {event.refund_id for event in said if isinstance(event, RefundApproved)}
    async with db.unit() as unit:
        assert await settlement.block(unit, [flagged(transaction_id)]) == [], "it is said once"
    await _decline_refund(db, transaction_id, rest)
    await _to_the_psp_again(db, part.refund_id)
    done = RefundCompleted(
        refund_id=part.refund_id, transaction_id=transaction_id, psp_reference="re_1", latency_ms=1, asset="USD"
    )
    async with db.unit() as unit:
        await refund.complete(unit, done)
    row = await _transaction(db, transaction_id)
    assert (row.status, row.refunded_minor) == ("fraud", 4_000)


# Unknown outcomes ----------------------------------------------------------------------------------------------------


async def test_only_the_step_in_doubt_is_asked_for(db):
    """A capture in doubt means that the authorisation is known: one question stands, not two."""
    transaction_id = await _at_the_psp(db)
    async with db.unit() as unit:
        await settlement.doubt(unit, [_unknown(transaction_id, "authorise")])
    async with db.unit() as unit:
        await settlement.doubt(unit, [_unknown(transaction_id, "capture")])
    steps = await _attempts(db, transaction_id)
    assert (steps["authorise"].outcome, steps["capture"].outcome) == ("succeeded", "unknown")
    assert steps["authorise"].ask_after is None and steps["capture"].ask_after is not None


async def test_past_the_deadline_nobody_asks_by_himself(db, settings):
    """Whichever step was in doubt before: after the deadline the question waits for an operator."""
    transaction_id = await _at_the_psp(db)
    async with db.unit() as unit:
        await settlement.doubt(unit, [_unknown(transaction_id, "authorise")])
    over = timedelta(seconds=settings.outcome_deadline_s + 60)
    async with db.unit(now=datetime.now(UTC) + over) as unit:
        assert len(await settlement.resolve(unit)) == 1
    async with db.unit(now=datetime.now(UTC) + over) as unit:
        await settlement.doubt(unit, [_unknown(transaction_id, "capture")])
    async with db.unit(now=datetime.now(UTC) + 2 * over) as unit:
        assert await settlement.resolve(unit) == []


async def test_a_question_that_nobody_could_answer_ends_with_the_deadline(db, settings):
    """Each answer ended in DEAD, so that nobody doubts: asked until the deadline, then only when an operator wants."""
    transaction_id = await _at_the_psp(db)
    async with db.unit() as unit:
        await settlement.doubt(unit, [_unknown(transaction_id, "authorise")])
    over = datetime.now(UTC) + timedelta(seconds=settings.outcome_deadline_s + 60)
    for asked in (1, 0):
        async with db.unit(now=over) as unit:
            assert len(await settlement.resolve(unit)) == asked
        over += timedelta(days=1)
    async with db.unit(now=over) as unit:
        await settlement.ask_again(unit, transaction_id)
        assert len(await settlement.resolve(unit)) == 1
    async with db.unit(now=over + timedelta(days=1)) as unit:
        assert await settlement.resolve(unit) == []
    assert (await _transaction(db, transaction_id)).outcome == "unknown", "it stands in the operator's queue"


async def test_a_decline_after_an_unknown_capture_leaves_no_question(db):
    """The PSP says in the end that nothing was authorised: no attempt of a failed payment stays unknown."""
    transaction_id = await _at_the_psp(db)
    async with db.unit() as unit:
        await settlement.doubt(unit, [_unknown(transaction_id, "capture")])
    async with db.unit() as unit:
        await settlement.fail(unit, [declined(transaction_id)])
    steps = await _attempts(db, transaction_id)
    assert (steps["authorise"].outcome, steps["capture"].outcome) == ("declined", "skipped")
    assert {step.ask_after for step in steps.values()} == {None}


async def test_a_late_decline_does_not_rewrite_what_succeeded(db):
    """The attempts of a settled payment say what they said, whatever comes after."""
    transaction_id = await _settled(db)
    async with db.unit() as unit:
        assert await settlement.fail(unit, [declined(transaction_id)]) == []
    assert {step.outcome for step in (await _attempts(db, transaction_id)).values()} == {"succeeded"}


async def test_a_question_that_waits_is_not_asked_behind_itself(db):
    """While no answer comes, the same payment is asked about at intervals that double: a queue cannot feed itself."""
    transaction_id = await _at_the_psp(db)
    async with db.unit() as unit:
        await settlement.doubt(unit, [_unknown(transaction_id, "authorise")])
    start, asked = datetime.now(UTC) + timedelta(seconds=60), []
    for second in range(0, 3_600, 10):
        async with db.unit(now=start + timedelta(seconds=second)) as unit:
            if await settlement.resolve(unit):
                asked.append(second)
    assert 3 <= len(asked) <= 7, asked


# Keys ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["", "  ", "a\0b", "k" * 4_000])
async def test_what_is_no_key_is_refused_by_name(db, key):
    """An empty key would let a second payment pass for the first; one that no index holds is not a server's outage."""
    async with db.unit() as unit:
        await open_accounts(unit)
    with pytest.raises(InvalidInput):
        await pay(db, key=key)
    draft = transaction.Draft(amount=parse("1.00", "USD"), credit="alice", key=key)
    good = transaction.Draft(amount=parse("2.00", "USD"), credit="alice", key="good")
    async with db.unit() as unit:
        refused, created = await transaction.create_many(unit, [draft, good], partial=True)
    assert isinstance(refused.refusal, InvalidInput) and created.transaction_id is not None


# The wire ------------------------------------------------------------------------------------------------------------


async def test_a_statement_that_never_passes_is_not_tried_for_ever(db):
    """What is too large for an index is no outage: the message is put aside, and holds back nobody."""
    with pytest.raises(pg_errors.ProgramLimitExceeded):
        async with db.unit() as unit:
            await unit.rows(
                "insert into idempotency (actor, operation, key, body_hash, entity_id)"
                " select 'a', 'o', string_agg(md5(n::text), ''), '', 'e' from generate_series(1, 400) n"
            )


@pytest.mark.parametrize("error", [exc.TimeoutError("pool"), pg_errors.ReadOnlySqlTransaction("a standby")])
def test_a_database_that_cannot_take_it_now_is_unavailable(settings, error):
    """A pool without a free connection and a server that has become a standby: tried again, never parked."""
    with pytest.raises(DatabaseUnavailable), database_errors(settings):
        raise error


async def test_what_was_tidied_is_forgotten(db, settings):
    """The relay's memory of what the bus has taken does not come back when it is tidied while it publishes."""
    bus = await Bus(settings).connect()
    relay = Relay(db, bus)
    try:
        await _announce(relay, "evt_a")
        await relay.flush()
        publish = bus.publish

        async def tidied_meanwhile(batch: Any) -> list[str]:
            await relay.tidy()
            return await publish(batch)

        bus.publish = tidied_meanwhile  # type: ignore[method-assign]
        await _announce(relay, "evt_b")
        await relay.flush()
        assert relay._acked == ["evt_b"]
    finally:
        await bus.close()


async def _announce(relay: Relay, *event_ids: str) -> None:
    relay.offer([Announcement(event_id, "transaction.created.USD", b"{}") for event_id in event_ids])


async def test_a_message_that_the_bus_cannot_carry_holds_nobody_up(db, settings):
    """What is larger than the server takes stays in the outbox; what stands behind it is published."""
    bus = await Bus(settings).connect()
    try:
        subject = "transaction.created.USD"
        large = Announcement("evt_1", subject, b"x" * (bus.client.max_payload + 1))
        assert await bus.publish([large, Announcement("evt_2", subject, b"{}")]) == ["evt_2"]
    finally:
        await bus.close()


@pytest.mark.parametrize("lost", ["consumer", "stream"])
async def test_a_bus_that_forgot_its_readers_is_read_again(db, settings, lost):
    """An operator deleted a consumer, or the bus came back empty: the daemons go on without being started anew."""
    seen: list[str] = []
    daemon = Daemon("t")

    @daemon.on
    async def note(event: AccountOpened, unit: Unit) -> None:
        seen.append(event.name)

    bus = await Bus(settings).connect()
    try:
        async with running(settings, daemon):
            await announce(db, opened("before"))
            await eventually(lambda: _is(seen, ["before"]))
            if lost == "consumer":
                await bus.js.delete_consumer(bus.events, "t_note")
            else:
                await bus.js.delete_stream(bus.events)
            await announce(db, opened("after"))
            await eventually(lambda: _is(seen, ["before", "after"]), within_s=12)
    finally:
        await bus.close()


async def _is(seen: list[str], wanted: list[str]) -> bool:
    return seen == wanted
