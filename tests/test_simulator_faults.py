"""The PSP simulator fails on demand and never by itself: faults, webhooks, kill -9."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections import Counter

import httpx
import pytest
import stripe

from pasys.simulator import cards
from tests.simulator_process import KEY, SECRET, Receiver, Simulator, eventually, free_port


@pytest.fixture(scope="module")
def receiver():
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory, receiver):
    options = ("--webhook-url", receiver.url, "--webhook-secret", SECRET, "--webhook-events", "*")
    simulator = Simulator(tmp_path_factory.mktemp("simulator"), *options)
    yield simulator
    simulator.stop()


@pytest.fixture
def psp(running):
    """The simulator without a fault in force."""
    running.control("DELETE", "faults")
    return running


@pytest.fixture
def own(tmp_path):
    """A simulator of the test's own, to be killed."""
    simulator = Simulator(tmp_path / "data")
    yield simulator
    if simulator.process.poll() is None:
        simulator.stop()


def asked(transaction: str, **more: str) -> dict[str, str]:
    return {
        "amount": "1000",
        "currency": "usd",
        "payment_method": "pm_card_visa",
        "confirm": "true",
        "metadata[transaction]": transaction,
        **more,
    }


def create(psp: Simulator, transaction: str) -> httpx.Response:
    headers = {"Idempotency-Key": f"{transaction}:create"}
    return psp.http.post("/v1/payment_intents", data=asked(transaction), headers=headers, timeout=1)


def made(psp: Simulator, transaction: str) -> list[stripe.PaymentIntent]:
    return psp.client().v1.payment_intents.search({"query": f"metadata['transaction']:'{transaction}'"}).data


# -- faults on calls -------------------------------------------------------------------------------------------------

BEFORE = [("error_before", 503), ("error_before", 500), ("timeout_before", None), ("disconnect_before", None)]
AFTER = [("error_after", 503), ("timeout_after", None), ("disconnect_after", None)]


def strike(psp: Simulator, kind: str, status: int | None, transaction: str) -> None:
    """One faulted call, seen from the caller's side."""
    rule = {"status": status} if status else {}
    psp.fault(kind, "payment_intents.create", times=1, metadata={"transaction": transaction}, **rule)
    assert create(psp, f"not {transaction}").status_code == 200
    if status:
        assert create(psp, transaction).status_code == status
    elif kind.startswith("timeout"):
        with pytest.raises(httpx.ReadTimeout):
            create(psp, transaction)
    else:
        with pytest.raises(httpx.TransportError) as failed:
            create(psp, transaction)
        assert not isinstance(failed.value, httpx.TimeoutException)


@pytest.mark.parametrize(("kind", "status"), BEFORE)
def test_fault_before_the_effect_leaves_nothing(psp, kind, status):
    """The PSP saw the call and did nothing; the same key is free and executes when it is tried again."""
    transaction = f"{kind} {status}"
    strike(psp, kind, status, transaction)
    assert made(psp, transaction) == []
    again = create(psp, transaction)
    assert (again.status_code, "idempotent-replayed" in again.headers) == (200, False)
    seen = psp.calls(**{"operation": "payment_intents.create", "metadata[transaction]": transaction})
    assert (seen["count"], seen["faulted"], seen["executed"]) == (2, 1, 1)
    assert seen["data"][1]["fault"] == kind


@pytest.mark.parametrize(("kind", "status"), AFTER)
def test_fault_after_the_effect_loses_only_the_answer(psp, kind, status):
    """The money moved though the caller heard nothing; the same key gives the answer that was lost."""
    transaction = f"{kind} {status}"
    strike(psp, kind, status, transaction)
    [intent] = made(psp, transaction)
    again = create(psp, transaction)
    assert (again.json()["id"], again.headers["idempotent-replayed"]) == (intent.id, "true")
    seen = psp.calls(**{"operation": "payment_intents.create", "metadata[transaction]": transaction})
    assert (seen["executed"], seen["replayed"], seen["faulted"]) == (1, 1, 0)
    assert len(made(psp, transaction)) == 1


