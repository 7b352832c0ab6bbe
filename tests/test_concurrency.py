"""Whoever asks at the same time, from however many processes: one of them gets it, and the books never notice."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from pasys.domain.transaction import MOVES, Status
from pasys.errors import (
    AccountClosed,
    AccountFrozen,
    CancelTooLate,
    IdempotencyMismatch,
    IllegalTransition,
    InvalidInput,
    RefundNotPossible,
)
from pasys.money import Money
from pasys.service import account, ledger, refund, settlement, transaction, transaction_query, transaction_state
from tests.faults_invariants import violations
from tests.faults_kit import (
    all_status,
    ask_create,
    ask_one_refund,
    ask_refund,
    ask_transfer,
    at_once,
    final_refund,
    fund,
    open_payers,
    pay_from,
    payment,
    refunds_of,
    stripe_at_home,
)
from tests.faults_said import announce, captured, cleared, declined, flagged, handled, instant, moves_of, settling
from tests.support import PIPELINE, balance_of, daemons, open_accounts, pay, until_status

FORCE = "update transaction set status = %(s)s where id = %(id)s"


async def test_200_refunds_at_once_pay_back_once(settings):
    """200 refunds of 60 on a capture of 100 from four processes: one succeeds, and the PSP sees one call."""
    async with stripe_at_home(settings) as home:
        db = home.db
        (payer,) = await open_payers(db, 1)
        (transaction_id,) = await pay_from(db, [payer], amount_minor=10_000)
        async with daemons(home.settings):
            await until_status(db, transaction_id, "succeeded")
            said = Counter(await at_once(home.settings, ask_refund, processes=4, each=50, args=(transaction_id, 6_000)))
            (refund_id,) = [answer for answer in said if answer.startswith("rf_")]
            assert said == {refund_id: 1, "refund_too_large": 199}
            await final_refund(db, refund_id)
            await until_status(db, transaction_id, "succeeded")
        calls = await home.calls("refunds.create")
        assert (calls["count"], calls["executed"]) == (1, 1)
        assert (await balance_of(db, "shop")).minor == 4_000
        assert (await payment(db, transaction_id)).refunded_minor == 6_000
        assert await violations(db, home.simulator) == []


async def test_one_clearance_delivered_many_times_settles_once(settings):
    """Two captures at once: fraud.cleared announced forty times by as many events is one settlement."""
    async with stripe_at_home(settings) as home:
        db = home.db
        payers = await open_payers(db, 3)
        paid = await pay_from(db, payers)
        async with daemons(home.settings, "fraud", "settlement", "ledger", "settlement", "ledger"):
            await announce(db, *(cleared(id) for id in paid for _ in range(40)))
            await all_status(db, paid, "succeeded")
            await announce(db, *(cleared(id) for id in paid))
            async with (
                db.unit() as unit
            ):  # forty, the last, and the rules' own where they were not too late to be asked
                said = await unit.value("select count(*) from event where subject = 'fraud.cleared'")
            assert said >= 41 * len(paid)
            await handled(db, "settlement.prepare", said)
        for operation in ("payment_intents.create", "payment_intents.capture"):
            calls = await home.calls(operation)
            assert calls["executed"] == len(paid), operation
        assert await violations(db, home.simulator) == []


async def test_one_capture_reported_many_times_is_posted_once(db, settings):
    """Two payouts at once: settlement.succeeded as forty events, in batches and apart, credits the merchant once."""
    async with db.unit() as unit:
        await open_accounts(unit)
    transaction_id = await pay(db, "100.00")
    async with daemons(settings, "ledger", "ledger"):
        await announce(db, *(captured(transaction_id, 10_000) for _ in range(20)))
        await until_status(db, transaction_id, "succeeded")
        await announce(db, *(captured(transaction_id, 10_000) for _ in range(20)))
        await handled(db, "ledger.succeed", 40)
    assert (await balance_of(db, "shop")).minor == 10_000
    assert len(await moves_of(db, transaction_id)) == 3
    async with db.unit() as unit:
        assert (await ledger.verify(unit)).ok


async def test_many_refunds_of_the_same_payments_do_not_deadlock(db, settings):
    """Refunds at every step, of the same payments in any order, in two copies of the daemon: nobody waits in a ring."""
    payers = await open_payers(db, 30)
    async with db.unit() as unit:
        drafts = [
            transaction.Draft(amount=Money(9_000, "USD"), rail="instant", debit=payer, credit="shop")
            for payer in payers
        ]
        paid = [made.transaction_id or "" for made in await transaction.create_many(unit, drafts, partial=False)]
    async with daemons(settings, *PIPELINE, "refund"):
        await all_status(db, paid, "succeeded")
        asking = [(id, 1_500) for id in paid for _ in range(6)]
        Random(1).shuffle(asking)
        await asyncio.gather(*(ask_one_refund(db, *asked) for asked in asking))
        await all_status(db, paid, "refunded")
    async with db.unit() as unit:
        deadlocks = "select deadlocks from pg_stat_database where datname = current_database()"
        assert await unit.value(deadlocks) == 0
        assert (await ledger.verify(unit)).ok


@pytest.mark.parametrize("each", [5, 50])
async def test_parallel_requests_with_one_key_get_one_answer(db, settings, each):
    """As many equal answers as there were requests, all but one of them marked as replayed; one transaction."""
    async with db.unit() as unit:
        await open_accounts(unit)
    said = await at_once(settings, ask_create, processes=2, each=each // 2 + each % 2, args=("order-7",))
    assert len({transaction_id for transaction_id, _ in said}) == 1
    assert Counter(replayed for _, replayed in said)[False] == 1
    async with db.unit() as unit:
        assert len(await transaction_query.listing(unit)) == 1


async def test_the_same_key_with_another_body_is_a_conflict(db, unit):
    """It is not silently answered with the first result."""
    await open_accounts(unit)
    first = await transaction.create(unit, instant("10.00", key="k"))
    with pytest.raises(IdempotencyMismatch) as no:
        await transaction.create(unit, instant("10.01", key="k"))
    assert no.value.facts["entity_id"] == first.transaction_id


async def test_a_key_belongs_to_its_actor(db):
    """Another caller who uses the same key gets a transaction of their own."""
    async with db.unit() as unit:
        await open_accounts(unit)
    made = []
    for actor in ("ann", "ben", "ann"):
        async with db.unit(actor=actor) as unit:
            made.append(await transaction.create(unit, instant("10.00", key="k")))
    assert made[0].transaction_id == made[2].transaction_id != made[1].transaction_id
    assert [answer.replayed for answer in made] == [False, False, True]


async def test_a_refused_creation_takes_no_key(db):
    """What the rules refused may be asked again with the same key, once the reason is gone."""
    async with db.unit() as unit:
        await open_accounts(unit)
        await account.freeze(unit, "alice", "USD")
    with pytest.raises(AccountFrozen):
        async with db.unit() as unit:
            await transaction.create(unit, instant("10.00", key="k"))
    async with db.unit() as unit:
        await account.unfreeze(unit, "alice", "USD")
        assert not (await transaction.create(unit, instant("10.00", key="k"))).replayed


async def test_opposite_transfers_do_not_deadlock(db, settings):
    """A thousand payments to and fro between two accounts: all done or refused for lack of funds, no sum changed."""
    async with db.unit() as unit:
        await open_accounts(unit)
    await fund(db, "alice", 300)
    await fund(db, "bob", 300)
    said = Counter(await at_once(settings, ask_transfer, processes=4, each=250, args=(("alice", "bob"),)))
    assert said.keys() <= {"done", "insufficient_funds"} and said["done"] > 100, said
    assert (await balance_of(db, "alice")).minor + (await balance_of(db, "bob")).minor == 600
    async with db.unit() as unit:
        assert (await ledger.verify(unit)).ok


async def test_a_frozen_account_finishes_what_it_began(db, settings):
    """It starts nothing new; a capture, a decline and a refund that are under way still pass."""
    async with db.unit() as unit:
        await open_accounts(unit)
    going, doomed, back = [await pay(db, "100.00") for _ in range(3)]
    async with daemons(settings, "ledger", "refund"):
        await announce(db, captured(back, 10_000))
        await until_status(db, back, "succeeded")
        async with db.unit() as unit:
            await refund.request(unit, back)
            await account.freeze(unit, "alice", "USD")
            await account.freeze(unit, "shop", "USD")
        with pytest.raises(AccountFrozen):
            await pay(db, "1.00")
        await announce(db, captured(going, 10_000), declined(doomed))
        await until_status(db, going, "succeeded")
        await until_status(db, doomed, "failed")
        await until_status(db, back, "refunded")
    assert (await balance_of(db, "shop")).minor == 10_000
    async with db.unit() as unit:
        assert (await ledger.verify(unit)).ok


async def test_a_closed_account_still_gets_what_comes_back(db, settings):
    """A refund and a late capture pass through the account of a customer who has left; nothing stays on it."""
    async with db.unit() as unit:
        await open_accounts(unit)
    back, late = [await pay(db, "100.00") for _ in range(2)]
    async with daemons(settings, "ledger", "refund"):
        await announce(db, captured(back, 10_000))
        await until_status(db, back, "succeeded")
        async with db.unit() as unit:
            await transaction_state.cancel(unit, late)
            await account.close(unit, "alice", "USD")
        with pytest.raises(AccountClosed):
            await pay(db, "1.00")
        async with db.unit() as unit:
            await refund.request(unit, back)
        await announce(db, captured(late, 10_000))
        await until_status(db, back, "refunded")
        await until_status(db, late, "refunded")
    for name in ("shop", "alice", "refunds:in_flight", "psp:instant:receivable"):
        assert (await balance_of(db, name)).minor == 0, name


async def test_illegal_moves_change_no_row(db):
    """The statement that moves a transaction names where it moves from: each other status is left as it is."""
    async with db.unit() as unit:
        await open_accounts(unit)
    transaction_id = await pay(db, "10.00")
    refused = 0
    for really, wrong, becomes in itertools.product(Status, Status, Status):
        if really is wrong:
            continue
        async with db.unit() as unit:
            await unit.rows(
                "update transaction set status = %(s)s where id = %(id)s", s=really.value, id=transaction_id
            )
            moved = await transaction_state.move(unit, [transaction_state.Move(transaction_id, wrong, becomes)])
            assert moved == set()
            refused += 1
    assert refused == 8 * 7 * 8
    with pytest.raises(Exception, match="status"):
        async with db.unit() as unit:
            await unit.rows("update transaction set status = 'BANANA' where id = %(id)s", id=transaction_id)


async def test_every_illegal_cancel_is_refused_by_name(db):
    """What has ended, or is being refunded, can not be cancelled."""
    async with db.unit() as unit:
        await open_accounts(unit)
    transaction_id = await pay(db, "10.00")
    for status in Status:
        if Status.CANCELLED in MOVES[status]:
            continue
        async with db.unit() as unit:
            await unit.rows(
                "update transaction set status = %(s)s where id = %(id)s", s=status.value, id=transaction_id
            )
        with pytest.raises(IllegalTransition):
            async with db.unit() as unit:
                await transaction_state.cancel(unit, transaction_id)


async def test_cancel_and_settlement_race(settings):
    """Exactly one of them wins: cancelled and never asked of the PSP, or settled and too late to cancel."""
    async with stripe_at_home(settings) as home:
        db = home.db
        payers = await open_payers(db, 12)
        paid = await pay_from(db, payers)
        async with daemons(home.settings, "settlement", "ledger"):
            await announce(db, *(cleared(id) for id in paid))
            cancelled = []
            for number, id in enumerate(paid):
                try:
                    async with db.unit() as unit:
                        await transaction_state.cancel(unit, id)
                    cancelled.append(id)
                except (CancelTooLate, IllegalTransition):
                    await asyncio.sleep(0.002 * number)
            await all_status(db, sorted(set(paid) - set(cancelled)), "succeeded")
        for id in cancelled:
            assert (await payment(db, id)).status == "cancelled"
        calls = await home.calls("payment_intents.create")
        assert calls["executed"] == len(paid) - len(cancelled)
        assert await violations(db, home.simulator) == []


async def test_flagged_while_the_psp_is_asked_ends_as_fraud_and_goes_back(settings):
    """The PSP's answer comes after the verdict: what it took is refunded, and why is not forgotten."""
    async with stripe_at_home(settings) as home:
        db = home.db
        payers = await open_payers(db, 1)
        (transaction_id,) = await pay_from(db, payers)
        await home.fault("delay", "payment_intents.capture", delay_s=0.3)
        async with daemons(home.settings, "settlement", "ledger", "refund"):
            await announce(db, cleared(transaction_id))
            await settling(db, transaction_id)
            await announce(db, flagged(transaction_id))
            row = await until_status(db, transaction_id, "refunded")
        assert row.reason == "suspected_fraud"
        assert "fraud" in [step.to_status for step in await moves_of(db, transaction_id)]
        assert await violations(db, home.simulator) == []


