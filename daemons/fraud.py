"""No PSP payment is settled without a verdict, and what an account has done lately is counted on the way.

transaction.created -> judge -> fraud.cleared | fraud.flagged | fraud.review
settlement.failed -> count -> nothing
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pasys.adapters import Counters
from pasys.daemon import Daemon
from pasys.db import Unit
from pasys.domain.fraud import CARD_DECLINES, Scored, Velocity
from pasys.events import FraudCleared, FraudFlagged, FraudReview, SettlementFailed, TransactionCreated
from pasys.service import fraud
from pasys.service.fraud_watch import Watch, open_counters

daemon = Daemon("fraud", doors={Counters: open_counters})


@dataclass(frozen=True)
class Seen:
    """What the payers have done lately, and what the model thinks of it, where one is installed."""

    door: ClassVar[type] = Counters

    velocities: dict[str, Velocity]
    scores: dict[str, Scored]

    @classmethod
    async def read(cls, door: Watch, events: list[TransactionCreated]) -> Seen:
        velocities = await door.count_payments(events)
        return cls(velocities, await door.scores(events, velocities))


@daemon.on
async def judge(
    events: list[TransactionCreated], unit: Unit, seen: Seen
) -> list[FraudCleared | FraudReview | FraudFlagged]:
    return await fraud.judge(unit, events, seen.velocities, seen.scores)


@daemon.on
async def count(event: SettlementFailed, counters: Counters) -> None:
    if event.reason in CARD_DECLINES:
        await counters.count_decline(event.transaction_id)
