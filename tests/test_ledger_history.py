"""What the books say at any time is what the journal adds up to, and whoever tampers with them is found."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from itertools import accumulate, pairwise
from typing import Any

import psycopg
import pytest
from msgspec.structs import replace

from pasys.db import Database, Unit
from pasys.domain import posting
from pasys.errors import AccountNotFound, HistoryMissing, InvalidInput
from pasys.service import account, ledger, ledger_partition
from pasys.service.ledger_history import Statement, TransferRow
from tests.ledger_batches import Batches
from tests.ledger_kit import T0, direct, hold_of, people

# What the books say --------------------------------------------------------------------------------------------------


async def test_as_of_equals_a_replay(db: Database) -> None:
    """The balance at any time, by either clock, is what the transfers up to then add up to."""
    rows: list[tuple[datetime, datetime, int]] = []
    async with db.unit(now=T0) as unit:
        alice, bob = await people(unit, "alice", "bob")
        source = await account.system(unit, "external:deposits", "USD")
    for day in range(1, 15):
        recorded = T0 + timedelta(days=day)
        effective = recorded - timedelta(days=day * 7 % 5)
        async with db.unit(now=recorded) as unit:
            await ledger.post(unit, [direct(source, alice, day, effective_at=effective)])
            await ledger.post(unit, [direct(alice, bob, 1)])
        rows += [(recorded, effective, day), (recorded, recorded, -1)]
    async with db.unit(now=T0 + timedelta(days=30)) as unit:
        for hours in range(0, 16 * 24, 12):
            at = T0 + timedelta(hours=hours)
            by_effect = await ledger.balance_at(unit, alice, at)
            by_record = await ledger.balance_at(unit, alice, at, by="recorded")
            assert by_effect.minor == sum(change for _, effective, change in rows if effective <= at)
            assert by_record.minor == sum(change for recorded, _, change in rows if recorded <= at)
        (now,) = await account.balance(unit, "alice")
        assert by_record == now.posted


async def test_missing_history_is_an_error(db: Database) -> None:
    """Before an account existed there is no balance and no statement, and no zero in its place."""
    async with db.unit(now=T0) as unit:
        (alice,) = await people(unit, "alice")
        with pytest.raises(HistoryMissing, match="alice"):
            await ledger.balance_at(unit, alice, T0 - timedelta(days=1))
        with pytest.raises(HistoryMissing):
            await ledger.statement(unit, alice, until=T0 - timedelta(days=1))
        with pytest.raises(AccountNotFound):
            await ledger.balance_at(unit, 5, T0)
        with pytest.raises(InvalidInput):
            await ledger.balance_at(unit, alice, T0, by="BANANA")  # type: ignore[arg-type]
        assert (await ledger.balance_at(unit, alice, T0)).minor == 0


async def test_statement_adds_up(db: Database) -> None:
    """Opening balance plus the lines is the closing balance, and the next period opens with it."""
    async with db.unit(now=T0) as unit:
        alice, bob = await people(unit, "alice", "bob", funds=100)
    for day in range(1, 6):
        async with db.unit(now=T0 + timedelta(days=day)) as unit:
            await ledger.post(unit, [direct(alice, bob, day, reference=f"tx_{day}")])
    async with db.unit() as unit:
        cut = T0 + timedelta(days=3)
        first = await ledger.statement(unit, alice, until=cut)
        second = await ledger.statement(unit, alice, since=cut)
        assert [line.amount.minor for line in first.lines] == [100, -1, -2]
        assert (first.opening.minor, first.closing.minor, second.opening.minor) == (0, 97, 97)
        assert [(line.balance.minor, line.counterparty) for line in second.lines] == [
            (94, "bob"), (90, "bob"), (85, "bob")]  # fmt: skip
        short = await ledger.statement(unit, alice, limit=2)
        assert short.truncated and len(short.lines) == 2


async def test_trial_balance_names_what_is_left_over(db: Database) -> None:
    """Debits equal credits in each asset, and a clearing account that did not return to zero shows its age."""
    async with db.unit(now=T0) as unit:
        (alice,) = await people(unit, "alice", funds=100)
        flight = await account.system(unit, "refunds:in_flight", "USD")
        await ledger.post(unit, [direct(alice, flight, 10), direct(flight, alice, 10)])
    async with db.unit(now=T0 + timedelta(days=1)) as unit:
        await ledger.post(unit, [direct(alice, flight, 10)])
    async with db.unit(now=T0 + timedelta(days=3)) as unit:
        await ledger.post(unit, [direct(alice, flight, 5)])
        rows = await ledger.trial_balance(unit)
        assert sum(row.debits.minor for row in rows) == sum(row.credits.minor for row in rows) == 135
        open_rows = {row.name: (row.net.minor, row.open_since, row.age) for row in rows if row.open_since}
        assert open_rows == {"refunds:in_flight": (-15, T0 + timedelta(days=1), timedelta(days=2))}


# What is proved again ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tamper", "what", "seq"),
    [
        ("update transfer set amount = amount + 1 where seq = 7", "running balance", 7),
        ("delete from transfer where seq = 7", "gap", 7),
        ("update transfer set debit_version = 9 where seq = 7", "version", 7),
        ("update transfer set credit_balance = 9 where seq = 7", "running balance", 7),
        ("update account set credits_posted = credits_posted + 1 where name = 'bob'", "account", None),
        ("update account set version = version + 1 where name = 'bob'", "account", None),
        ("update hold set amount = amount + 1", "hold", None),
        ("delete from hold", "hold", None),
        ("update asset set last_seq = last_seq + 1", "last seq", None),
    ],
)
async def test_verify_names_what_was_tampered(db: Database, tamper: str, what: str, seq: int | None) -> None:
    """Whoever changes a row behind the ledger's back is found, and the first finding names the row or account."""
    async with db.unit() as unit:
        alice, bob = await people(unit, "alice", "bob", funds=100)
        held = posting.withdrawal_hold(account=alice, external=bob, amount_minor=5, asset="USD", reference="tx_1")
        await ledger.post(unit, [*held, *[direct(alice, bob, i) for i in range(1, 9)]])
        seen: list[tuple[str, int, int]] = []
        assert (await ledger.verify(unit, progress=lambda *step: seen.append(step))).ok
        assert seen == [("USD", 11, 11)]
    with psycopg.connect(db.url, autocommit=True) as superuser:
        superuser.execute("set session_replication_role = replica")  # no trigger fires
        superuser.execute(tamper.encode())
    async with db.unit() as unit:
        verification = await ledger.verify(unit)
        first = verification.findings[0]
        assert not verification.ok and (first.what, first.seq) == (what, seq), verification.findings