def test_a_500_after_the_effect_is_kept(psp):
    """As Stripe keeps its own 500: the key replays it for ever, only a search tells what happened."""
    strike(psp, "error_after", 500, "kept 500")
    again = create(psp, "kept 500")
    assert (again.status_code, again.headers["idempotent-replayed"]) == (500, "true")
    assert [intent.status for intent in made(psp, "kept 500")] == ["succeeded"]


def test_delay_delays(psp):
    """A slow call is answered late and rightly."""
    psp.fault("delay", "payment_intents.*", delay_s=0.3, times=1)
    begun = time.monotonic()
    assert create(psp, "delayed").status_code == 200
    assert time.monotonic() - begun >= 0.3


def test_capture_fault_matches_the_payment_it_captures(psp):
    """A rule on a capture matches the metadata of the intent, not of the request."""
    intents = [psp.pay(1000, capture_method="manual", metadata={"transaction": name}) for name in ("spared", "struck")]
    psp.fault("error_before", "payment_intents.capture", status=502, metadata={"transaction": "struck"})
    statuses = [psp.http.post(f"/v1/payment_intents/{intent.id}/capture").status_code for intent in intents]
    assert statuses == [200, 502]


def test_rates_are_drawn_the_same_every_time(psp):
    """The same seed strikes the same calls in the same order, another seed others, about as often as the rate says."""

    def struck(seed: int) -> list[bool]:
        rule = {"kind": "error_before", "operation": "balance.retrieve", "rate": 0.3, "seed": seed}
        psp.control("PUT", "faults", [rule])
        return [psp.http.get("/v1/balance").status_code == 500 for _ in range(100)]

    first = struck(7)
    assert struck(7) == first != struck(8)
    assert 15 <= sum(first) <= 45


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        ({"kind": "banana"}, "banana"),
        ({"kind": "delay"}, "needs delay_s"),
        ({"kind": "error_before", "operation": "payments.create"}, "payments.create"),
        ({"kind": "error_before", "rate": 1.5}, "rate"),
        ({"kind": "error_before", "status": 200}, "status"),
        ({"kind": "error_before", "colour": "red"}, "colour"),
        ({"kind": "webhook_lost", "operation": "payment_intents.create"}, "event type"),
        ({"kind": "statement_missing", "operation": "banana"}, "balance transaction type"),
    ],
)
def test_wrong_rule_is_refused_with_its_reason(psp, rule, sentence):
    """A rule that could never strike is refused, and none is added."""
    answer = psp.http.post("/_simulator/faults", json=rule)
    assert answer.status_code == 400
    assert sentence in answer.json()["error"]["message"]
    assert psp.control("GET", "faults") == {"rules": []}


# -- statements ------------------------------------------------------------------------------------------------------


def test_statement_faults_change_only_the_list(psp):
    """Wrong, missing and doubled lines show in the list, the same at each reading, and nowhere else."""
    psp.control("DELETE", "data")
    v1 = psp.client().v1
    charges = [psp.pay(1000 + n).latest_charge for n in range(12)]
    true = {line.id: line.amount for line in v1.balance_transactions.list({"limit": 100}).data}
    before = v1.balance.retrieve().pending[0].amount

    def shown(kind: str, **rule) -> list[tuple[str, int]]:
        psp.control("PUT", "faults", {"rules": [{"kind": kind, "operation": "charge", "seed": 3, **rule}]})
        readings = [
            [(line.id, line.amount) for line in v1.balance_transactions.list({"limit": 5}).auto_paging_iter()]
            for _ in range(2)
        ]
        assert readings[0] == readings[1]
        return readings[0]

    wrong = shown("statement_amount", rate=0.5, amount_delta=-7)
    assert {amount - true[line] for line, amount in wrong} == {0, -7}
    missing = shown("statement_missing", rate=0.5)
    assert 0 < len(missing) < 12
    assert len(shown("statement_missing", times=1)) == 11
    doubled = Counter(line for line, _ in shown("statement_duplicate", rate=0.5))
    assert set(doubled) == set(true)
    assert set(doubled.values()) == {1, 2}
    assert all(v1.balance_transactions.retrieve(line).amount == amount for line, amount in true.items())
    assert v1.balance.retrieve().pending[0].amount == before
    assert len(charges) == len(true)


