"""One suite for every installed PSP adapter, and a second opinion on Stripe's: somebody else's idea of Stripe."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from pasys.adapters import Declined, Psp, Refunded, installed_psps, open_psp
from pasys.domain.transaction import FAILURES
from pasys.errors import (
    AmountNotSendable,
    BadSignature,
    UnknownRail,
)
from pasys.money import Money
from tests.psp_kit import ask_until_known, payment, repayment, settings_for, statement, take
from tests.simulator_process import Simulator, eventually, free_port

DECLINES = {
    "pm_card_chargeDeclined": "declined",
    "pm_card_visa_chargeDeclined": "declined",
    "pm_card_chargeDeclinedInsufficientFunds": "insufficient_funds",
    "pm_card_visa_chargeDeclinedInsufficientFunds": "insufficient_funds",
    "pm_card_chargeDeclinedLostCard": "card_lost_or_stolen",
    "pm_card_chargeDeclinedStolenCard": "card_lost_or_stolen",
    "pm_card_chargeDeclinedExpiredCard": "card_expired",
    "pm_card_chargeDeclinedIncorrectCvc": "security_code_wrong",
    "pm_card_chargeDeclinedProcessingError": "processing_error",
    "pm_card_chargeDeclinedVelocityLimitExceeded": "declined",
    "pm_card_chargeDeclinedFraudulent": "suspected_fraud",
    "pm_card_threeDSecure2Required": "authentication_required",
    "pm_card_authenticationRequired": "authentication_required",
    "no_such_method": "payment_method_invalid",
}


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    running = Simulator(tmp_path_factory.mktemp("psp"), "--refund-delay-s", "0.3")
    yield running
    running.stop()


@pytest.fixture(params=installed_psps())
async def psp(request: pytest.FixtureRequest, simulator: Simulator) -> AsyncIterator[Psp]:
    """Every installed adapter, one after the other."""
    simulator.control("DELETE", "faults")
    opened = open_psp(request.param, settings_for(simulator.url))
    yield opened
    await opened.close()


# Every adapter -------------------------------------------------------------------------------------------------------


async def test_takes_and_gives_back(psp: Psp):
    """A payment is authorised, captured for its whole amount, and partly refunded, each with a reference."""
    asked = payment(1250)
    authorised, captured = await take(psp, asked)
    assert authorised.psp_reference and authorised.auth_code
    assert captured.psp_reference == authorised.psp_reference
    assert captured.charge_reference
    assert captured.amount == asked.amount
    assert captured.fee == Money(66, "USD")
    refunded = await psp.refund(repayment(asked, captured, 500))
    assert isinstance(refunded, Refunded) and refunded.psp_reference


async def test_the_same_key_moves_money_once(psp: Psp):
    """Asked again, each step gives the answer it gave before."""
    asked = payment()
    first = await take(psp, asked)
    assert await take(psp, asked) == first
    back = repayment(asked, first[1], 500)
    assert await psp.refund(back) == await psp.refund(back)


async def test_asked_by_many_at_once(psp: Psp):
    """Eight copies that ask at once get one payment and one refund, or hear that it is not known yet."""
    asked = payment()
    answers = await asyncio.gather(*(ask_until_known(take, psp, asked) for _ in range(8)))
    assert len(set(answers)) == 1
    back = repayment(asked, answers[0][1], 500)
    assert len(set(await asyncio.gather(*(ask_until_known(psp.refund, back) for _ in range(8))))) == 1


@pytest.mark.parametrize(("method", "reason"), DECLINES.items())
async def test_a_decline_has_a_reason_of_ours(psp: Psp, method: str, reason: str):
    """Whatever the PSP calls it, the reason is from the closed list, and the same when asked again."""
    asked = payment(method=method)
    answer = await psp.authorise(asked)
    assert isinstance(answer, Declined)
    assert answer.reason == reason and reason in FAILURES
    assert answer.processor_code
    assert await psp.authorise(asked) == answer


@pytest.mark.parametrize("minor", [0, -1])
async def test_what_is_not_positive_cannot_be_sent(psp: Psp, minor: int):
    """A named refusal, before anybody is asked."""
    with pytest.raises(AmountNotSendable):
        psp.check(Money(minor, "USD"))
    psp.check(Money(1, "USD"))


async def test_a_statement_ends(psp: Psp):
    """Its pages lead to a last one, no line stands in it twice, and all lines are of the asked time."""
    since = datetime.now(UTC).replace(microsecond=0)
    await take(psp, payment())
    lines = await statement(psp, since)
    assert len({line.line_id for line in lines}) == len(lines)
    assert all(line.created_at >= since for line in lines)


async def test_what_is_not_signed_says_nothing(psp: Psp):
    """A webhook that nobody signed never becomes a notice."""
    for payload in (b"", b"{}", b"\xff\xfe", b'{"id":"evt_1","type":"charge.refunded"}'):
        for signature in (None, "", "t=1,v1=00", "garbage"):
            try:
                assert psp.verify(payload, signature) is None
            except BadSignature as error:
                assert error.facts["reason"]


async def test_closes_unused(simulator: Simulator):
    """An adapter that was never asked can be closed, and an adapter that does not exist cannot be opened."""
    for name in installed_psps():
        await open_psp(name, settings_for(simulator.url)).close()
    with pytest.raises(UnknownRail):
        open_psp("nobody", settings_for(simulator.url))


# A second opinion ----------------------------------------------------------------------------------------------------


@pytest.fixture
def localstripe(tmp_path: Any) -> Iterator[str]:
    """localstripe as a process of its own, which keeps its file in a folder of its own."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "localstripe", "--port", str(port), "--from-scratch"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        if process.poll() is not None:
            pytest.skip("localstripe is not installed")
        try:
            request = urllib.request.Request(f"{url}/v1/balance", headers={"Authorization": "Bearer sk_test_12345"})
            with urllib.request.urlopen(request, timeout=2) as response:
                return response.status == 200
        except OSError:
            return False

    eventually(answers, deadline_s=20)
    yield url
    process.send_signal(signal.SIGKILL)
    process.wait()


async def test_the_happy_path_against_localstripe(localstripe: str):
    """Somebody else's idea of Stripe takes and gives back the same money from the same adapter."""
    psp = open_psp("stripe", settings_for(localstripe, stripe_api_key="sk_test_12345", psp_timeout_s=10.0))
    asked = payment(1250, method=None)
    authorised, captured = await take(psp, asked)
    assert captured.amount == asked.amount
    assert captured.psp_reference == authorised.psp_reference
    assert isinstance(await psp.refund(repayment(asked, captured, 500)), Refunded)
    await psp.close()
