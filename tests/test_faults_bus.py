"""The bus may be away, deliver again, or carry what nobody can read: every fact still has its effect, once."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest

from pasys.config import Settings
from pasys.db import Database
from pasys.service import ledger
from tests.faults_kit import drained, nothing_unfinished, parked, payment, send_raw
from tests.faults_nats import own_nats
from tests.faults_said import announce, captured, declined, handled, message, moves_of, noticed
from tests.support import PIPELINE, balance_of, daemons, eventually, open_accounts, pay, until_status


@pytest.mark.parametrize("away_s", [5, pytest.param(60, marks=pytest.mark.slow)])
async def test_nats_is_away_while_payments_are_created(db: Database, settings: Settings, away_s: float) -> None:
    """Creating does not need the bus: every payment is accepted, none is lost, and all settle when it is back."""
    async with db.unit() as unit:
        await open_accounts(unit)
    async with own_nats() as nats:
        await nats.start()
        async with daemons(msgspec.structs.replace(settings, nats_url=nats.url)):
            paid = [await pay(db, "10.00") for _ in range(5)]
            await nats.kill()
            until = time.monotonic() + away_s
            while time.monotonic() < until:
                paid.append(await pay(db, "10.00", key=f"away-{len(paid)}"))
                await asyncio.sleep(away_s / 15)
            await nats.start()
            for transaction_id in paid:
                await until_status(db, transaction_id, "succeeded", within_s=30)
    assert (await balance_of(db, "shop")).minor == 1_000 * len(paid)
    async with db.unit() as unit:
        assert (await ledger.verify(unit)).ok


async def test_a_daemon_that_starts_without_nats_waits_for_it(db: Database, settings: Settings) -> None:
    """It does not exit because the bus is down at boot."""
    async with db.unit() as unit:
        await open_accounts(unit)
    transaction_id = await pay(db, "10.00")
    async with own_nats() as nats, daemons(msgspec.structs.replace(settings, nats_url=nats.url)):
        await asyncio.sleep(1.0)
        assert (await payment(db, transaction_id)).status == "pending"
        await nats.start()
        await until_status(db, transaction_id, "succeeded")


async def test_delivered_three_times_the_state_is_the_same(db: Database, settings: Settings) -> None:
    """At-least-once delivery becomes exactly-once bookkeeping, for single messages as for a batch of the same."""
    async with db.unit() as unit:
        await open_accounts(unit)
    paid, failed = await pay(db, "10.00"), await pay(db, "10.00")
    bodies = [message(captured(paid, 1_000), "evt_a"), message(declined(failed), "evt_b")]
    async with daemons(settings, "ledger", "ledger"):
        for _ in range(3):
            await send_raw(settings, ("settlement.succeeded.USD", bodies[0]), ("settlement.failed.USD", bodies[1]))
        await send_raw(settings, *[("settlement.succeeded.USD", bodies[0])] * 3)
        await until_status(db, paid, "succeeded")
        await until_status(db, failed, "failed")
        await eventually(lambda: drained(settings, "ledger_succeed"))
    assert (len(await moves_of(db, paid)), len(await moves_of(db, failed))) == (3, 3)
    assert (await balance_of(db, "shop")).minor == 1_000
    async with db.unit() as unit:
        assert await unit.value("select count(*) from inbox where event_id = 'evt_a'") == 1
        assert (await ledger.verify(unit)).ok


async def test_poison_is_parked_with_its_reason_and_holds_nobody_back(db: Database, settings: Settings) -> None:
    """What cannot be read, what is from a newer version, and what no rule allows stand in DEAD; the others pass."""
    async with db.unit() as unit:
        await open_accounts(unit)
    paid = [await pay(db, "10.00") for _ in range(5)]
    newer = message(captured(paid[0], 1_000), "evt_newer").replace(b'"version":1', b'"version":99')
    nothing = message(captured(paid[1], 0), "evt_nothing")
    lacking = message(captured(paid[0], 1_000), "evt_lacking").replace(b'"captured_minor":1000,', b"")
    poison = [b"no json at all", b"\\xff\\x00", newer, nothing, lacking]
    async with daemons(settings, *PIPELINE):
        mixed = [("settlement.succeeded.USD", body) for body in poison]
        await send_raw(settings, *mixed)
        await announce(db, *(captured(id, 1_000) for id in paid[2:]))
        for transaction_id in paid:
            await until_status(db, transaction_id, "succeeded")
        await eventually(lambda: _parked(settings, len(poison)))
    reasons = sorted(letter.reason for letter in await parked(settings))
    assert {letter.handler for letter in await parked(settings)} == {"ledger.succeed"}
    assert sum("UnreadableEvent" in reason for reason in reasons) == 4
    assert any("99 is newer" in reason for reason in reasons)
    assert any("positive" in reason for reason in reasons), reasons
    async with db.unit() as unit:
        assert (await ledger.verify(unit)).ok


async def test_a_stale_webhook_asks_nobody(db: Database, settings: Settings) -> None:
    """What a PSP tells again, late, or of somebody else's payment changes nothing and causes no call."""
    async with db.unit() as unit:
        await open_accounts(unit)
    async with daemons(settings):
        transaction_id = await pay(db, "10.00")
        await until_status(db, transaction_id, "succeeded")
        before = await moves_of(db, transaction_id)
        await announce(db, *(noticed(transaction_id) for _ in range(3)), noticed("tx_of_somebody_else"))
        await handled(db, "settlement.notice", 4)
        await nothing_unfinished(db)
    assert await moves_of(db, transaction_id) == before
    async with db.unit() as unit:
        assert await unit.value("select count(*) from event where subject = 'settlement.requested'") == 1


async def _parked(settings: Settings, count: int) -> bool:
    return len(await parked(settings)) == count
