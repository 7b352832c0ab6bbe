"""Stripe's adapter: silence, keys that expire, and whatever state a payment or a refund is found in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import stripe

from pasys.adapters import Authorised, Captured, Declined, Payment, Psp, Refunded, Repayment, open_psp
from pasys.adapters.stripe_currency import THREE_DECIMALS
from pasys.errors import (
    PspKeyReused,
    PspMisconfigured,
    PspUnavailable,
)
from pasys.money import Money
from tests.psp_kit import TIMEOUT_S, NoSearch, aged, ask_until_known, payment, repayment, settings_for, statement, take
from tests.simulator_process import Simulator, free_port


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    running = Simulator(tmp_path_factory.mktemp("psp"), "--refund-delay-s", "0.3")
    yield running
    running.stop()


@pytest.fixture
async def at_stripe(simulator: Simulator) -> AsyncIterator[Psp]:
    """Stripe's adapter against the simulator, with no fault in force."""
    simulator.control("DELETE", "faults")
    opened = open_psp("stripe", settings_for(simulator.url))
    yield opened
    await opened.close()


# Stripe: unknown outcomes --------------------------------------------------------------------------------------------


def only_executed(simulator: Simulator, operation: str, **metadata: str) -> bool:
    filters = {f"metadata[{name}]": value for name, value in metadata.items()}
    return simulator.calls(operation=operation, outcome="executed", **filters)["executed"] == 1


FAULTS = [
    ("timeout_before", 500),
    ("timeout_after", 500),
    ("disconnect_after", 500),
    ("error_before", 429),
    ("error_before", 500),
    ("error_after", 500),
    ("error_after", 503),
]


@pytest.mark.parametrize(("kind", "status"), FAULTS)
async def test_a_silent_authorisation_charges_once(at_stripe: Psp, simulator: Simulator, kind: str, status: int):
    """After no answer the outcome is unknown; asked again there is one payment intent, whatever had happened."""
    asked = payment()
    simulator.fault(kind, "payment_intents.create", times=1, status=status, delay_s=2 * TIMEOUT_S)
    with pytest.raises(PspUnavailable):
        await at_stripe.authorise(asked)
    authorised = await ask_until_known(at_stripe.authorise, asked)
    assert isinstance(authorised, Authorised) and authorised.auth_code
    assert only_executed(simulator, "payment_intents.create", transaction_id=asked.transaction_id)


@pytest.mark.parametrize(("kind", "status"), FAULTS)
async def test_a_silent_capture_takes_once(at_stripe: Psp, simulator: Simulator, kind: str, status: int):
    """The same of a capture: the fee and the charge are those of the one that happened."""
    asked = payment()
    authorised = await at_stripe.authorise(asked)
    assert isinstance(authorised, Authorised)
    simulator.fault(kind, "payment_intents.capture", times=1, status=status, delay_s=2 * TIMEOUT_S)
    with pytest.raises(PspUnavailable):
        await at_stripe.capture(asked, authorised)
    captured = await ask_until_known(at_stripe.capture, asked, authorised)
    assert captured.amount == asked.amount and captured.fee == Money(66, "USD")
    assert only_executed(simulator, "payment_intents.capture", transaction_id=asked.transaction_id)


@pytest.mark.parametrize(("kind", "status"), FAULTS)
async def test_a_silent_refund_pays_back_once(at_stripe: Psp, simulator: Simulator, kind: str, status: int):
    """The same of a refund: half of the payment goes back once, though half would be left for a second time."""
    asked = payment(1000)
    _, captured = await take(at_stripe, asked)
    back = repayment(asked, captured, 500)
    simulator.fault(kind, "refunds.create", times=1, status=status, delay_s=2 * TIMEOUT_S)
    with pytest.raises(PspUnavailable):
        await at_stripe.refund(back)
    assert isinstance(await ask_until_known(at_stripe.refund, back), Refunded)
    assert only_executed(simulator, "refunds.create", refund_id=back.refund_id)
    made = simulator.client().v1.refunds.list({"payment_intent": captured.psp_reference})
    assert [entry.amount for entry in made.data] == [500]


async def test_a_psp_that_is_away_leaves_it_unknown():
    """Nobody at the address: unknown, with a reason that says so."""
    away = open_psp("stripe", settings_for(f"http://127.0.0.1:{free_port()}"))
    with pytest.raises(PspUnavailable, match="did not answer"):
        await away.authorise(payment())
    await away.close()


async def test_a_wrong_key_fails_no_payment(simulator: Simulator):
    """Our own misconfiguration is no decline: the outcome stays open, and the reason names the key."""
    wrong = open_psp("stripe", settings_for(simulator.url, stripe_api_key="sk_test_wrong"))
    with pytest.raises(PspUnavailable, match="API key"):
        await wrong.authorise(payment())
    await wrong.close()
    with pytest.raises(PspMisconfigured):
        open_psp("stripe", settings_for(simulator.url, stripe_api_key=None))


