"""What Stripe says, in our words: statements, webhooks, amounts and reasons."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import stripe

from pasys.adapters import Declined, Psp, Refunded, open_psp
from pasys.adapters.stripe_currency import CURRENCIES, THREE_DECIMALS, from_stripe, to_stripe
from pasys.adapters.stripe_refusals import REASONS, Refusal, reason_of
from pasys.domain.transaction import FAILURES
from pasys.errors import (
    AmountNotKept,
    AmountNotSendable,
    BadSignature,
)
from pasys.money import Money, asset_of
from tests.psp_kit import ask_until_known, payment, repayment, settings_for, statement, take
from tests.simulator_process import SECRET, Simulator


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


# Stripe: statement and webhooks --------------------------------------------------------------------------------------


async def test_the_statement_says_what_happened(at_stripe: Psp, simulator: Simulator):
    """Charges, refunds, disputes and payouts appear in our units and our sign, with our ids."""
    since = datetime.now(UTC).replace(microsecond=0)
    paid, disputed = payment(1000), payment(2000, method="pm_card_createDispute")
    await take(at_stripe, payment(5000))
    _, captured = await take(at_stripe, paid)
    await take(at_stripe, disputed)
    back = repayment(paid, captured, 400)
    refunded = await at_stripe.refund(back)
    assert isinstance(refunded, Refunded)
    payout = simulator.client().v1.payouts.create({"amount": 100, "currency": "usd"})
    lines = {line.source_id: line for line in await statement(at_stripe, since)}
    charge = lines[captured.charge_reference]
    assert (charge.type, charge.amount_minor, charge.fee_minor, charge.asset) == ("charge", 1000, 59, "USD")
    assert (charge.transaction_id, charge.refund_id) == (paid.transaction_id, None)
    given_back = lines[refunded.psp_reference]
    assert (given_back.type, given_back.amount_minor, given_back.fee_minor) == ("refund", -400, 0)
    assert (given_back.transaction_id, given_back.refund_id) == (paid.transaction_id, back.refund_id)
    assert (lines[payout.id].type, lines[payout.id].amount_minor) == ("payout", -100)
    [taken] = [line for line in lines.values() if line.type == "dispute"]
    assert (taken.amount_minor, taken.fee_minor, taken.transaction_id) == (-2000, 1500, disputed.transaction_id)


@pytest.mark.parametrize(("asset", "minor"), [("JPY", 500), ("KWD", 12340), ("MGA", 50000)])
async def test_amounts_travel_in_stripes_own_units(at_stripe: Psp, asset: str, minor: int):
    """What was asked in ledger units comes back in ledger units, whatever decimals Stripe gives the currency."""
    since = datetime.now(UTC).replace(microsecond=0)
    asked = payment(minor, asset)
    _, captured = await take(at_stripe, asked)
    assert captured.amount == asked.amount
    [line] = [line for line in await statement(at_stripe, since) if line.transaction_id == asked.transaction_id]
    assert (line.amount_minor, line.asset) == (minor, asset)


async def test_a_statement_of_many_pages_loses_nothing(at_stripe: Psp):
    """More lines than a page holds, each of them once."""
    since = datetime.now(UTC).replace(microsecond=0)
    asked = [payment(100 + number) for number in range(105)]
    await asyncio.gather(*(ask_until_known(take, at_stripe, one) for one in asked))
    lines = await statement(at_stripe, since)
    assert {one.transaction_id for one in asked} <= {line.transaction_id for line in lines}
    assert len({line.line_id for line in lines}) == len(lines)


def signed(body: str, *, secret: str = SECRET, age_s: int = 0) -> tuple[bytes, str]:
    header = stripe.WebhookSignature.generate_signature_header(body, secret, int(time.time()) - age_s)
    return body.encode(), header


def event(kind: str, **about: Any) -> str:
    from json import dumps

    return dumps({"id": "evt_1", "object": "event", "type": kind, "data": {"object": {"id": "re_1", **about}}})


async def test_a_webhook_speaks_of_our_ids(at_stripe: Psp):
    """A signed event becomes a notice with the ids from its object's metadata; what is no news for us becomes none."""
    ours = {"transaction_id": "tx_1", "refund_id": "rf_1"}
    told = at_stripe.verify(*signed(event("refund.updated", currency="usd", metadata=ours)))
    assert told is not None
    assert (told.event_id, told.type, told.object_id, told.asset) == ("evt_1", "refund.updated", "re_1", "USD")
    assert (told.transaction_id, told.refund_id) == ("tx_1", "rf_1")
    strange = at_stripe.verify(*signed(event("charge.updated", currency="a.b")))
    assert strange is not None and (strange.asset, strange.transaction_id) == ("XXX", None)
    assert at_stripe.verify(*signed(event("payout.paid"))) is None


