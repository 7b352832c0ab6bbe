"""The PSP simulator keeps Stripe's promises: over the official SDK, against a real process, through kill -9."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import httpx
import pytest
import stripe

from tests.simulator_process import KEY, SECRET, Receiver, Simulator, eventually


@pytest.fixture(scope="module")
def receiver():
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory, receiver):
    options = ("--webhook-url", receiver.url, "--webhook-secret", SECRET, "--refund-delay-s", "0.3")
    simulator = Simulator(tmp_path_factory.mktemp("simulator"), *options)
    yield simulator
    simulator.stop()


@pytest.fixture
def psp(running):
    """The simulator without a fault in force."""
    running.control("DELETE", "faults")
    return running


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    simulator = Simulator(tmp_path_factory.mktemp("second"), "--refund-delay-s", "60")
    yield simulator
    simulator.stop()


@pytest.fixture
def empty(second):
    """A simulator without data, in which slow refunds stay pending."""
    second.control("DELETE", "data")
    return second


# -- payments --------------------------------------------------------------------------------------------------------


def test_payment_lives_from_authorization_to_refund(psp):
    """Authorize, capture less, refund part and rest: every amount is where Stripe has it."""
    v1 = psp.client().v1
    customer = v1.customers.create({"email": "a@example.com", "metadata": {"k": "v"}})
    card = {"number": "4242424242424242", "exp_month": 12, "exp_year": 2034, "cvc": "123"}
    method = v1.payment_methods.create({"type": "card", "card": card})
    v1.payment_methods.attach(method.id, {"customer": customer.id})
    assert [m.id for m in v1.payment_methods.list({"customer": customer.id}).data] == [method.id]
    intent = psp.pay(1000, method.id, customer=customer.id, capture_method="manual")
    assert (intent.status, intent.amount_capturable, intent.amount_received) == ("requires_capture", 1000, 0)
    intent = v1.payment_intents.capture(
        intent.id, {"amount_to_capture": 600, "expand": ["latest_charge.balance_transaction"]}
    )
    assert (intent.status, intent.amount_capturable, intent.amount_received) == ("succeeded", 0, 600)
    line = intent.latest_charge.balance_transaction
    assert (line.amount, line.fee, line.net) == (600, 47, 553)
    assert v1.refunds.create({"payment_intent": intent.id, "amount": 200}).amount == 200
    rest = v1.refunds.create({"charge": intent.latest_charge.id, "reason": "duplicate"})
    assert (rest.amount, rest.status) == (400, "succeeded")
    charge = v1.charges.retrieve(intent.latest_charge.id)
    assert (charge.amount_captured, charge.amount_refunded, charge.refunded) == (600, 600, True)
    with pytest.raises(stripe.InvalidRequestError, match="status of succeeded") as refused:
        v1.payment_intents.cancel(intent.id)
    assert refused.value.code == "payment_intent_unexpected_state"


async def test_canceled_payment_cannot_be_captured(psp):
    """The asynchronous client works too; a released authorization never becomes money."""
    v1 = psp.client().v1
    intent = await v1.payment_intents.create_async(
        {
            "amount": 500,
            "currency": "eur",
            "payment_method": "pm_card_mastercard",
            "confirm": True,
            "capture_method": "manual",
        }
    )
    canceled = await v1.payment_intents.cancel_async(intent.id, {"cancellation_reason": "abandoned"})
    assert (canceled.status, canceled.amount_capturable) == ("canceled", 0)
    with pytest.raises(stripe.InvalidRequestError):
        await v1.payment_intents.capture_async(intent.id)
    listed = await v1.balance_transactions.list_async({"source": intent.latest_charge})
    assert listed.data == []


@pytest.mark.parametrize(
    ("card", "code", "decline_code"),
    [
        ("pm_card_chargeDeclined", "card_declined", "generic_decline"),
        ("pm_card_visa_chargeDeclined", "card_declined", "generic_decline"),
        ("pm_card_visa_chargeDeclinedInsufficientFunds", "card_declined", "insufficient_funds"),
        ("pm_card_visa_chargeDeclinedLostCard", "card_declined", "lost_card"),
        ("pm_card_visa_chargeDeclinedStolenCard", "card_declined", "stolen_card"),
        ("pm_card_chargeDeclinedExpiredCard", "expired_card", "expired_card"),
        ("pm_card_chargeDeclinedIncorrectCvc", "incorrect_cvc", "incorrect_cvc"),
        ("pm_card_chargeDeclinedProcessingError", "processing_error", "processing_error"),
    ],
)
def test_decline_names_its_reason(psp, card, code, decline_code):
    """A decline is a 402 with code and decline code; the failed charge and the intent stay to be read."""
    with pytest.raises(stripe.CardError) as refused:
        psp.pay(700, card)
    error = refused.value.error
    assert (refused.value.http_status, error.code, error.decline_code) == (402, code, decline_code)
    v1 = psp.client().v1
    assert v1.charges.retrieve(error.charge).status == "failed"
    intent = v1.payment_intents.retrieve(error.payment_intent.id)
    assert (intent.status, intent.last_payment_error.decline_code) == ("requires_payment_method", decline_code)
    assert v1.payment_intents.confirm(intent.id, {"payment_method": "pm_card_visa"}).status == "succeeded"


def test_three_d_secure_waits_for_the_customer(psp):
    """Nothing is charged until the customer has authenticated; off session that is a decline."""
    waiting = psp.pay(900, "pm_card_threeDSecure2Required")
    assert (waiting.status, waiting.latest_charge) == ("requires_action", None)
    done = psp.control("POST", f"payment_intents/{waiting.id}/authenticate", {"outcome": "succeeded"})
    assert (done["status"], done["amount_received"]) == ("succeeded", 900)
    with pytest.raises(stripe.CardError) as refused:
        psp.pay(900, "pm_card_threeDSecure2Required", off_session=True)
    assert refused.value.error.decline_code == "authentication_required"


@pytest.mark.parametrize(
    ("parameters", "code", "param"),
    [
        ({"amount": "100", "currency": "usd", "colour": "red"}, "parameter_unknown", "colour"),
        ({"amount": "0", "currency": "usd"}, "parameter_invalid_integer", "amount"),
        ({"amount": "-5", "currency": "usd"}, "parameter_invalid_integer", "amount"),
        ({"amount": "1e3", "currency": "usd"}, "parameter_invalid_integer", "amount"),
        ({"amount": "10.5", "currency": "usd"}, "parameter_invalid_integer", "amount"),
        ({"amount": "100000000", "currency": "usd"}, "amount_too_large", "amount"),
        ({"amount": "1001", "currency": "kwd"}, "parameter_invalid_integer", "amount"),
        ({"currency": "usd"}, "parameter_missing", "amount"),
        ({"amount": "100", "currency": "usd", "customer": "cus_no"}, "resource_missing", "customer"),
        ({"amount": "100", "currency": "xyz"}, None, "currency"),
    ],
)
def test_wrong_request_is_refused(psp, parameters, code, param):
    """Unknown names and impossible amounts are named, and nothing is made."""
    error = psp.refuse("payment_intents", **parameters)
    assert (error["type"], error.get("code"), error["param"]) == ("invalid_request_error", code, param)


def test_three_decimals_in_steps_of_ten(psp):
    """One dinar is 1000 fils, and a refund of half a step is refused like a payment of it."""
    intent = psp.pay(1000, currency="kwd")
    assert psp.refuse("refunds", payment_intent=intent.id, amount="15")["code"] == "parameter_invalid_integer"
    assert psp.pay(7, currency="jpy").amount_received == 7


def test_keys_are_checked(psp):
    """Without the right key nothing answers, the control door included."""
    for path in ("/v1/balance", "/_simulator/faults", "/_simulator/calls"):
        assert httpx.get(psp.url + path).status_code == 401
        assert httpx.get(psp.url + path, headers={"Authorization": "Bearer sk_test_other"}).status_code == 401
        assert httpx.get(psp.url + path, auth=(KEY, "")).status_code == 200


# -- idempotency -----------------------------------------------------------------------------------------------------


def asked(number: int) -> dict:
    return {"amount": number, "currency": "usd", "payment_method": "pm_card_visa", "confirm": "true"}


def test_key_replays_its_first_answer(psp):
    """The same key and parameters in any order give the first answer; other parameters are refused."""
    headers = {"Idempotency-Key": "replay-1"}
    first = psp.http.post("/v1/payment_intents", data=asked(100), headers=headers)
    again = psp.http.post("/v1/payment_intents", data=dict(reversed(asked(100).items())), headers=headers)
    assert again.content == first.content
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    other = psp.http.post("/v1/payment_intents", data=asked(101), headers=headers)
    assert (other.status_code, other.json()["error"]["type"]) == (400, "idempotency_error")
    elsewhere = psp.http.post("/v1/refunds", data=asked(100), headers=headers)
    assert elsewhere.json()["error"]["type"] == "idempotency_error"
    seen = psp.calls(idempotency_key="replay-1")
    assert (seen["count"], seen["executed"], seen["replayed"], seen["refused"]) == (4, 1, 1, 2)


def test_decline_is_kept_and_a_refusal_is_not(psp):
    """A decline replays as the decline it was; a request that failed validation leaves its key free."""
    declined = {**asked(100), "payment_method": "pm_card_chargeDeclined"}
    answers = [
        psp.http.post("/v1/payment_intents", data=declined, headers={"Idempotency-Key": "kept-1"}) for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [402, 402]
    assert answers[0].content == answers[1].content
    statuses = [
        psp.http.post("/v1/payment_intents", data=data, headers={"Idempotency-Key": "kept-2"}).status_code
        for data in (asked(0), asked(100))
    ]
    assert statuses == [400, 200]


async def test_many_at_once_with_one_key_are_one(psp):
    """Twenty parallel calls with one key get twenty equal answers and one payment."""
    async with httpx.AsyncClient(base_url=psp.url, headers=psp.http.headers) as client:
        headers = {"Idempotency-Key": "parallel-1"}
        calls = [client.post("/v1/payment_intents", data=asked(300), headers=headers) for _ in range(20)]
        answers = await asyncio.gather(*calls)
    assert len({answer.content for answer in answers}) == 1
    seen = psp.calls(idempotency_key="parallel-1")
    assert (seen["executed"], seen["replayed"]) == (1, 19)


async def test_key_under_way_is_in_use(psp):
    """While the first call with a key is still being worked on, another is refused with 409."""
    psp.fault("delay", "payment_intents.create", delay_s=0.5, times=1)
    async with httpx.AsyncClient(base_url=psp.url, headers=psp.http.headers) as client:
        calls = [
            client.post("/v1/payment_intents", data=asked(300), headers={"Idempotency-Key": "slow-1"}) for _ in range(2)
        ]
        answers = await asyncio.gather(*calls)
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    refused = next(answer for answer in answers if answer.status_code == 409)
    assert refused.json()["error"]["code"] == "idempotency_key_in_use"


# -- refunds ---------------------------------------------------------------------------------------------------------


async def test_refunds_at_once_never_exceed_the_capture(psp):
    """Twenty concurrent refunds of a tenth: ten succeed, ten are refused."""
    intent = psp.pay(1000)
    async with httpx.AsyncClient(base_url=psp.url, headers=psp.http.headers) as client:
        data = {"payment_intent": intent.id, "amount": "100"}
        answers = await asyncio.gather(*[client.post("/v1/refunds", data=data) for _ in range(20)])
    assert Counter(answer.status_code for answer in answers) == {200: 10, 400: 10}
    codes = {answer.json()["error"]["code"] for answer in answers if answer.status_code == 400}
    assert codes == {"charge_already_refunded"}
    listed = psp.client().v1.refunds.list({"payment_intent": intent.id, "limit": 100})
    assert sum(refund.amount for refund in listed.data) == 1000


def test_refund_is_bounded_by_the_capture(psp):
    """More than is left is refused by its amount, and nothing can be refunded before it is captured."""
    intent = psp.pay(1000, capture_method="manual")
    assert psp.refuse("refunds", payment_intent=intent.id)["code"] == "charge_not_captured"
    psp.client().v1.payment_intents.capture(intent.id, {"amount_to_capture": 400})
    error = psp.refuse("refunds", payment_intent=intent.id, amount="401")
    assert (error["code"], error["param"]) == ("amount_too_large", "amount")
    assert psp.refuse("refunds", payment_intent=intent.id, amount="0")["param"] == "amount"


def test_refund_can_fail_later(psp, receiver):
    """A refund to a dead card comes back: failed, announced, and refundable again."""
    v1 = psp.client().v1
    intent = psp.pay(800, "pm_card_refundFail")
    refund = v1.refunds.create({"payment_intent": intent.id})
    assert refund.status == "succeeded"
    eventually(lambda: v1.refunds.retrieve(refund.id).status == "failed")
    assert v1.charges.retrieve(intent.latest_charge).amount_refunded == 0
    lines = v1.balance_transactions.list({"source": refund.id}).data
    assert [(line.type, line.amount) for line in lines] == [("refund_failure", 800), ("refund", -800)]
    eventually(lambda: "refund.failed" in receiver.about(refund.id))


def test_pending_refund_arrives_or_is_canceled(psp, empty):
    """A pending refund succeeds after a while; until then it can be canceled and the money is back."""
    refund = psp.client().v1.refunds.create({"payment_intent": psp.pay(800, "pm_card_pendingRefund").id})
    assert refund.status == "pending"
    eventually(lambda: psp.client().v1.refunds.retrieve(refund.id).status == "succeeded")
    v1 = empty.client().v1
    intent = empty.pay(800, "pm_card_pendingRefund")
    refund = v1.refunds.create({"payment_intent": intent.id})
    assert v1.refunds.cancel(refund.id).status == "canceled"
    assert v1.refunds.create({"payment_intent": intent.id}).amount == 800


# -- lists and money -------------------------------------------------------------------------------------------------


def test_lists_are_newest_first_with_both_cursors(psp):
    """Pages join without a gap or an overlap, whichever way they are read."""
    v1 = psp.client().v1
    customer = v1.customers.create({}).id
    made = [psp.pay(100 + n, customer=customer).id for n in range(7)][::-1]
    first = v1.payment_intents.list({"customer": customer, "limit": 3})
    assert ([intent.id for intent in first.data], first.has_more) == (made[:3], True)
    second = v1.payment_intents.list({"customer": customer, "limit": 3, "starting_after": made[2]})
    assert [intent.id for intent in second.data] == made[3:6]
    back = v1.payment_intents.list({"customer": customer, "limit": 2, "ending_before": made[5]})
    assert ([intent.id for intent in back.data], back.has_more) == (made[3:5], True)
    paged = v1.payment_intents.list({"customer": customer, "limit": 2}).auto_paging_iter()
    assert [intent.id for intent in paged] == made
    with pytest.raises(stripe.InvalidRequestError, match="No such payment_intent"):
        v1.payment_intents.list({"starting_after": "pi_no"})
    with pytest.raises(stripe.InvalidRequestError, match="unknown parameter"):
        v1.payment_intents.list({"colour": "red"})


def test_created_bounds_are_exact(empty):
    """gt, gte, lt and lte cut between two seconds, not near them."""
    early = empty.pay(100)
    eventually(lambda: time.time() >= early.created + 1)
    late = empty.pay(200)
    v1 = empty.client().v1

    def amounts(**bounds: int) -> list[int]:
        return [line.amount for line in v1.balance_transactions.list({"created": bounds, "type": "charge"}).data]

    assert amounts(gte=early.created) == [200, 100]
    assert amounts(gt=early.created) == [200]
    assert amounts(lt=late.created) == [100]
    assert amounts(lte=late.created) == [200, 100]
    assert amounts(gte=early.created, lt=late.created) == [100]


def test_search_finds_by_metadata(psp):
    """A payment whose answer was lost is found by the caller's own id, at once."""
    intent = psp.pay(100, metadata={"transaction": "tx_search's"})
    psp.pay(100, metadata={"transaction": "tx_other"})
    v1 = psp.client().v1
    found = v1.payment_intents.search({"query": """metadata['transaction']:"tx_search's" AND status:'succeeded'"""})
    assert [item.id for item in found.data] == [intent.id]
    v1.payment_intents.update(intent.id, {"metadata": {"transaction": "tx_moved"}})
    assert v1.payment_intents.search({"query": """metadata['transaction']:"tx_search's\""""}).data == []
    with pytest.raises(stripe.InvalidRequestError, match="parse"):
        v1.payment_intents.search({"query": "banana"})