async def test_a_wrong_address_fails_no_payment(simulator: Simulator):
    """An address that is not Stripe's is no decline either."""
    wrong = open_psp("stripe", settings_for(f"{simulator.url}/elsewhere"))
    with pytest.raises(PspUnavailable, match="request"):
        await wrong.authorise(payment())
    await wrong.close()


async def test_one_key_is_for_one_request(at_stripe: Psp):
    """Another amount under the same key is a bug of ours, not a decline."""
    asked = payment(1000)
    await at_stripe.authorise(asked)
    other = Payment(asked.transaction_id, Money(2000, "USD"), asked.payment_method, asked.customer, asked.requested_at)
    with pytest.raises(PspKeyReused):
        await at_stripe.authorise(other)


# Stripe: after the keys ----------------------------------------------------------------------------------------------


async def test_after_the_keys_it_goes_on_from_what_is_there(at_stripe: Psp, simulator: Simulator):
    """A day later the payment is found by our id, and captured; a captured one is found captured."""
    asked = payment()
    first = await at_stripe.authorise(asked)
    old = aged(asked, 86_400)
    assert await at_stripe.authorise(old) == first
    _, captured = await take(at_stripe, old)
    assert await take(at_stripe, old) == (first, captured)
    assert only_executed(simulator, "payment_intents.create", transaction_id=asked.transaction_id)


async def test_after_the_keys_nothing_is_asked_for_anew(at_stripe: Psp, simulator: Simulator):
    """A day later a payment that Stripe has never seen has failed, and is not begun."""
    old = aged(payment(), 86_400)
    assert await at_stripe.authorise(old) == Declined("not_found_at_psp")
    assert simulator.calls(**{"metadata[transaction_id]": old.transaction_id})["count"] == 0


async def test_a_search_that_may_be_behind_concludes_nothing(at_stripe: Psp):
    """Right after the keys are gone, what is not found may still appear."""
    with pytest.raises(PspUnavailable):
        await at_stripe.authorise(aged(payment(), 23 * 3600 + 1))


async def test_a_decline_is_found_again(at_stripe: Psp):
    """A declined payment that is found by our id says the same as on the day itself."""
    asked = payment(method="pm_card_chargeDeclinedInsufficientFunds")
    first = await at_stripe.authorise(asked)
    assert await at_stripe.authorise(aged(asked, 86_400)) == first
    asked = payment(method="pm_card_threeDSecure2Required")
    first = await at_stripe.authorise(asked)
    assert isinstance(first, Declined)
    again = await at_stripe.authorise(aged(asked, 86_400))
    assert isinstance(again, Declined) and again.reason == first.reason


async def test_without_search_the_list_is_read(simulator: Simulator):
    """Where Stripe cannot search, the payment is found in the list of its time, and a missing one is missed."""
    proxy = NoSearch(simulator.url)
    limited = open_psp("stripe", settings_for(proxy.url, psp_timeout_s=5.0))
    asked = payment()
    first = await limited.authorise(asked)
    for _ in range(12):
        await limited.authorise(payment())
    # The simulator's objects are young, so the asked time is as old as the list's window lets it be.
    old = aged(asked, 23 * 3600 + 60)
    assert await limited.authorise(old) == first
    assert await limited.authorise(aged(payment(), 86_400)) == Declined("not_found_at_psp")
    await limited.close()
    proxy.close()


async def test_after_the_keys_a_refund_is_found(at_stripe: Psp, simulator: Simulator):
    """A day later a refund is looked for among the payment's refunds, and never made anew."""
    asked = payment(1000)
    _, captured = await take(at_stripe, asked)
    back = repayment(asked, captured, 300)
    made = await at_stripe.refund(back)
    old = Repayment(
        back.refund_id, back.transaction_id, back.psp_reference, back.amount, aged(asked, 86_400).requested_at
    )
    assert await at_stripe.refund(old) == made
    assert await at_stripe.refund(repayment(asked, captured, 300, age_s=86_400)) == Declined("not_found_at_psp")
    assert len(simulator.client().v1.refunds.list({"payment_intent": captured.psp_reference}).data) == 1


# Stripe: states ------------------------------------------------------------------------------------------------------


async def test_nobody_is_here_to_authenticate(at_stripe: Psp, simulator: Simulator):
    """A payment that wants 3-D Secure is canceled, so that nothing can be taken after it failed."""
    asked = payment(method="pm_card_threeDSecure2Required")
    answer = await at_stripe.authorise(asked)
    assert isinstance(answer, Declined) and answer.psp_reference
    assert simulator.client().v1.payment_intents.retrieve(answer.psp_reference).status == "canceled"


async def test_captured_behind_our_back(at_stripe: Psp, simulator: Simulator):
    """What somebody else has captured already counts as captured."""
    asked = payment()
    authorised = await at_stripe.authorise(asked)
    assert isinstance(authorised, Authorised)
    simulator.client().v1.payment_intents.capture(authorised.psp_reference)
    captured = await at_stripe.capture(asked, authorised)
    assert isinstance(captured, Captured) and captured.amount == asked.amount


