"""The books of a test and the statement that a PSP would give of them, for the tests of reconciliation."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from daemons import reconciliation as daemon
from pasys import ids
from pasys.db import Database
from pasys.events import (
    FraudCleared,
    ReconciliationFetched,
    RefundCompleted,
    SettlementSucceeded,
    StatementLine,
)
from pasys.money import Money, format_minor
from pasys.service import ledger_verify, reconciliation, refund, settlement
from tests.support import balance_of, pay

PSP = "instant"
RECEIVABLE = f"psp:{PSP}:receivable"
NOW = datetime.now(UTC)
SETTLED = timedelta(minutes=5)


class World:
    """The books of a test, and the statement that a PSP would give of them."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.now = datetime.now(UTC)
        self.lines: list[StatementLine] = []

    async def captured(
        self,
        amount_minor: int = 10_000,
        fee_minor: int = 320,
        asset: str = "USD",
        *,
        under_way: timedelta = timedelta(),
    ) -> str:
        """A payment that was captured, so long after the PSP was first asked, and its line; its transaction's id."""
        amount = format_minor(amount_minor, asset)
        transaction_id = await pay(self.db, amount, asset=asset, rail=PSP)
        cleared = FraudCleared(asset=asset, transaction_id=transaction_id, decision_id="fd_1", score=0.0)
        async with self.db.unit(now=self.now - under_way) as unit:
            await settlement.prepare(unit, [cleared])
        async with self.db.unit(now=self.now) as unit:
            await settlement.succeed(unit, [self.answer(transaction_id, amount_minor, fee_minor, asset)])
        self.list(
            "charge", amount_minor, fee_minor, asset, transaction_id=transaction_id, source=f"ch_{transaction_id}"
        )
        return transaction_id

    @staticmethod
    def answer(transaction_id: str, amount_minor: int, fee_minor: int | None, asset: str) -> SettlementSucceeded:
        return SettlementSucceeded(
            asset=asset,
            transaction_id=transaction_id,
            psp=PSP,
            psp_reference=f"pi_{transaction_id}",
            charge_reference=f"ch_{transaction_id}",
            captured_minor=amount_minor,
            fee_minor=fee_minor,
            auth_code=None,
            processor_code=None,
            authorise_ms=1,
            capture_ms=1,
        )

    async def refunded(self, transaction_id: str, amount_minor: int, asset: str = "USD") -> str:
        """A refund that was completed, and its line; its id."""
        async with self.db.unit(now=self.now) as unit:
            asked = await refund.request(unit, transaction_id, amount=Money(amount_minor, asset))
            assert await refund.reserve(unit, asked.refund_id)
            assert await refund.send(unit, asked.refund_id)
            done = RefundCompleted(
                asset=asset,
                refund_id=asked.refund_id,
                transaction_id=transaction_id,
                psp_reference=f"re_{asked.refund_id}",
                latency_ms=1,
            )
            assert await refund.complete(unit, done)
        self.list("refund", -amount_minor, 0, asset, refund_id=asked.refund_id, source=f"re_{asked.refund_id}")
        return asked.refund_id

    def list(
        self,
        type: str,
        amount_minor: int,
        fee_minor: int = 0,
        asset: str = "USD",
        *,
        transaction_id: str | None = None,
        refund_id: str | None = None,
        source: str | None = None,
    ) -> StatementLine:
        line = StatementLine(
            line_id=ids.new("txn"),
            type=type,
            asset=asset,
            amount_minor=amount_minor,
            fee_minor=fee_minor,
            source_id=source,
            transaction_id=transaction_id,
            refund_id=refund_id,
            status="available",
            created_at=self.now.replace(microsecond=0),
        )
        self.lines.append(line)
        return line

    def change(self, place: int, **changed: Any) -> StatementLine:
        self.lines[place] = msgspec.structs.replace(self.lines[place], **changed)
        return self.lines[place]

    async def reconcile(
        self, *, after: timedelta = SETTLED, pages: int = 1, since: datetime | None = None
    ) -> tuple[reconciliation.RunReport, list[Any]]:
        """A run over the statement as it is now, and what it announced."""
        now = self.now + after
        async with self.db.unit(now=now) as unit:
            row = await reconciliation.start(unit, PSP, since=since)
        said: list[Any] = []
        listed = [line for line in self.lines if since is None or line.created_at >= since]
        for page in range(pages):
            event = ReconciliationFetched(
                asset="XXX",
                run_id=row.run_id,
                psp=PSP,
                since=since or reconciliation.EPOCH,
                until=row.until,
                lines=listed[page::pages],
                cursor=None if page == pages - 1 else f"page {page}",
            )
            async with self.db.unit(now=now) as unit:
                announced = await daemon.match(event, unit)
                unit.emit(*announced)
            said += announced
        async with self.db.unit() as unit:
            return await reconciliation.run(unit, row.run_id), said

    async def resolve(self, break_id: str, **how: Any) -> reconciliation.BreakRow:
        async with self.db.unit() as unit:
            return await reconciliation.resolve(unit, break_id, **how)

    def net_minor(self, asset: str = "USD") -> int:
        """What the statement says that the PSP owes us."""
        return sum(line.amount_minor - line.fee_minor for line in self.lines if line.asset == asset)

    async def owed_minor(self, asset: str = "USD") -> int:
        """What the books say that the PSP owes us."""
        return (await balance_of(self.db, RECEIVABLE, asset)).minor

    async def hold(self) -> bool:
        async with self.db.unit() as unit:
            return (await ledger_verify.verify(unit)).ok
