"""Whatever dies, stays silent or lies: nothing is lost, nothing is charged or refunded twice, and the books hold."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from pasys.config import Settings
from pasys.errors import NothingToResolve
from pasys.service import settlement
from tests.faults_invariants import violations
from tests.faults_kit import (
    all_status,
    ask_one_refund,
    nothing_unfinished,
    open_payers,
    own_space,
    pay_from,
    payment,
    stripe_at_home,
    unknown,
)
from tests.faults_said import handled
from tests.faults_scenario import Place, plan, quiet, started_simulator
from tests.simulator_process import free_port
from tests.support import daemons, eventually, until_status

ROOT = Path(__file__).parent.parent

# A dozen of the points that tests/faults_points.py names; scripts/fault_run.py goes through all of them.
DEATHS = [
    ("before the verdict is committed", "commit.before", "fraud.judge"),
    ("after a commit, before it is announced", "publish.before", "settlement.requested"),
    ("after it was announced, before the outbox is tidied", "tidy.before", ""),
    ("before the PSP is asked", "psp.before", "authorise"),
    ("while the request is on its way", "psp.on_its_way", "capture"),
    ("after the PSP's commit, before its answer is recorded", "psp.after", "capture"),
    ("between the claim and the posting", "claim.after", "ledger.succeed"),
    ("after the posting is committed, before the ack", "ack.before", "ledger.succeed"),
    ("before the refund's reservation is committed", "commit.before", "refund.reserve"),
    ("after the PSP has paid back, before that is recorded", "psp.after", "refund"),
    ("after the answer to a refund is recorded, before the ack", "commit.after", "refund.give_back"),
    ("before the refund is booked", "handle.after", "refund.complete"),
]


# Deaths ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
async def place(servers: Settings, template: str) -> AsyncIterator[Place]:
    """A PSP that sends webhooks, and books of their own; one death follows the other."""
    settings = await own_space(servers, template)
    folder, port = Path(tempfile.mkdtemp(prefix="pasys-t")), free_port()
    simulator = await asyncio.to_thread(started_simulator, folder, webhook_port=port)
    opened = await Place.open(settings, simulator, webhook_port=port)
    yield opened
    await opened.close()
    await asyncio.to_thread(simulator.stop)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize(("point", "where"), [pytest.param(*death[1:], id=death[0]) for death in DEATHS])
async def test_kill_9(place: Place, point: str, where: str) -> None:
    """A worker that is killed at this point leaves work that another one finishes, once."""
    wanted = quiet(plan(1, point=(point, where)))
    seen = await place.run(wanted)
    assert seen.wrong == [], wanted
    assert seen.died_at == [f"{point}@{where}"], "the worker never came to this point"


@pytest.mark.slow
def test_kill_9_everywhere() -> None:
    """Two hundred seeds, or PASYS_TEST_FAULT_RUNS: every point, with a PSP that is slow, silent or repeats itself."""
    runs = os.environ.get("PASYS_TEST_FAULT_RUNS", "200")
    command = [sys.executable, str(ROOT / "scripts" / "fault_run.py"), "--runs", runs, "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3_000, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# The PSP --------------------------------------------------------------------------------------------------------------

CALLS = ("payment_intents.create", "payment_intents.capture", "refunds.create")
FAULTS = [
    *({"kind": kind, "status": status} for kind in ("error_before", "error_after") for status in (500, 502, 503, 504)),
    {"kind": "timeout_before"},
    {"kind": "timeout_after"},
    {"kind": "disconnect_before"},
    {"kind": "disconnect_after"},
    {"kind": "delay", "delay_s": 0.7},
]


async def test_a_psp_that_does_not_say_what_happened(settings: Settings) -> None:
    """5xx, silence and cut lines, before and after the effect: no payment fails, none is charged or refunded twice."""
    async with stripe_at_home(settings) as home:
        db = home.db
        wrong = [(operation, fault) for operation in CALLS for fault in FAULTS]
        paid = await pay_from(db, await open_payers(db, len(wrong)))
        for transaction_id, (operation, fault) in zip(paid, wrong, strict=True):
            await home.fault(operation=operation, times=2, metadata={"transaction_id": transaction_id}, **fault)
        async with daemons(home.settings):
            await all_status(db, paid, "succeeded", within_s=60)
            for transaction_id in paid:
                await ask_one_refund(db, transaction_id, 2_000)
            await nothing_unfinished(db)
        for counted, step in zip(CALLS, ("authorise", "capture", "refund"), strict=True):
            calls = await home.calls(counted, limit="1000")
            assert calls["executed"] == len(paid), counted
            # Never under a new key: as many keys as there were things to do, and each of them ours.
            keys = {call["idempotency_key"] for call in calls["data"]}
            assert len(keys) == len(paid) and all(key.endswith(f":{step}") for key in keys)
        async with db.unit() as unit:
            outcomes = await unit.rows("select outcome, count(*) from attempt group by 1")
        assert [tuple(row) for row in outcomes] == [("succeeded", 3 * len(paid))]
        assert await violations(db, home.simulator) == []


async def test_a_500_that_stripe_keeps_is_found_by_search(settings: Settings) -> None:
    """Stripe answers 500 for ever under a key whose request came to grief: what it did is looked for by our id."""
    async with stripe_at_home(settings) as home:
        db = home.db
        (transaction_id,) = await pay_from(db, await open_payers(db, 1))
        await home.fault("error_after", "payment_intents.create", status=500, times=1)
        async with daemons(home.settings):
            row = await until_status(db, transaction_id, "succeeded", within_s=20)
        created = await home.calls("payment_intents.create")
        assert (created["executed"], created["replayed"]) == (1, 1)
        assert (await home.calls("payment_intents.search"))["count"] == 1
        assert row.captured_minor == 5_000


async def test_the_operator_sees_what_is_unknown_and_asks_again(settings: Settings) -> None:
    """After its deadline an outcome is asked for by nobody but an operator: it stands in a queue, and never fails."""
    async with stripe_at_home(settings, outcome_deadline_s=0) as home:
        db = home.db
        (transaction_id,) = await pay_from(db, await open_payers(db, 1))
        await asyncio.to_thread(home.simulator.kill)
        async with daemons(home.settings):
            await eventually(lambda: unknown(db))
            await asyncio.to_thread(home.simulator.start)
            await asyncio.sleep(3 * home.settings.resolve_every_s + 1.0)
            (waiting,) = await unknown(db)
            assert (waiting.id, waiting.status, waiting.outcome) == (transaction_id, "pending", "unknown")
            async with db.unit() as unit:
                await settlement.ask_again(unit, transaction_id)
            await until_status(db, transaction_id, "succeeded")
            with pytest.raises(NothingToResolve):
                async with db.unit() as unit:
                    await settlement.ask_again(unit, transaction_id)
        assert await unknown(db) == []


@pytest.mark.parametrize("away_s", [3, pytest.param(60, marks=pytest.mark.slow)])
async def test_the_psp_is_away(settings: Settings, away_s: float) -> None:
    """Killed while payments are under way: none fails, all settle when it is back, none is charged twice."""
    async with stripe_at_home(settings) as home:
        db = home.db
        payers = await open_payers(db, 12)
        async with daemons(home.settings):
            paid = await pay_from(db, payers[:6])
            await asyncio.to_thread(home.simulator.kill)
            paid += await pay_from(db, payers[6:])
            until = time.monotonic() + away_s
            while time.monotonic() < until:
                async with db.unit() as unit:
                    assert await unit.value("select count(*) from transaction where status = 'failed'") == 0
                await asyncio.sleep(0.2)
            assert await unknown(db)
            await asyncio.to_thread(home.simulator.start)
            await all_status(db, paid, "succeeded", within_s=90)
        assert (await home.calls("payment_intents.capture"))["executed"] == len(paid)
        assert await violations(db, home.simulator) == []


async def test_a_key_that_is_missing_fails_no_payment(settings: Settings) -> None:
    """A settlement daemon that was started without the PSP's key asks nobody, and says no for nobody."""
    async with stripe_at_home(settings) as home:
        db = home.db
        (transaction_id,) = await pay_from(db, await open_payers(db, 1))
        async with daemons(msgspec.structs.replace(home.settings, stripe_api_key=None)):
            await handled(db, "settlement.prepare", 1)
            await asyncio.sleep(1.0)
            assert (await payment(db, transaction_id)).status == "pending"
        async with daemons(home.settings):
            await until_status(db, transaction_id, "succeeded", within_s=20)
        assert await violations(db, home.simulator) == []