async def test_an_authorisation_that_is_gone(at_stripe: Psp, simulator: Simulator):
    """A canceled authorisation cannot be captured, and one that Stripe does not know was never there."""
    asked = payment()
    authorised = await at_stripe.authorise(asked)
    assert isinstance(authorised, Authorised)
    simulator.client().v1.payment_intents.cancel(authorised.psp_reference)
    gone = await at_stripe.capture(asked, authorised)
    assert isinstance(gone, Declined) and gone.reason == "authorisation_expired"
    nowhere = await at_stripe.capture(payment(), Authorised("pi_nowhere", None, None))
    assert isinstance(nowhere, Declined) and nowhere.reason == "not_found_at_psp"


async def test_no_more_goes_back_than_was_taken(at_stripe: Psp, simulator: Simulator):
    """Stripe refuses a refund that is too large, or of what went back before."""
    asked = payment(1000)
    _, captured = await take(at_stripe, asked)
    too_large = await at_stripe.refund(repayment(asked, captured, 1001))
    assert isinstance(too_large, Declined) and too_large.processor_code == "amount_too_large"
    assert isinstance(await at_stripe.refund(repayment(asked, captured, 1000)), Refunded)
    again = await at_stripe.refund(repayment(asked, captured, 1))
    assert isinstance(again, Declined) and again.reason == "declined"


async def test_a_pending_refund_is_not_known_yet(at_stripe: Psp, simulator: Simulator):
    """Pending is unknown until it has succeeded; canceled, it is declined."""
    asked = payment(1000, method="pm_card_pendingRefund")
    _, captured = await take(at_stripe, asked)
    back = repayment(asked, captured, 400)
    with pytest.raises(PspUnavailable, match="pending"):
        await at_stripe.refund(back)
    other = repayment(asked, captured, 100)
    with pytest.raises(PspUnavailable, match="pending"):
        await at_stripe.refund(other)
    made = simulator.client().v1.refunds.list({"payment_intent": captured.psp_reference})
    simulator.client().v1.refunds.cancel(next(entry.id for entry in made.data if entry.amount == 100))
    assert isinstance(await at_stripe.refund(other), Declined)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            assert isinstance(await at_stripe.refund(back), Refunded)
            return
        except PspUnavailable:
            await asyncio.sleep(0.05)
    pytest.fail("the refund stayed pending")


# 2.9 % and 30 of Stripe's units, in whole krónur and shillings, in tens of fils.
FEES = [(5_000, "ISK", 145), (17, "ISK", 1), (33_333, "UGX", 967), (1_250, "KWD", 70), (12_345, "TND", 390)]


@pytest.mark.parametrize(("minor", "asset", "fee_minor"), [*FEES, (1_250, "JPY", 66), (1_250, "USD", 66)])
async def test_a_fee_is_kept_in_every_currency(at_stripe: Psp, minor: int, asset: str, fee_minor: int):
    """Where Stripe settles whole units only, its fee is one, too: told with the capture, and again by the statement."""
    began = datetime.now(UTC) - timedelta(seconds=2)
    if asset in THREE_DECIMALS:
        minor = minor // 10 * 10
    asked = payment(minor, asset)
    _, captured = await take(at_stripe, asked)
    assert captured.amount == asked.amount and captured.fee == Money(fee_minor, asset)
    (line,) = [line for line in await statement(at_stripe, began) if line.transaction_id == asked.transaction_id]
    assert (line.amount_minor, line.fee_minor, line.asset) == (minor, fee_minor, asset)


@pytest.mark.parametrize(("units", "currency"), [(1_250, "isk"), (1_001, "ugx"), (12_345, "kwd")])
def test_the_simulator_takes_no_fraction_that_stripe_does_not_settle(simulator: Simulator, units: int, currency: str):
    """Two decimals that are not 00, or a last of three that is not 0, are refused."""
    wanted: Any = {"amount": units, "currency": currency, "payment_method": "pm_card_visa", "confirm": True}
    with pytest.raises(stripe.InvalidRequestError, match="must be a multiple of"):
        simulator.client().v1.payment_intents.create(wanted)


async def test_a_real_payment_needs_a_method_of_its_own(simulator: Simulator):
    """Without a method a test key pays with the test card; a live key declines and asks nobody."""
    with_test_key = open_psp("stripe", settings_for(simulator.url))
    assert isinstance(await with_test_key.authorise(payment(method=None)), Authorised)
    await with_test_key.close()
    with_live_key = open_psp("stripe", settings_for(f"http://127.0.0.1:{free_port()}", stripe_api_key="sk_live_x"))
    answer = await with_live_key.authorise(payment(method=None))
    assert isinstance(answer, Declined) and answer.reason == "payment_method_invalid"
