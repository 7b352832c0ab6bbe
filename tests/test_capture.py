"""Whatever a PSP captured stands in the books: what was asked, more, or less; and a difference has its break."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from daemons import settlement as daemon
from pasys.adapters import Authorised, Captured, Declined, Payment, stripe
from pasys.adapters.instant import InstantPsp
from pasys.adapters.stripe_currency import from_stripe
from pasys.db import Database
from pasys.errors import AmountNotSendable, NoCorrection, NothingToResolve
from pasys.events import RefundDeclined, SettlementRequested, SettlementUnknown
from pasys.money import Money
from pasys.service import ledger, reconciliation, refund, settlement, trace
from tests.faults_kit import final_refund, nothing_unfinished, parked, payment, refunds_of
from tests.faults_said import announce, captured, cleared, declined, flagged
from tests.reconciliation_world import PSP, RECEIVABLE, World
from tests.support import balance_of, daemons, open_accounts, pay, until_status

ASKED = 10_000


async def _at_the_psp(db: Database) -> str:
    async with db.unit() as unit:
        await open_accounts(unit)
    transaction_id = await pay(db, "100.00")
    async with db.unit() as unit:
        assert await settlement.prepare(unit, [cleared(transaction_id)])
    return transaction_id


async def _breaks(db: Database) -> list[reconciliation.BreakRow]:
    async with db.unit() as unit:
        return await reconciliation.breaks(unit)


async def _hold(db: Database) -> bool:
    async with db.unit() as unit:
        return (await ledger.verify(unit)).ok


@pytest.mark.parametrize("captured_minor", [12_000, 8_000])
async def test_another_amount_than_asked_is_booked_and_has_its_break(db, settings, captured_minor: int):
    """The merchant has what was captured, nothing stays held, one break tells both amounts, and nobody asks again."""
    transaction_id = await _at_the_psp(db)
    async with daemons(settings):
        await announce(db, captured(transaction_id, captured_minor))
        await until_status(db, transaction_id, "succeeded")
        await announce(db, captured(transaction_id, captured_minor))  # the resolver's answer, or a webhook's
        await nothing_unfinished(db)
    assert (await balance_of(db, "shop")).minor == captured_minor
    assert (await balance_of(db, RECEIVABLE)).minor == captured_minor
    async with db.unit() as unit:
        assert await unit.value("select count(*) from hold") == 0
        with pytest.raises(NothingToResolve):
            await settlement.ask_again(unit, transaction_id)
    async with db.unit(now=datetime.now(UTC) + timedelta(days=1)) as unit:
        assert await settlement.resolve(unit) == []
    (found,) = await _breaks(db)
    assert (found.kind, found.difference_minor, found.status) == ("amount", captured_minor - ASKED, "open")
    assert (found.entity_id, found.run_id, found.line_id) == (transaction_id, None, None)
    assert (found.expected["amount_minor"], found.found["amount_minor"]) == (ASKED, captured_minor)
    assert found.found["source_id"] == f"ch_{transaction_id}"
    assert await parked(settings) == []
    assert await _hold(db)


async def test_too_much_for_a_deposit_is_the_payer_s(db):
    """Without a merchant, the payer has what was captured."""
    async with db.unit() as unit:
        await open_accounts(unit)
    transaction_id = await _deposit(db, Money(ASKED, "USD"))
    async with db.unit() as unit:
        await settlement.prepare(unit, [cleared(transaction_id)])
    async with db.unit() as unit:
        await settlement.succeed(unit, [captured(transaction_id, 12_000)])
    assert (await balance_of(db, "alice")).minor == 12_000
    assert len(await _breaks(db)) == 1 and await _hold(db)


@pytest.mark.parametrize("is_fraud", [True, False])
async def test_too_much_that_must_not_stay_goes_back_whole(db, settings, is_fraud: bool):
    """Flagged while the PSP was asked, or captured after the payment had failed: all that was captured is sent back."""
    transaction_id = await _at_the_psp(db)
    async with db.unit() as unit:
        if is_fraud:
            await settlement.block(unit, [flagged(transaction_id)])
        else:
            await settlement.fail(unit, [declined(transaction_id)])
    async with daemons(settings):
        await announce(db, captured(transaction_id, 12_000))
        await until_status(db, transaction_id, "refunded")
    assert (await payment(db, transaction_id)).refunded_minor == 12_000
    for name in ("alice", "shop", "refunds:in_flight"):
        assert (await balance_of(db, name)).minor == 0
    assert len(await _breaks(db)) == 1 and await _hold(db)


@pytest.mark.parametrize("is_fraud", [True, False])
@pytest.mark.parametrize("is_deposit", [True, False])
async def test_what_must_go_back_is_never_the_payer_s_to_spend(db, is_fraud: bool, is_deposit: bool):
    """The unit that books the capture takes it away again: the payer has nothing, the refund has it all, once."""
    async with db.unit() as unit:
        await open_accounts(unit)
    transaction_id = await _deposit(db, Money(ASKED, "USD")) if is_deposit else await pay(db, "100.00")
    async with db.unit() as unit:
        assert await settlement.prepare(unit, [cleared(transaction_id)])
    async with db.unit() as unit:
        if is_fraud:
            await settlement.block(unit, [flagged(transaction_id)])
        else:
            await settlement.fail(unit, [declined(transaction_id)])
    async with db.unit() as unit:
        said = await settlement.succeed(unit, [captured(transaction_id, ASKED)])
    subjects = [event.subject for event in said]
    assert subjects[-3:] == ["refund.requested", "refund.approved", "refund.reserved"]
    assert [(await balance_of(db, name)).minor for name in ("alice", "refunds:in_flight")] == [0, ASKED]
    (going,) = await refunds_of(db, transaction_id)
    assert (going.status, going.amount.minor, going.automatic) == ("reserved", ASKED, True)
    async with db.unit() as unit:
        assert await refund.reserve(unit, going.id) is None, "the approval's own handler finds nothing to do"
    assert await _hold(db)


async def test_a_refund_that_is_declined_gives_the_payer_what_the_psp_keeps(db, settings):
    """Only when the PSP will not give it back does the money of a late capture become the payer's."""
    transaction_id = await _at_the_psp(db)
    async with db.unit() as unit:
        await settlement.fail(unit, [declined(transaction_id)])
    async with db.unit() as unit:
        await settlement.succeed(unit, [captured(transaction_id, ASKED)])
    (going,) = await refunds_of(db, transaction_id)
    async with db.unit() as unit:
        await refund.send(unit, going.id)
    no = RefundDeclined(refund_id=going.id, transaction_id=transaction_id, reason="declined", asset="USD")
    async with db.unit() as unit:
        await refund.decline(unit, no)
    assert [(await balance_of(db, name)).minor for name in ("alice", "refunds:in_flight")] == [ASKED, 0]
    assert (await payment(db, transaction_id)).status == "failed" and await _hold(db)


