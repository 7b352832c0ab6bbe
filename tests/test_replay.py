"""Refilling a bus that lost its tail changes nothing: neither in the books nor at the PSP."""

from __future__ import annotations

from datetime import timedelta

from pasys import ids
from pasys.bus import Bus
from pasys.events import decode, encode
from pasys.worker import load
from tests.faults_invariants import violations
from tests.faults_kit import open_payers, pay_from, stripe_at_home
from tests.support import daemons, eventually, until_status


async def _everything_again(home, *, age: timedelta) -> int:
    """Publish every event of the log once more, as one that is `age` old; how many there were."""
    async with home.db.unit() as unit:
        rows = await unit.rows("select subject, asset, body from event order by id")
    bus = await Bus(home.settings).connect()
    for row in rows:
        envelope, event = decode(bytes(row.body))
        body = encode(
            event,
            id=envelope.id,
            time=envelope.time - age,
            correlation_id=envelope.correlation_id,
            causation_id=envelope.causation_id,
        )
        subject = f"{bus.prefix}{row.subject}.{row.asset}"
        await bus.js.publish(subject, body, headers={"Nats-Msg-Id": ids.new("again")})
    durables = [f"{name}_{h.name}" for name in ("fraud", "settlement", "ledger") for h in load(name).handlers]

    async def all_done() -> bool:
        return not any([await bus.lag(durable) for durable in durables])

    await eventually(all_done)
    await bus.close()
    return len(rows)


async def test_a_replay_asks_the_psp_nothing(settings):
    """Everything that was ever announced comes again, an hour old: no call at the PSP, and not a row is different."""
    async with stripe_at_home(settings) as home:
        paid = await pay_from(home.db, await open_payers(home.db, 3))
        async with daemons(home.settings):
            for transaction_id in paid:
                await until_status(home.db, transaction_id, "succeeded")
            before = await home.calls("payment_intents.create")
            assert await _everything_again(home, age=timedelta(hours=1)) >= 5 * len(paid)
            after = await home.calls("payment_intents.create")
        assert (before["count"], after["count"]) == (len(paid), len(paid))
        assert await violations(home.db, home.simulator) == []
