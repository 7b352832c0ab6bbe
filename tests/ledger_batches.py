"""Random batches for the ledger: every kind of transfer, right and wrong, over few accounts so that they meet."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from msgspec.structs import replace

from pasys.domain.ledger import Kind, Purpose, Transfer
from pasys.service.ledger import Answers

STARTING = [Purpose.BOOK, Purpose.DEPOSIT, Purpose.HOLD, Purpose.WITHDRAWAL]
PURPOSES = [*STARTING, *STARTING, Purpose.PAYMENT, Purpose.REFUND_RESERVE, Purpose.FEE]
NOWHERE = 999_999


class Batches:
    """Makes batches that remember what was posted before: to repeat it, to contradict it, to finish its holds."""

    def __init__(self, seed: int, accounts: list[int], asset: str = "USD", *, huge: float = 0.01) -> None:
        self.random = random.Random(seed)
        self.accounts = accounts
        self.asset = asset
        self.huge = huge  # the share of amounts that no account can hold for long
        self.known: list[Transfer] = []
        self.pending: list[Transfer] = []

    def batch(self, size: int, now: datetime) -> list[Transfer]:
        made: list[Transfer] = []
        for i in range(size):
            transfer = self._one(made, now)
            last = i == size - 1
            linked = not last and self.random.random() < 0.15
            made.append(replace(transfer, linked=linked))
        self.known = (self.known + made)[-200:]
        self.pending = (self.pending + [t for t in made if t.kind is Kind.PENDING])[-40:]
        return made

    def _one(self, made: list[Transfer], now: datetime) -> Transfer:
        draw = self.random.random()
        if self.known and draw < 0.05:
            return self._again(self.random.choice(self.known))
        if made and draw < 0.09:
            return self._again(self.random.choice(made[-8:]))
        begun = [t for t in made if t.kind is Kind.PENDING][-5:]
        if (begun or self.pending) and draw < 0.3:
            here = begun and (not self.pending or self.random.random() < 0.4)
            return self._finish(self.random.choice(begun if here else self.pending))
        return self._start(now)

    def _again(self, known: Transfer) -> Transfer:
        draw = self.random.random()
        if draw < 0.7:
            return known
        if draw < 0.8:
            return replace(known, effective_at=None)
        return self._contradict(known)

    def _contradict(self, known: Transfer) -> Transfer:
        """The same id, with one field that is another."""
        others: list[dict[str, Any]] = [
            {"amount_minor": known.amount_minor - 1},
            {"debit": known.debit + 1},
            {"credit": known.credit + 1},
            {"purpose": Purpose.FEE if known.purpose is not Purpose.FEE else Purpose.BOOK},
            {"reference": "tx_3"},
            {"corrects": self._id()},
            {"effective_at": datetime(2020, 1, 1, tzinfo=UTC)},
        ]
        if known.kind < Kind.POST:
            others.append({"kind": Kind.PENDING - known.kind, "expires_at": None})
        else:
            others += [{"kind": Kind.POST + Kind.VOID - known.kind}, {"pending_id": self._id()}]
        other = self.random.choice(others)
        return replace(known, **{name: Kind(value) if name == "kind" else value for name, value in other.items()})

    def _start(self, now: datetime) -> Transfer:
        rare = self.random.random
        amount = self.random.randint(-2, 0) if rare() < 0.02 else self.random.randint(1, 60)
        if rare() < self.huge:
            amount = self.random.choice([2**61, 2**62, 2**63 - 1])
        pending = rare() < 0.3
        deadline = now + timedelta(seconds=self.random.choice([-5, 5, 50])) if pending and rare() < 0.5 else None
        return Transfer(
            id=self._id(),
            debit=self._account(),
            credit=self._account(),
            amount_minor=amount,
            asset=self.asset,
            purpose=self.random.choice(PURPOSES),
            kind=Kind.PENDING if pending else Kind.DIRECT,
            expires_at=deadline,
            effective_at=now - timedelta(days=self.random.randint(1, 9)) if rare() < 0.1 else None,
            corrects=self._id() if rare() < 0.05 else None,
            reference=self.random.choice([None, "tx_1", "rf_2"]),
        )

    def _finish(self, hold: Transfer) -> Transfer:
        kind = self.random.choice([Kind.POST, Kind.POST, Kind.VOID])
        amount, debit, credit, hold_id = hold.amount_minor, hold.debit, hold.credit, hold.id
        if kind is Kind.POST and self.random.random() < 0.5:
            amount = self.random.randint(0, min(amount, 100) + 1) if amount > 0 else amount
        if self.random.random() < 0.04:
            debit, credit = credit, debit
        if self.random.random() < 0.04 and amount < 2**62:
            amount += 1
        if self.random.random() < 0.03:
            hold_id = self._id()
        return Transfer(
            id=self._id(),
            debit=debit,
            credit=credit,
            amount_minor=amount,
            asset=self.asset,
            purpose=Purpose.PAYMENT,
            kind=kind,
            pending_id=hold_id,
        )

    def _account(self) -> int:
        draw = self.random.random()
        if draw < 0.01:
            return NOWHERE
        return self.accounts[0] if draw < 0.25 else self.random.choice(self.accounts)

    def _id(self) -> UUID:
        return UUID(int=self.random.getrandbits(128))


def one_by_one(answers: Answers) -> list[tuple[int, bool, int]]:
    """What became of each transfer: result, replayed, seq."""
    return list(zip(answers.result.tolist(), answers.replayed.tolist(), answers.seq.tolist(), strict=True))