async def test_the_statement_agrees_and_the_break_stays_for_a_person(db):
    """The PSP's line says what was captured and is matched; it is given back, and accepted: no entry puts it right."""
    async with db.unit() as unit:
        await open_accounts(unit)
    world = World(db)
    transaction_id = await pay(db, "100.00", rail=PSP)
    async with db.unit() as unit:
        await settlement.prepare(unit, [cleared(transaction_id)])
        await settlement.succeed(unit, [world.answer(transaction_id, 12_000, 320, "USD")])
    world.list("charge", 12_000, 320, transaction_id=transaction_id, source=f"ch_{transaction_id}")
    report, _ = await world.reconcile()
    assert (report.lines, report.matched, report.open_breaks) == (1, 1, 1)
    (found,) = report.breaks
    async with db.unit() as unit:
        with pytest.raises(NoCorrection):
            await reconciliation.preview(unit, found.id)
        told = await trace.trace(unit, transaction_id)
        assert {"break", "statement_line"} <= {node.kind for node in told.nodes}
    await world.refunded(transaction_id, 2_000)
    await world.resolve(found.id, accept=True, note="given back")
    report, _ = await world.reconcile()
    assert (report.matched, report.open_breaks) == (2, 0)
    assert await world.owed_minor() == world.net_minor() and await world.hold()