async def test_flagged_after_settlement_is_refunded_by_itself(settings):
    """A settled payment can be flagged: everything that was captured goes back."""
    async with stripe_at_home(settings) as home:
        db = home.db
        payers = await open_payers(db, 1)
        (transaction_id,) = await pay_from(db, payers)
        async with daemons(home.settings):
            await until_status(db, transaction_id, "succeeded")
            await announce(db, flagged(transaction_id), flagged(transaction_id))
            row = await until_status(db, transaction_id, "refunded")
        (sent_back,) = await refunds_of(db, transaction_id)
        assert (row.reason, row.refunded_minor, sent_back.automatic) == ("suspected_fraud", 5_000, True)
        assert (await balance_of(db, "shop")).minor == 0
        assert await violations(db, home.simulator) == []


async def test_flagged_at_the_psp_and_overdue_ends_as_fraud(db, settings):
    """The hold has expired while the PSP was asked about what was flagged meanwhile: it still ends as fraud."""
    async with db.unit() as unit:
        await open_accounts(unit)
    transaction_id = await pay(db, "100.00")
    async with db.unit() as unit:
        await settlement.prepare(unit, [cleared(transaction_id)])
        await settlement.block(unit, [flagged(transaction_id)])
    async with db.unit(now=datetime.now(UTC) + timedelta(days=30)) as unit:
        assert await settlement.expire(unit) == []
    async with db.unit() as unit:
        said = await settlement.succeed(unit, [captured(transaction_id, 10_000)])
    assert {event.subject for event in said} >= {"transaction.flagged", "refund.approved"}
    assert [move.to_status for move in await moves_of(db, transaction_id)][-2:] == ["fraud", "refunding"]
    assert (await payment(db, transaction_id)).reason == "suspected_fraud"