async def test_verify_goes_on_piece_by_piece(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal is read in pieces, holds may span them, and others may post meanwhile."""
    from pasys.service import ledger_verify

    monkeypatch.setattr(ledger_verify, "PIECE", 7)
    async with db.unit() as unit:
        alice, bob = await people(unit, "alice", "bob", funds=1_000)
        (held,) = posting.withdrawal_hold(account=alice, external=bob, amount_minor=5, asset="USD", reference="tx_1")
        await ledger.post(unit, [held, *[direct(alice, bob, i) for i in range(1, 31)]])
        await ledger.post(unit, posting.capture(hold=hold_of(held), captured_minor=3))
    async with db.unit() as unit:

        def meanwhile(asset: str, done: int, of: int) -> None:
            with psycopg.connect(db.url, autocommit=True) as other:
                other.execute("update account set metadata = '{}'")

        verification = await ledger.verify(unit, progress=meanwhile)
        assert verification.ok and verification.transfers == 34


# As of any time ------------------------------------------------------------------------------------------------------


async def replayed(db: Database, seed: int, rounds: int, points: int) -> None:
    """A random journal over two assets and small partitions, some of it dated back and forth; then every sort of
    question about random times, answered by a plain replay of the journal."""
    numbers: dict[str, list[int]] = {}
    async with db.unit(now=T0) as unit:
        await unit.rows("select set_config('pasys.partition_rows', '150', false)")
        for asset in ("USD", "JPY"):
            source = await account.system(unit, "external:deposits", asset)
            numbers[asset] = [source, *await people(unit, *[f"user_{i}" for i in range(4)], asset=asset)]
    draw = random.Random(seed)
    batches = {asset: Batches(seed, of, asset) for asset, of in numbers.items()}
    for step in range(rounds):
        now = T0 + timedelta(hours=step)
        for made in batches.values():
            batch = [
                replace(one, effective_at=now + timedelta(hours=draw.randint(-60, 9))) if draw.random() < 0.2 else one
                for one in made.batch(draw.randint(1, 25), now)
            ]
            async with db.unit(now=now) as unit:
                await ledger.post(unit, batch, refuse=False)
    async with db.unit() as unit:
        while await ledger_partition.keep(unit):
            pass
        rows = [row for asset in numbers for row in await ledger.transfers(unit, asset=asset, limit=10_000)]
        moved = [row for row in rows if row.result == 0 and row.kind in (0, 2)]
        for _ in range(points):
            at = T0 + timedelta(minutes=draw.randint(0, 60 * rounds))
            by = draw.choice(["effective", "recorded"])
            past = [row for row in moved if (row.effective_at if by == "effective" else row.recorded_at) <= at]
            asset = draw.choice(list(numbers))
            number = draw.choice(numbers[asset])
            wanted = sum(row.amount.minor * ((row.credit == number) - (row.debit == number)) for row in past)
            sign = -1 if number == numbers[asset][0] else 1
            assert (await ledger.balance_at(unit, number, at, by=by)).minor == sign * wanted, (at, by)
            if draw.random() < 0.1:
                trial = await ledger.trial_balance(unit, at=at, by=by)
                source, *others = numbers[asset]
                sides = {row.name: (row.debits.minor, row.credits.minor) for row in trial if row.asset == asset}
                assert sides == {"external:deposits": moves(past, {source}), None: moves(past, set(others))}
            if draw.random() < 0.1:
                until = at + timedelta(minutes=draw.randint(1, 60 * rounds))
                mine = [row for row in moved if number in (row.debit, row.credit)]
                moment = {row.seq: row.effective_at if by == "effective" else row.recorded_at for row in mine}
                opening = sum(change(row, number) for row in mine if moment[row.seq] < at)
                within = sorted((moment[row.seq], row.seq, change(row, number)) for row in mine
                                if at <= moment[row.seq] < until)  # fmt: skip
                balances = list(accumulate([one for _, _, one in within], initial=opening))
                wanted_lines = [
                    (time, seq, sign * one, sign * left)
                    for (time, seq, one), left in zip(within, balances[1:], strict=True)
                ]
                pages = await in_pages(unit, number, since=at, until=until, by=by, limit=draw.choice([3, 7, 10_000]))
                assert [line for page in pages for line in lines_of(page)] == wanted_lines
                ends = [(page.opening.minor, page.closing.minor) for page in pages]
                assert (ends[0][0], ends[-1][1]) == (sign * opening, sign * balances[-1])
                assert all(closed == opened for (_, closed), (opened, _) in pairwise(ends))
                to_the_end = await ledger.statement(unit, number, since=at, by=by, limit=10_000)
                assert to_the_end.closing.minor == sign * sum(change(row, number) for row in mine)


def change(row: TransferRow, number: int) -> int:
    return row.amount.minor * ((row.credit == number) - (row.debit == number))


def moves(rows: list[TransferRow], numbers: set[int]) -> tuple[int, int]:
    """What has left these accounts, and what has come."""
    gone = sum(row.amount.minor for row in rows if row.debit in numbers)
    return gone, sum(row.amount.minor for row in rows if row.credit in numbers)


def lines_of(page: Statement) -> list[tuple[datetime, int, int, int]]:
    return [(line.at, line.seq, line.amount.minor, line.balance.minor) for line in page.lines]


async def in_pages(unit: Unit, number: int, **asked: Any) -> list[Statement]:
    """A statement, page by page."""
    pages = [await ledger.statement(unit, number, **asked)]
    while pages[-1].truncated:
        pages.append(await ledger.statement(unit, number, after=pages[-1].next, **asked))
    return pages


async def test_any_time_equals_a_replay(db: Database) -> None:
    """Balances, statements and the trial balance at 500 random times, by both clocks, are those of a replay."""
    await replayed(db, seed=1, rounds=40, points=500)


@pytest.mark.slow
async def test_ten_thousand_times_equal_a_replay(db: Database) -> None:
    """The same at 10,000 random times."""
    await replayed(db, seed=2, rounds=80, points=10_000)


async def test_closed_partitions_are_indexed(db: Database) -> None:
    """The keeper makes the next partition ahead, and gives each closed one its indexes; the open one has none."""
    async with db.unit(now=T0) as unit:
        await unit.rows("select set_config('pasys.partition_rows', '20', false)")
        alice, bob = await people(unit, "alice", "bob", funds=100)
        await ledger.post(unit, [direct(alice, bob, 1) for _ in range(51)])
        before = await ledger_partition.partitions(unit)
        assert [(one.first_seq, one.closed, one.indexed) for one in before] == [
            (1, True, False), (21, True, False), (41, False, False)]  # fmt: skip
        while await ledger_partition.keep(unit):
            pass
        after = await ledger_partition.partitions(unit)
        assert [(one.first_seq, one.last_seq, one.closed, one.indexed) for one in after] == [
            (1, 20, True, True), (21, 40, True, True), (41, 60, False, False), (61, 80, False, False)]  # fmt: skip
        found = await ledger.transfers(unit, asset="USD", account=alice, limit=100)
        assert [row.seq for row in found] == [1, *range(3, 54)]
        looked = (
            "select array_agg(distinct coalesce(attstattarget, -1)) from pg_attribute"
            " where attrelid = %(name)s::regclass and attnum > 0"
        )
        targets = [await unit.value(looked, name=one.name) for one in after]
        assert targets == [[-1], [-1], [10], [10]], "statistics of what is still written are taken with little effort"