# -- webhooks --------------------------------------------------------------------------------------------------------


def test_webhooks_are_signed_and_tell_what_happened(psp, receiver):
    """Each event arrives under a signature that the official library accepts, and is the event of the list."""
    intent = psp.pay(1000, capture_method="manual")
    psp.client().v1.payment_intents.capture(intent.id)
    wanted = {"payment_intent.created", "payment_intent.amount_capturable_updated", "payment_intent.succeeded"}
    eventually(lambda: set(receiver.about(intent.id)) == wanted)
    sent = next(event for event in reversed(receiver.events) if event["type"] == "payment_intent.succeeded")
    assert sent["data"]["object"]["amount_received"] == 1000
    assert psp.client().v1.events.retrieve(sent["id"]).data.object["id"] == intent.id


def test_refused_webhook_is_sent_again(psp, receiver):
    """Two refusals cost two retries, not the event."""
    eventually(lambda: psp.control("GET", "webhooks")["undelivered"] == 0)
    receiver.refusals = 2
    customer = psp.client().v1.customers.create({})
    eventually(lambda: receiver.about(customer.id) == ["customer.created"])
    assert receiver.refusals == 0
    eventually(lambda: psp.control("GET", "webhooks")["undelivered"] == 0)


def test_webhooks_can_be_lost_doubled_and_late(psp, receiver):
    """Each webhook fault does to its one event what its name says; the events list has them all."""
    psp.fault("webhook_lost", "customer.created", metadata={"fate": "lost"})
    psp.fault("webhook_duplicated", "customer.created", metadata={"fate": "doubled"})
    psp.fault("webhook_delayed", "customer.created", delay_s=0.4, metadata={"fate": "late"})
    v1 = psp.client().v1
    begun = time.monotonic()
    ids = {fate: v1.customers.create({"metadata": {"fate": fate}}).id for fate in ("lost", "doubled", "late", "none")}
    eventually(lambda: receiver.about(ids["late"]))
    assert time.monotonic() - begun >= 0.4
    assert {fate: len(receiver.about(ids[fate])) for fate in ids} == {"lost": 0, "doubled": 2, "late": 1, "none": 1}
    listed = v1.events.list({"type": "customer.created", "limit": 100}).data
    assert {event.data.object["id"] for event in listed} >= set(ids.values())


def test_undelivered_webhooks_survive_kill(tmp_path):
    """Events made while nobody listens arrive, oldest first, after kill -9, at where the one endpoint has moved."""
    simulator = Simulator(tmp_path, "--webhook-url", f"http://127.0.0.1:{free_port()}/gone", "--webhook-secret", SECRET)
    intents = [simulator.pay(100 + n).id for n in range(5)]
    simulator.kill()
    port = free_port()
    simulator.options = ("--webhook-url", f"http://127.0.0.1:{port}/webhooks", "--webhook-secret", SECRET)
    simulator.start()
    assert len(simulator.client().v1.webhook_endpoints.list().data) == 1
    receiver = Receiver(port)
    try:
        eventually(lambda: len(receiver.events) == 5)
        assert receiver.events[0]["data"]["object"]["id"] == intents[0]
        assert {event["data"]["object"]["id"] for event in receiver.events} == set(intents)
    finally:
        receiver.close()
        assert simulator.stop() == 0


# -- kill -9 ---------------------------------------------------------------------------------------------------------


async def pay_until_killed(psp: Simulator, answered: dict[str, str], sent: set[str], worker: int) -> None:
    async with httpx.AsyncClient(base_url=psp.url, headers=psp.http.headers) as client:
        for number in range(10_000):
            transaction = f"{worker}-{number}"
            sent.add(transaction)
            headers = {"Idempotency-Key": transaction}
            try:
                answer = await client.post("/v1/payment_intents", data=asked(transaction), headers=headers)
            except httpx.TransportError:
                return
            answered[transaction] = answer.json()["id"]