async def test_its_absence_from_the_statement_is_still_found(db):
    """A capture of another amount that the statement does not list at all has two breaks, one for each fault."""
    async with db.unit() as unit:
        await open_accounts(unit)
    world = World(db)
    transaction_id = await pay(db, "100.00", rail=PSP)
    async with db.unit(now=world.now) as unit:
        await settlement.prepare(unit, [cleared(transaction_id)])
        await settlement.succeed(unit, [world.answer(transaction_id, 12_000, 320, "USD")])
    report, _ = await world.reconcile()
    assert sorted(found.kind for found in report.breaks) == ["amount", "missing_at_psp"]


async def test_a_refund_returns_what_was_captured_and_not_more(db, settings):
    """Of a payment of 100 that was captured with 80, 80 can go back; with 120, all of it."""
    transaction_id = await _at_the_psp(db)
    async with daemons(settings):
        await announce(db, captured(transaction_id, 12_000))
        await until_status(db, transaction_id, "succeeded")
        async with db.unit() as unit:
            asked = await refund.request(unit, transaction_id)
        assert (await final_refund(db, asked.refund_id)).amount.minor == 12_000
        await until_status(db, transaction_id, "refunded")
    assert (await balance_of(db, "shop")).minor == 0 and await _hold(db)


@pytest.mark.parametrize("amount", [Money(0, "USD"), Money(-5, "USD"), Money(1_000, "JPY")])
async def test_an_answer_that_cannot_be_is_no_answer(amount: Money):
    """Nothing, less than nothing or another currency was captured, says the PSP: that stays unknown, and is no fact."""

    class Odd(InstantPsp):
        async def capture(self, payment: Payment, authorised: Authorised) -> Captured:
            return Captured(authorised.psp_reference, "ch_1", amount, None)

    said: Any = await daemon.send(_asked(), Odd())
    assert isinstance(said, SettlementUnknown) and said.step == "capture" and str(amount) in said.reason


async def test_a_capture_that_the_ledger_cannot_express_is_unknown():
    """Stripe says that it took a fraction of a krona: neither failed, nor parked, but a question for a person."""

    class Odd(InstantPsp):
        async def capture(self, payment: Payment, authorised: Authorised) -> Captured:
            return Captured(authorised.psp_reference, "ch_1", from_stripe(1_050, "isk"), None)

    said: Any = await daemon.send(_asked(), Odd())
    assert isinstance(said, SettlementUnknown) and said.step == "capture" and "1050 isk" in said.reason


async def test_no_rule_of_ours_fails_what_is_authorised():
    """An adapter that refuses before it asks has its say; once money is reserved, the outcome is unknown instead."""

    class Odd(InstantPsp):
        def __init__(self, at: str) -> None:
            self.at = at

        async def authorise(self, payment: Payment) -> Authorised | Declined:
            if self.at == "authorise":
                raise AmountNotSendable(psp="odd", amount=payment.amount, reason="odd")
            return await super().authorise(payment)

        async def capture(self, payment: Payment, authorised: Authorised) -> Captured:
            raise AmountNotSendable(psp="odd", amount=payment.amount, reason="odd")

    with pytest.raises(AmountNotSendable):
        await daemon.send(_asked(), Odd("authorise"))
    said: Any = await daemon.send(_asked(), Odd("capture"))
    assert isinstance(said, SettlementUnknown) and said.psp_reference is not None


def test_stripe_is_taken_at_its_word_that_it_received_nothing():
    """A received amount of 0 is not read as the whole amount; one that is not said at all is."""
    intent: dict[str, Any] = {"id": "pi_1", "amount": 1_000, "currency": "usd", "latest_charge": {"id": "ch_1"}}
    assert stripe._captured(intent).amount.minor == 1_000
    for received in (0, 400):
        assert stripe._captured(intent | {"amount_received": received}).amount.minor == received


def _asked() -> SettlementRequested:
    return SettlementRequested(
        transaction_id="tx_1",
        psp="instant",
        amount_minor=1_000,
        asset="USD",
        payment_method=None,
        customer="alice",
        requested_at=datetime.now(UTC),
    )


async def _deposit(db: Database, amount: Money) -> str:
    from pasys.service import transaction

    async with db.unit() as unit:
        created = await transaction.create(unit, transaction.Draft(amount=amount, rail="instant", credit="alice"))
    assert created.transaction_id is not None
    return created.transaction_id
