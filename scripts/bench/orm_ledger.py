"""A double-entry ledger as it is usually written with an ORM, to measure beside: lock two rows, check, write, commit.

python scripts/bench/orm_ledger.py URL THREADS TRANSFERS
"""

from __future__ import annotations

import random
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import stage
from sqlalchemy import BigInteger, CheckConstraint, Engine, ForeignKey, create_engine, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

ACCOUNTS = 1_000


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "orm_account"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    balance: Mapped[int] = mapped_column(BigInteger, CheckConstraint("balance >= 0"))


class Entry(Base):
    __tablename__ = "orm_entry"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    transfer_id: Mapped[uuid.UUID] = mapped_column(index=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("orm_account.id"), index=True)
    amount: Mapped[int] = mapped_column(BigInteger)
    balance_after: Mapped[int] = mapped_column(BigInteger)
    at: Mapped[datetime] = mapped_column(server_default=func.now())


def transfer(session: Session, debit: int, credit: int, amount: int) -> None:
    wanted = select(Account).where(Account.id.in_((debit, credit))).order_by(Account.id).with_for_update()
    accounts = {account.id: account for account in session.scalars(wanted)}
    if accounts[debit].balance < amount:
        session.rollback()
        return
    transfer_id = uuid.uuid4()
    for number, change in ((debit, -amount), (credit, amount)):
        accounts[number].balance += change
        after = accounts[number].balance
        session.add(Entry(transfer_id=transfer_id, account_id=number, amount=change, balance_after=after))
    session.commit()


def main() -> None:
    url, threads, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1), pool_size=threads)
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all(Account(id=number, balance=10**12) for number in range(1, ACCOUNTS + 1))
        session.commit()
    stage.perform(lambda: moved(engine, threads, count), batch=1)
    Base.metadata.drop_all(engine)


def moved(engine: Engine, threads: int, count: int) -> list[float]:
    """Transfers between accounts drawn at random; the time that each took, in ms."""
    calls: list[float] = []

    def work(seed: int) -> None:
        draw = random.Random(seed)
        with Session(engine) as session:
            for _ in range(count // threads):
                debit, credit = draw.sample(range(1, ACCOUNTS + 1), 2)
                began = time.perf_counter()
                transfer(session, debit, credit, 7)
                calls.append(1000 * (time.perf_counter() - began))

    with ThreadPoolExecutor(threads) as pool:
        for running in [pool.submit(work, seed) for seed in range(threads)]:
            running.result()
    return calls


if __name__ == "__main__":
    main()