async def test_kill_under_load_loses_nothing_that_was_answered(own):
    """Every answered payment is there, retries make no second one, and the balance is still the sum of its lines."""
    answered: dict[str, str] = {}
    sent: set[str] = set()
    workers = [asyncio.create_task(pay_until_killed(own, answered, sent, worker)) for worker in range(8)]
    while len(answered) < 150:
        await asyncio.sleep(0.01)
    own.kill()
    await asyncio.gather(*workers)
    own.start()
    for transaction in sent:
        again = own.http.post(
            "/v1/payment_intents", data=asked(transaction), headers={"Idempotency-Key": transaction}
        ).json()
        assert answered.get(transaction, again["id"]) == again["id"]
    lines = list(own.client().v1.balance_transactions.list({"limit": 100}).auto_paging_iter())
    assert len(lines) == len({line.source for line in lines}) == len(sent)
    assert own.client().v1.balance.retrieve().pending[0].amount == sum(line.net for line in lines)


def test_rules_and_their_counts_survive_kill(own):
    """A rule that may strike twice strikes once before the kill and once after it."""
    own.fault("error_before", "balance.retrieve", times=2, status=503)
    assert own.http.get("/v1/balance").status_code == 503
    own.kill()
    own.start()
    assert [own.http.get("/v1/balance").status_code for _ in range(2)] == [503, 200]
    [rule] = own.control("GET", "faults")["rules"]
    assert (rule["struck"], rule["times"]) == (2, 2)


def test_no_card_number_is_ever_written(own):
    """Neither a test card's number nor a real one's, nor the security code, reaches the disk."""
    numbers = ("4242424242424242", "4000000000009995", "4539578763621486")
    for number in numbers:
        data = {"type": "card", "card[number]": number, "card[exp_month]": "12", "card[exp_year]": "2034"}
        answer = own.http.post(
            "/v1/payment_methods", data={**data, "card[cvc]": "98765"}, headers={"Idempotency-Key": number[-4:]}
        )
        assert answer.status_code == (402 if number == numbers[2] else 200)
    written = b"".join(path.read_bytes() for path in own.data.iterdir())
    assert b"4242" in written
    assert not [secret for secret in (*numbers, "98765") if secret.encode() in written]
    # Nor does a hash of it, which could be guessed back: the fingerprint of a request is taken without it.
    remembered = repr(cards.without_numbers([("card[number]", numbers[2]), ("card[cvc]", "98765"), ("type", "card")]))
    assert remembered == repr([("card[number]", "…1486"), ("type", "card")])


def test_stop_is_prompt_and_the_data_has_one_owner(own):
    """SIGTERM ends it with 0 in spite of a stalled call; a second simulator on the same data is refused."""
    second = subprocess.run(
        [sys.executable, "-m", "pasys.simulator", "--data", str(own.data), "--port", str(free_port())],
        capture_output=True,
        text=True,
        timeout=10,
    )
    assert second.returncode == 1
    assert "another simulator" in second.stderr
    own.fault("timeout_after", "balance.retrieve", delay_s=60)
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(f"{own.url}/v1/balance", headers={"Authorization": f"Bearer {KEY}"}, timeout=0.2)
    begun = time.monotonic()
    assert own.stop() == 0
    assert time.monotonic() - begun < 3


def test_data_can_be_deleted(psp):
    """An emptied simulator knows nothing but its webhook endpoints."""
    intent = psp.pay(100)
    psp.control("DELETE", "data")
    assert psp.http.get(f"/v1/payment_intents/{intent.id}").status_code == 404
    assert psp.calls(operation="payment_intents.create")["count"] == 0
    assert psp.client().v1.balance.retrieve().pending == []
    assert psp.pay(100).status == "succeeded"
