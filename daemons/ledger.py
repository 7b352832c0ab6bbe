"""Ledger: what the world said becomes entries in the books, and what must not stay goes back.

settlement.succeeded -> succeed -> analytics.recorded | reconciliation.mismatched | refund.approved | refund.requested | refund.reserved | transaction.flagged | transaction.succeeded
settlement.failed -> fail -> analytics.recorded | transaction.failed | transaction.flagged
settlement.unknown -> doubt -> nothing
fraud.flagged -> block -> analytics.recorded | refund.approved | refund.requested | transaction.flagged
every 5 s -> expire -> analytics.recorded | transaction.failed
every 10 s -> prune -> nothing
every 2 s -> keep -> nothing
every checkpoint_every_s -> checkpoint -> nothing
"""  # noqa: E501 - the picture is drawn by the code, a line for each handler

from __future__ import annotations

from pasys.daemon import Daemon
from pasys.db import Unit
from pasys.events import (
    AnalyticsRecorded,
    FraudFlagged,
    ReconciliationMismatched,
    RefundApproved,
    RefundRequested,
    RefundReserved,
    SettlementFailed,
    SettlementSucceeded,
    SettlementUnknown,
    TransactionFailed,
    TransactionFlagged,
    TransactionSucceeded,
)
from pasys.service import event, ledger_checkpoint, ledger_partition, settlement

daemon = Daemon("ledger")


@daemon.on
async def succeed(
    events: list[SettlementSucceeded], unit: Unit
) -> list[
    TransactionSucceeded
    | TransactionFlagged
    | AnalyticsRecorded
    | ReconciliationMismatched
    | RefundRequested
    | RefundApproved
    | RefundReserved
]:
    """The hold becomes money, the merchant is credited, the PSP's fee is booked."""
    return await settlement.succeed(unit, events)  # type: ignore[return-value]


@daemon.on
async def fail(
    events: list[SettlementFailed], unit: Unit
) -> list[TransactionFailed | TransactionFlagged | AnalyticsRecorded]:
    """The hold is released."""
    return await settlement.fail(unit, events)  # type: ignore[return-value]


@daemon.on
async def doubt(events: list[SettlementUnknown], unit: Unit) -> None:
    """The hold stays; the resolver knows when to ask."""
    await settlement.doubt(unit, events)


@daemon.on
async def block(
    events: list[FraudFlagged], unit: Unit
) -> list[TransactionFlagged | AnalyticsRecorded | RefundRequested | RefundApproved]:
    """Fraud before capture releases the hold; after it, everything goes back."""
    return await settlement.block(unit, events)  # type: ignore[return-value]


@daemon.every(5)
async def expire(unit: Unit) -> list[TransactionFailed | AnalyticsRecorded]:
    """Holds end at their deadline."""
    return await settlement.expire(unit)  # type: ignore[return-value]


@daemon.every(10)
async def prune(unit: Unit) -> None:
    """Events are kept long enough to refill the bus, and not for ever."""
    await event.prune(unit)


@daemon.every(2)
async def keep(unit: Unit) -> None:
    """The journal's next partition is there before it is needed, and closed ones get their indexes, a step a tick."""
    await ledger_partition.keep(unit)


@daemon.every("checkpoint_every_s")
async def checkpoint(unit: Unit) -> None:
    """What is new in the books is verified and signed."""
    from pasys.adapters.signer import open_signer  # here, because nothing else of this daemon needs cryptography

    await ledger_checkpoint.checkpoint(unit, open_signer(unit.settings))