@pytest.mark.parametrize("ended", ["cancelled", "failed"])
async def test_a_late_capture_is_recorded_and_sent_back(db, settings, ended):
    """Money that arrives after the transaction has ended stands in the books as it happened, and is refunded."""
    async with db.unit() as unit:
        await open_accounts(unit)
    transaction_id = await pay(db, "100.00")
    async with daemons(settings, "ledger", "refund"):
        if ended == "failed":
            await announce(db, declined(transaction_id))
        else:
            async with db.unit() as unit:
                await transaction_state.cancel(unit, transaction_id)
        await until_status(db, transaction_id, ended)
        await announce(db, captured(transaction_id, 10_000), captured(transaction_id, 10_000))
        row = await until_status(db, transaction_id, "refunded")
    assert (row.captured_minor, row.refunded_minor) == (10_000, 10_000)
    assert len(await refunds_of(db, transaction_id)) == 1
    assert row.reason == ("declined" if ended == "failed" else None)
    for name in ("shop", "alice", "refunds:in_flight", "psp:instant:receivable"):
        assert (await balance_of(db, name)).minor == 0, name


async def test_a_word_from_outside_never_becomes_a_status(db, unit):
    """An unknown status is refused by name, as a filter and as a column; nothing reads it as pending."""
    await open_accounts(unit)
    with pytest.raises(InvalidInput):
        await transaction_query.listing(unit, status="BANANA")
    with pytest.raises(InvalidInput):
        await transaction_query.listing(unit, outcome="succeeded")
    with pytest.raises(RefundNotPossible):
        await refund.request(unit, (await transaction.create(unit, instant("1.00"))).transaction_id or "")
