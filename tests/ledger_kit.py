"""What ledger tests share: people with funds, transfers in one line, a batch beside the oracle's, and bad luck."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from msgspec.structs import replace

from pasys.db import Database, Unit
from pasys.domain import ledger_chain
from pasys.domain.ledger import Hold, Kind, Purpose, Recorded, Result, Transfer
from pasys.domain.ledger_batch import Accounts, Books, Verdict
from pasys.domain.ledger_columns import Columns
from pasys.domain.ledger_rules import judge, judge_together
from pasys.driver import as_owner
from pasys.service import account, ledger, ledger_memory, ledger_poster
from pasys.service.ledger_poster import Poster
from tests.ledger_batches import Batches
from tests.ledger_model import Model, ModelAccount

COUNTERS = ("version", "debits_pending", "debits_posted", "credits_pending", "credits_posted")
T0 = datetime(2026, 1, 1, tzinfo=UTC)
# The definition of the chain, computed by the database itself with its own sha256.
CHAIN = """
with recursive chain as (
    select 0::int8 as seq, sha256(convert_to('pasys journal 1 ' || %(asset)s, 'UTF8')) as hash, null::int8 as seal
    union all
    select t.seq, sha256(c.hash || ledger_row_bytes(t)), t.seal
      from chain c join transfer t on t.asset = %(asset)s and t.seq = c.seq + 1)
select seq, ('x' || encode(substring(hash for 8), 'hex'))::bit(64)::int8 as wanted, seal, hash from chain
 where seq > 0 order by seq
"""
WITHIN_S = 20  # what a test waits for has come long before, or never will
STATUS = {"active": 0, "frozen": 1, "closed": 2}


def direct(debit: int, credit: int, amount_minor: int, *, asset: str = "USD", **more: object) -> Transfer:
    fields: dict[str, object] = {"purpose": Purpose.BOOK} | more
    return Transfer(debit=debit, credit=credit, amount_minor=amount_minor, asset=asset, **fields)  # type: ignore[arg-type]


def hold_of(transfer: Transfer) -> Hold:
    return Hold(
        id=transfer.id,
        debit=transfer.debit,
        credit=transfer.credit,
        amount_minor=transfer.amount_minor,
        asset=transfer.asset,
        expires_at=transfer.expires_at,
        reference=transfer.reference,
    )


# What somebody would run who has changed rows, and can write to everything: the chain fits again.
SEAL_ANEW = """
create function pg_temp.rewrite() returns void language plpgsql as $$
declare
    t transfer; hash bytea := sha256(convert_to('pasys journal 1 USD', 'UTF8'));
begin
    for t in select * from transfer where asset = 'USD' order by seq loop
        hash := sha256(hash || ledger_row_bytes(t));
        update transfer set seal = ('x' || encode(substring(hash for 8), 'hex'))::bit(64)::int8
         where asset = 'USD' and seq = t.seq;
    end loop;
    update asset set last_hash = hash where code = 'USD';
end $$;
select pg_temp.rewrite()
"""


async def people(unit: Unit, *names: str, asset: str = "USD", funds: int = 0) -> list[int]:
    """Customers, each with some funds."""
    numbers = [(await account.open(unit, name=name, asset=asset)).number for name in names]
    if funds:
        source = await account.system(unit, "external:deposits", asset)
        await ledger.post(
            unit, [direct(source, number, funds, asset=asset, purpose=Purpose.DEPOSIT) for number in numbers]
        )
    return numbers


async def world(db: Database, users: int = 5) -> tuple[Model, list[int]]:
    """Accounts in the database, and the same in the oracle."""
    oracle = Model("USD")
    async with db.unit() as unit:
        source = await account.system(unit, "external:deposits", "USD")
        numbers = [source, *await people(unit, *[f"user_{i}" for i in range(users)])]
        for number in numbers:
            row = await unit.row("select flags from account where id = %(id)s", id=number)
            oracle.accounts[number] = ModelAccount("USD", row.flags)
    return oracle, numbers


async def agree(db: Database, oracle: Model) -> None:
    """Accounts as everybody reads them, journal and holds are those of the oracle, and the books verify."""
    async with db.unit() as unit:
        for number, one in oracle.accounts.items():
            row = await unit.row("select * from account_now where id = %(id)s", id=number)
            assert [getattr(row, name) for name in COUNTERS] == [getattr(one, name) for name in COUNTERS]
        rows = await ledger.transfers(unit, asset="USD", limit=10_000)
        assert [(r.id, r.result, r.seq) for r in rows] == [(r.transfer.id, r.result, r.seq) for r in oracle.journal]
        assert await unit.value("select count(*) from hold") == len(oracle.holds)
        assert (await ledger.verify(unit)).findings == []


async def posted(unit: Unit, number: int) -> int:
    return (await ledger.balances(unit, [number]))[number].posted.minor


async def unsealed(unit: Unit, asset: str) -> list[int]:
    """The rows whose seal is not that of the chain; the last one too where the asset's row has another hash."""
    rows = await unit.rows(CHAIN, asset=asset)
    wrong = [row.seq for row in rows if row.seal != row.wanted]
    head = await unit.row("select last_seq, last_hash from asset where code = %(code)s", code=asset)
    ends = (rows[-1].seq, bytes(rows[-1].hash)) if rows else (0, ledger_chain.genesis(asset))
    return wrong if (head.last_seq, bytes(head.last_hash)) == ends else [*wrong, ends[0]]


async def hold_together(db: Database) -> None:
    async with db.unit() as unit:
        assert (await ledger.verify(unit)).findings == [] and await unsealed(unit, "USD") == []