async def test_a_signature_has_to_be_ours_and_young(at_stripe: Psp, simulator: Simulator):
    """Another secret, another body, an old one, no event, and no secret at all are each refused."""
    body = event("refund.updated")
    payload, header = signed(body)
    for wrong in (
        signed(body, secret="whsec_other"),
        signed(body, age_s=301),
        (payload + b" ", header),
        signed("[]"),
        signed("not json"),
    ):
        with pytest.raises(BadSignature):
            at_stripe.verify(*wrong)
    without_secret = open_psp("stripe", settings_for(simulator.url, stripe_webhook_secret=None))
    with pytest.raises(BadSignature, match="secret"):
        without_secret.verify(*signed(body, secret=""))


# Stripe: its tables --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("minor", "asset", "units"),
    [
        (1250, "USD", 1250),
        (500, "JPY", 500),
        (5120, "KWD", 5120),
        (5, "ISK", 500),
        (7, "UGX", 700),
        (300, "MGA", 3),
        (1099, "TWD", 1099),
        (1099, "HUF", 1099),
        (99_999_999, "USD", 99_999_999),
        (999_999, "ISK", 99_999_900),
    ],
)
def test_an_amount_is_sent_exactly(minor: int, asset: str, units: int):
    """Stripe's integer, and ours back from it."""
    assert to_stripe(Money(minor, asset)) == units
    assert from_stripe(units, asset.lower()) == Money(minor, asset)
    assert from_stripe(-units, asset.lower()) == Money(-minor, asset)


@pytest.mark.parametrize(
    ("minor", "asset", "reason"),
    [
        (5124, "KWD", "three decimals"),
        (150, "MGA", "whole MGA"),
        (100_000_000, "USD", "digits"),
        (1_000_000, "ISK", "digits"),
        (100, "USDC", "takes no USDC"),
        (100, "IQD", "takes no IQD"),
    ],
)
def test_an_amount_that_cannot_be_sent_is_refused(at_stripe: Psp, minor: int, asset: str, reason: str):
    """By name, and with the reason; nothing is rounded."""
    with pytest.raises(AmountNotSendable, match=reason):
        at_stripe.check(Money(minor, asset))


async def test_what_cannot_be_sent_is_declined_unasked(at_stripe: Psp, simulator: Simulator):
    """An amount that slipped past the check fails the payment without a call."""
    asked = payment(5124, "KWD")
    answer = await at_stripe.authorise(asked)
    assert isinstance(answer, Declined) and answer.reason == "amount_not_accepted"
    assert simulator.calls(**{"metadata[transaction_id]": asked.transaction_id})["count"] == 0


def test_every_currency_of_the_table_is_one_of_ours():
    """Each is in the ledger's own table, and goes there and back without a loss."""
    for code in CURRENCIES:
        assert asset_of(code).kind == "fiat"
        for minor in (100, 12_300, 99_000):
            assert from_stripe(to_stripe(Money(minor, code)), code) == Money(minor, code)
    assert asset_of("KWD").decimals == 3 and "KWD" in THREE_DECIMALS


@pytest.mark.parametrize(("units", "currency"), [(550, "isk"), (100, "usdc"), (100, "zzz")])
def test_a_fraction_of_our_unit_is_not_kept(units: int, currency: str):
    """What Stripe says and the ledger cannot write down is no amount at all."""
    with pytest.raises(AmountNotKept):
        from_stripe(units, currency)


def test_every_word_for_no_has_a_reason():
    """The table leads into the closed list, and what it does not know is declined."""
    assert set(REASONS.values()) <= FAILURES
    assert reason_of(Refusal(status=402, code="card_declined", decline_code="a_new_word")) == "declined"
    assert reason_of(Refusal(status=402, code="expired_card")) == "card_expired"
    assert reason_of(Refusal(status=400, param="currency")) == "currency_not_accepted"
    assert reason_of(Refusal(status=400, code="amount_too_small", param="amount")) == "amount_not_accepted"