def test_balance_is_the_sum_of_its_lines(empty):
    """Charges, fees, refunds, a dispute, a failed payment and payouts: per currency the lines add up to the balance."""
    v1 = empty.client().v1
    for code, amount in (("usd", 1000), ("usd", 1017), ("eur", 999), ("jpy", 51)):
        empty.pay(amount, currency=code)
    v1.refunds.create({"payment_intent": empty.pay(500).id, "amount": 123})
    empty.pay(700, "pm_card_bypassPending")
    empty.pay(5000, "pm_card_createDispute")
    with pytest.raises(stripe.CardError):
        empty.pay(400, "pm_card_chargeDeclined")
    lines = list(v1.balance_transactions.list({"limit": 3}).auto_paging_iter())
    fees = {line.amount: line.fee for line in lines if line.type == "charge"}
    assert fees == {1000: 59, 1017: 59, 999: 59, 51: 31, 500: 45, 700: 50, 5000: 175}
    assert all(line.net == line.amount - line.fee for line in lines)
    assert empty.refuse("payouts", amount="9999", currency="eur")["code"] == "balance_insufficient"
    v1.payouts.create({"amount": 100, "currency": "eur"})
    paid = empty.control("POST", "payouts", {"currency": "usd"})
    settled = list(v1.balance_transactions.list({"payout": paid["id"], "limit": 100}).auto_paging_iter())
    assert sum(line.net for line in settled) == 0
    sums: Counter[str] = Counter()
    for line in v1.balance_transactions.list({"limit": 100}).auto_paging_iter():
        sums[line.currency] += line.net
    balance, held = v1.balance.retrieve(), Counter()
    for part in (*balance.available, *balance.pending):
        held[part.currency] += part.amount
    assert {code: held[code] for code in sums} == dict(sums)
    assert held["usd"] == 0


def test_dispute_takes_the_money_until_it_is_won(empty):
    """The dispute card's payment leaves the balance with a fee, and comes back with it when the dispute is won."""
    intent = empty.pay(2000, "pm_card_createDispute")
    v1 = empty.client().v1
    [dispute] = v1.disputes.list({"payment_intent": intent.id}).data
    assert [(line.amount, line.net) for line in dispute.balance_transactions] == [(-2000, -3500)]
    assert empty.refuse("refunds", payment_intent=intent.id)["code"] == "charge_disputed"
    won = v1.disputes.update(dispute.id, {"evidence": {"uncategorized_text": "winning_evidence"}})
    assert (won.status, sum(line.net for line in won.balance_transactions)) == ("won", 0)
    lost = v1.disputes.list({"payment_intent": empty.pay(10, "pm_card_createDispute").id}).data[0]
    assert v1.disputes.close(lost.id).status == "lost"