@asynccontextmanager
async def held_up(db: Database) -> AsyncIterator[Unit]:
    """Whoever writes to the books waits until this unit is done."""
    async with db.unit() as unit:
        await unit.rows("select from asset where code = 'USD' for no key update")
        yield unit


async def until_waiting(unit: Unit) -> None:
    """Somebody waits for a lock that this unit holds. While databases are made, others wait for others."""
    blocked = "select count(*) from pg_locks where not granted and pg_backend_pid() = any (pg_blocking_pids(pid))"
    async with asyncio.timeout(WITHIN_S):
        while not await unit.value(blocked):
            await asyncio.sleep(0.001)


def let_rows_lag(patch: pytest.MonkeyPatch) -> None:
    """Posters leave account rows behind, and bring up to date one with each batch."""
    patch.setattr(ledger_memory, "LAG_FROM", 1)
    patch.setattr(ledger_memory, "LAG_MAX", 10**9)
    patch.setattr(ledger_memory, "LAG_S", 10**6)
    patch.setattr(ledger_poster, "IDLE_S", 60.0)


async def until_judged(poster: Poster, seq: int) -> None:
    """The poster remembers the books as of this place in the journal, whether it is written yet or not."""
    async with asyncio.timeout(WITHIN_S):
        while (cache := poster._lanes["USD"]._memory.cache) is None or cache.head.last_seq < seq:
            await asyncio.sleep(0.001)


async def end_posters(unit: Unit) -> None:
    """Their connections break. A transaction would go on seeing those that it saw first, and miss newer ones."""
    await unit.rows("select pg_stat_clear_snapshot()")
    async with as_owner(unit.driver):
        await unit.rows(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
            " where application_name = 'pasys poster' and datname = current_database()"
        )


def model(seed: int) -> Model:
    """An asset's books with accounts of every sort, some of them funded from nowhere."""
    draw = Batches(seed, []).random
    made = Model("USD")
    for number in range(1, draw.randint(3, 12)):
        one = ModelAccount("EUR" if draw.random() < 0.03 else "USD", draw.choice([0, 0, 1, 1, 1, 2]))
        one.status = draw.choice(["active"] * 12 + ["frozen", "closed"])
        if one.flags == 2:
            one.debits_posted = draw.choice([0, 50, 500])
        else:
            one.credits_posted = draw.choice([0, 50, 500])
        made.accounts[number] = one
    return made


def books(oracle: Model, batch: list[Transfer], now: datetime) -> Books:
    """What a load would have read for this batch."""
    numbers = sorted({number for t in batch for number in (t.debit, t.credit)} & set(oracle.accounts))
    rows = [oracle.accounts[number] for number in numbers]
    columns = [[number, row.asset != "USD", row.flags, STATUS[row.status], row.version, row.debits_pending,
                row.debits_posted, row.credits_pending, row.credits_posted]
               for number, row in zip(numbers, rows, strict=True)]  # fmt: skip
    table = np.array(columns, np.int64).reshape(len(rows), 9).T
    ids = {t.id for t in batch} | {t.pending_id for t in batch}
    earlier = {r.transfer.id: Recorded(r.transfer, r.result, r.seq) for r in oracle.journal if r.transfer.id in ids}
    holds = {
        id: replace(hold_of(known.transfer), open=id in oracle.holds)
        for id, known in earlier.items()
        if known.transfer.kind is Kind.PENDING and known.result is Result.ACCEPTED
    }
    return Books(len(oracle.journal), Accounts(table[0], table[1] != 0, *table[2:]), holds, earlier, now)


def compare(seed: int) -> None:
    """Several batches, each judged at once and one by one: the same answers, rows and counters.

    Many have one transfer, which is judged in a way of its own: in the way of many, too, it must come to the same.
    """
    oracle = model(seed)
    batches = Batches(seed, list(oracle.accounts))
    draw, now = batches.random, T0
    for most in draw.choices([1, 3, 20, 60], [6, 1, 1, 1], k=draw.randint(1, 18)):
        now += timedelta(seconds=draw.randint(0, 30))
        batch = batches.batch(draw.randint(1, most), now)
        columns, seen = Columns.of(batch), books(oracle, batch, now)
        verdicts = [form(columns, seen) for form in (judge, judge_together)]
        versions = {number: one.version for number, one in oracle.accounts.items()}
        wanted = oracle.post(batch, now)
        moved = [number for number, one in oracle.accounts.items() if one.version != versions[number]]
        for verdict in verdicts:
            check(verdict, wanted, moved, oracle)


def check(verdict: Verdict, wanted: list[tuple[Result, bool, int]], moved: list[int], oracle: Model) -> None:
    """A verdict says what the oracle has answered and done."""
    columns = (verdict.result.tolist(), verdict.replayed.tolist(), verdict.seq.tolist())
    assert list(zip(*columns, strict=True)) == [(int(r), again, seq) for r, again, seq in wanted]
    assert verdict.recorded.tolist() == [seq > 0 and not again for _, again, seq in wanted]
    rows = {row.seq: row.sides for row in oracle.journal}
    sides = np.stack([verdict.debit_version, verdict.credit_version, verdict.debit_balance, verdict.credit_balance]).T
    for i in np.flatnonzero(verdict.recorded).tolist():
        assert rows[int(verdict.seq[i])] == tuple(sides[i].tolist())
    changed = verdict.changed
    assert changed.number.tolist() == moved
    for i, number in enumerate(moved):
        one = oracle.accounts[number]
        assert (changed.version[i], changed.debits_pending[i], changed.debits_posted[i]) == (
            one.version, one.debits_pending, one.debits_posted)  # fmt: skip
        assert (changed.credits_pending[i], changed.credits_posted[i]) == (one.credits_pending, one.credits_posted)
