"""A poster's memory is never taken for the books: lost writes, lost connections and bad callers cost time, not money.

scripts/mutate_ledger.py takes each guard away, and expects a test to fail.
"""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from msgspec.structs import replace

from pasys.db import Database
from pasys.domain.ledger import Kind, Posted, Purpose, Result, Transfer
from pasys.domain.ledger_columns import Columns
from pasys.errors import AccountNotEmpty, DatabaseUnavailable, InvalidInput
from pasys.service import account, ledger, ledger_cache, ledger_memory, ledger_poster
from pasys.service.ledger_books import Writing
from pasys.service.ledger_poster import Poster
from tests.ledger_kit import (
    WITHIN_S,
    direct,
    end_posters,
    held_up,
    hold_together,
    let_rows_lag,
    people,
    posted,
    until_judged,
    until_waiting,
)
from tests.support import owning

# Bad luck ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def vain(monkeypatch: pytest.MonkeyPatch) -> list[Writing]:
    """What posters have written for nothing, because the books had moved on."""
    found: list[Writing] = []
    written = ledger_poster._written

    async def seen(driver: Any, writing: Writing, *more: Any) -> bool:
        landed = await written(driver, writing, *more)
        found.extend([] if landed else [writing])
        return landed

    monkeypatch.setattr(ledger_poster, "_written", seen)
    return found


@pytest.mark.parametrize("warm", [True, False])
async def test_an_answer_comes_after_the_commit(db: Database, warm: bool) -> None:
    """By memory and under the lock, nobody is answered while the database has not said that it is done."""
    async with db.unit() as unit:
        alice, bob = await people(unit, "alice", "bob", funds=100)
    async with Poster(db) as poster:
        for _ in range(2 * warm):
            await poster.post(direct(alice, bob, 1))
        async with held_up(db) as unit:
            asked = asyncio.create_task(poster.post(direct(alice, bob, 1)))
            await until_waiting(unit)
            await asyncio.sleep(0.05)
            assert not asked.done()
        assert (await asked).accepted


async def test_a_lost_batch_is_forgotten(db: Database) -> None:
    """A batch that was lost on its way is not remembered as written, though as many rows came from somebody else."""
    async with db.unit() as unit:
        alice, bob = await people(unit, "alice", "bob", funds=100)
    async with Poster(db) as poster:
        for _ in range(2):
            await poster.post(direct(alice, bob, 1))
        async with held_up(db) as unit:
            lost = asyncio.create_task(poster.post(direct(alice, bob, 20)))
            await until_waiting(unit)
            await end_posters(unit)
            with pytest.raises(DatabaseUnavailable):
                await lost
            await ledger.post(unit, [direct(bob, alice, 30)])
        assert (await poster.post(direct(alice, bob, 1))).seq == 6
    await hold_together(db)
    async with db.unit() as unit:
        assert [await posted(unit, number) for number in (alice, bob)] == [127, 73]


async def test_a_batch_that_was_lost_behind_another_is_forgotten(db: Database) -> None:
    """The connection breaks, and breaks again where the next batch is tried under the lock: neither is remembered,
    though as many rows came from somebody else."""
    async with db.unit() as unit:
        alice, bob = await people(unit, "alice", "bob", funds=100)
    async with asyncio.timeout(WITHIN_S), Poster(db) as poster:
        for _ in range(2):
            await poster.post(direct(alice, bob, 1))
        async with held_up(db) as unit:
            lost = asyncio.create_task(poster.post(direct(alice, bob, 20)))
            await until_waiting(unit)
            behind = asyncio.create_task(poster.post(direct(alice, bob, 5)))
            await until_judged(poster, 6)
            for task in (lost, behind):
                await until_waiting(unit)
                await end_posters(unit)
                with pytest.raises(DatabaseUnavailable):
                    await task
            await ledger.post(unit, [direct(bob, alice, 30), direct(bob, alice, 3)])
        assert (await poster.post(direct(alice, bob, 1))).seq == 7
    await hold_together(db)
    async with db.unit() as unit:
        assert [await posted(unit, number) for number in (alice, bob)] == [130, 70]


async def test_what_is_judged_behind_a_failed_write_is_judged_again(db: Database) -> None:
    """A repeated id turns out to be one only when it is written; what was judged behind it has its own place then."""
    async with db.unit() as unit:
        alice, bob = await people(unit, "alice", "bob", funds=100)
    first = direct(alice, bob, 40)
    async with Poster(db) as poster:
        for transfer in (first, direct(alice, bob, 1)):
            await poster.post(transfer)
        async with held_up(db) as unit:
            again = asyncio.create_task(poster.post(first))
            await until_waiting(unit)
            behind = asyncio.create_task(poster.post(direct(alice, bob, 50)))
            await asyncio.sleep(0.05)
            await ledger.post(unit, [direct(bob, alice, 5)])
        assert await again == Posted(Result.ACCEPTED, True, 3)
        assert (await behind).seq == 6
    await hold_together(db)


async def test_a_lost_catch_up_is_forgotten(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Account rows that were on their way when the connection broke are not counted as up to date."""
    monkeypatch.setattr(ledger_memory, "LAG_FROM", 1)
    monkeypatch.setattr(ledger_memory, "LAG_MAX", 10**9)
    monkeypatch.setattr(ledger_poster, "IDLE_S", 0.2)
    async with db.unit() as unit:
        numbers = await people(unit, *[f"user_{i}" for i in range(40)], funds=100)
    around = [direct(one, other, 1) for one, other in pairwise(numbers)]
    async with asyncio.timeout(WITHIN_S), Poster(db) as poster:
        await poster.post_many(Columns.of(around))
        await poster.post_many(Columns.of([replace(transfer, id=direct(1, 2, 3).id) for transfer in around]))
        async with held_up(db) as unit:
            await until_waiting(unit)  # for the first share of the rows
            await end_posters(unit)
        for _ in range(2):  # between others than those of that share: it would be seen to once more
            await poster.post(direct(*numbers[-2:], 1))
    async with db.unit() as unit:
        assert await unit.value("select last_seq = projected_seq from asset")
    await hold_together(db)


async def test_one_bad_transfer_is_one_callers_error(db: Database) -> None:
    """What the database cannot store fails for its caller; those who share the batch are posted."""
    async with db.unit() as unit:
        alice, bob = await people(unit, "alice", "bob", funds=100)
    wrong: list[dict[str, Any]] = [{"reference": "a\0b"}, {"reference": "\ud800"}, {"debit": 2**70}]
    async with Poster(db) as poster:
        for warm in (False, True):
            for fields in wrong:
                asked = [direct(alice, bob, 1), replace(direct(alice, bob, 1), **fields), direct(alice, bob, 1)]
                answers = await asyncio.gather(*map(poster.post, asked), return_exceptions=True)
                good = [answer.accepted for answer in answers if isinstance(answer, Posted)]
                assert good == [True, True] and isinstance(answers[1], Exception), (warm, fields)
    await hold_together(db)


async def test_a_chain_ends_with_its_callers_batch(db: Database) -> None:
    """The last of a batch cannot be linked: it would be with whoever comes next."""
    async with db.unit() as unit:
        alice, bob = await people(unit, "alice", "bob", funds=100)
    open_end = direct(alice, bob, 1, linked=True)
    async with Poster(db) as poster:
        asked = [poster.post(open_end), poster.post_many(Columns.of([open_end])), poster.post(direct(alice, bob, 500))]
        answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [isinstance(answer, InvalidInput) for answer in answers] == [True, True, False]
    async with db.unit() as unit:
        with pytest.raises(InvalidInput, match="no next one"):
            await ledger.post(unit, [open_end])
        with pytest.raises(InvalidInput, match="no next one"):
            await ledger.post_many(unit, Columns.of([open_end]))


async def test_who_reads_that_somebody_has_posted_does_not_write_in_vain(db: Database, vain: list[Writing]) -> None:
    """Where an account must be read anyway, a poster learns there that others have posted or changed an account."""
    async with db.unit() as unit:
        alice, bob, carol, dave = await people(unit, "alice", "bob", "carol", "dave", funds=100)
    async with Poster(db) as poster:
        for _ in range(2):
            assert (await poster.post(direct(alice, bob, 1))).accepted
        async with db.unit() as unit:
            await ledger.post(unit, [direct(bob, alice, 1)])
        assert (await poster.post(direct(alice, carol, 1))).accepted
        async with db.unit() as unit:
            await account.freeze(unit, "bob")
        assert (await poster.post(direct(alice, dave, 1))).accepted
        assert not vain
    await hold_together(db)


async def test_where_others_post_books_are_locked(db: Database, vain: list[Writing]) -> None:
    """Two posters in turn do not go on failing at each other: after one vain write they lock the books for a while."""
    async with db.unit() as unit:
        alice, bob = await people(unit, "alice", "bob", funds=100)
    async with Poster(db) as one, Poster(db) as other:
        for _ in range(12):
            for poster in (one, other):
                assert (await poster.post(direct(alice, bob, 1))).accepted
        assert len(vain) <= 6


async def test_a_poster_does_not_remember_without_end(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory has a limit of accounts and one of holds; beyond, it begins anew."""
    monkeypatch.setattr(ledger_cache, "ACCOUNTS_MAX", 6)
    monkeypatch.setattr(ledger_cache, "HOLDS_MAX", 6)
    async with db.unit() as unit:
        numbers = await people(unit, *[f"user_{i}" for i in range(20)], funds=100)
    async with Poster(db) as poster:
        for one, other in pairwise(numbers):
            await poster.post(direct(one, other, 1))
            cache = poster._lanes["USD"]._memory.cache
            assert cache is not None and len(cache._number) <= 8
        for _ in range(20):
            await poster.post(direct(numbers[0], numbers[1], 1, kind=Kind.PENDING, purpose=Purpose.HOLD))
            cache = poster._lanes["USD"]._memory.cache
            assert cache is not None and len(cache.holds) <= 8


async def test_waiting_and_commits_have_limits(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers beyond the limit wait before they are heard, all are heard in the end, and no commit is too large."""
    monkeypatch.setattr(ledger_poster, "WAITING_MAX", 10)
    async with db.unit() as unit:
        alice, bob = await people(unit, "alice", "bob", funds=100)
    async with Poster(db, group_max=4) as poster:
        await poster.post(direct(alice, bob, 1))
        tasks = [asyncio.create_task(poster.post(direct(alice, bob, 1))) for _ in range(50)]
        await asyncio.sleep(0)
        assert poster._lanes["USD"]._waiting_size <= 10
        async with asyncio.timeout(20):
            assert all([(await task).accepted for task in tasks])
    async with db.unit() as unit:
        sizes = await unit.rows("select count(*) as size from transfer where seq > 3 group by xmin")
        assert sum(row.size for row in sizes) == 50 and max(row.size for row in sizes) <= 4


async def test_a_caller_that_has_gone_is_passed_over(db: Database) -> None:
    """Who does not wait any more keeps nobody else from the answer, which is no replay's, and the transfer is posted
    all the same."""
    async with db.unit() as unit:
        alice, bob = await people(unit, "alice", "bob", funds=100)
    async with asyncio.timeout(WITHIN_S), Poster(db) as poster:
        for _ in range(2):
            async with held_up(db) as unit:
                tasks = [asyncio.create_task(poster.post(direct(alice, bob, 1))) for _ in range(3)]
                await until_waiting(unit)
                tasks[0].cancel()
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            assert isinstance(answers[0], asyncio.CancelledError)
            found = [(answer.accepted, answer.replayed) for answer in answers[1:] if isinstance(answer, Posted)]
            assert found == [(True, False)] * 2
    async with db.unit() as unit:
        assert await posted(unit, bob) == 106


# Accounts ------------------------------------------------------------------------------------------------------------


async def test_a_change_is_decided_by_the_account_as_it_is_now(db: Database) -> None:
    """Whoever closes or limits an account waits for those who post, and sees what they did."""
    async with db.unit() as unit:
        alice, bob = await people(unit, "alice", "bob")
        source = await account.system(unit, "external:deposits", "USD")

    async def close() -> str:
        async with db.unit() as unit:
            return (await account.close(unit, "alice")).status

    async with db.unit() as unit:
        await ledger.post(unit, [direct(source, alice, 100)])
        closing = asyncio.create_task(close())
        await until_waiting(unit)
    with pytest.raises(AccountNotEmpty, match="alice"):
        await closing
    async with db.unit() as unit:
        assert (await account.find(unit, "alice")).status == "active" and await posted(unit, bob) == 0


async def test_lagging_rows_are_up_to_date_before_an_account_changes(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit is judged by the balance, not by an account row that lags behind it."""
    monkeypatch.setattr(ledger_memory, "LAG_FROM", 1)
    monkeypatch.setattr(ledger_poster, "IDLE_S", 60.0)
    async with db.unit() as unit:
        (alice,) = await people(unit, "alice", funds=100)
        shop = (await account.open(unit, name="shop", asset="USD", type="merchant")).number
    async with Poster(db) as poster:
        for one, other in ((alice, shop), (shop, alice), (alice, shop)):
            await poster.post_many(Columns.of([direct(one, other, 50)]))
        async with db.unit() as unit:
            assert await unit.value("select last_seq - projected_seq from asset") == 2
            await account.change_limits(unit, "shop", debits_must_not_exceed_credits=True)
            assert await unit.value("select last_seq - projected_seq from asset") == 0
            assert await unit.value("select credits_posted - debits_posted from account where name = 'shop'") == 50
    await hold_together(db)


# Rows that lag -------------------------------------------------------------------------------------------------------


async def test_balances_are_exact_while_rows_of_two_assets_lag(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Holds, posts of a part, voids and refusals in the tail count as they do in the journal, each in its own asset;
    then the rows are brought up to date by somebody else, and count the same."""
    let_rows_lag(monkeypatch)
    pairs = {}
    async with db.unit() as unit:
        for asset in ("USD", "JPY"):
            pairs[asset] = await people(unit, f"alice.{asset}", f"bob.{asset}", asset=asset, funds=100)
    async with Poster(db) as poster:
        for asset, (alice, bob) in pairs.items():
            fields: dict[str, Any] = {"asset": asset}
            one, two, three = (
                direct(alice, bob, 20, kind=Kind.PENDING, purpose=Purpose.HOLD, **fields) for _ in range(3)
            )
            part = replace(void(one), kind=Kind.POST, amount_minor=7)
            tail = [one, two, three, part, void(two), void(two), part, direct(alice, bob, 500, **fields)]
            await poster.post(direct(bob, alice, 1, **fields))
            await poster.post_many(Columns.of(tail))
        for lag in (7, 0):
            async with db.unit() as unit:
                behind = await unit.rows("select last_seq - projected_seq as behind from asset")
                assert [row.behind for row in behind] == [lag, lag]
                balances = await ledger.balances(unit, [number for pair in pairs.values() for number in pair])
                held = {number: (one.posted.minor, one.available.minor) for number, one in balances.items()}
                assert held == {a: (94, 74) for a, _ in pairs.values()} | {b: (106, 106) for _, b in pairs.values()}
                assert (await ledger.verify(unit)).findings == []
                for asset in pairs:
                    await ledger.project(unit, asset)


# Partitions ----------------------------------------------------------------------------------------------------------


def void(hold: Transfer) -> Transfer:
    fields: dict[str, Any] = {"asset": hold.asset, "kind": Kind.VOID, "purpose": Purpose.PAYMENT, "pending_id": hold.id}
    return direct(hold.debit, hold.credit, hold.amount_minor, **fields)


@pytest.mark.parametrize("asked", ["funds", "a hold", "an id"])
async def test_a_new_partition_is_seen_under_the_lock(
    db: Database, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit has read one asset's journal when others begin a partition of another's; then it posts there, too, and
    judges by all rows. Many times on one connection, so that this has in its caches whatever it needs."""
    monkeypatch.setattr(ledger_memory, "LAG_FROM", 1)
    monkeypatch.setattr(ledger_poster, "IDLE_S", 60.0)
    async with owning(db) as unit:
        kenji, yuki = await people(unit, "kenji", "yuki", asset="JPY", funds=1_000)
        name = await unit.value("select current_database()")
        await unit.rows(f"alter database {name} set pasys.partition_rows = '20'")
    await db.close()  # so that every connection has it
    one = Database(db.settings, connections_max=1)
    async with one.unit() as unit:
        alice, bob = await people(unit, "alice", "bob", funds=1_000)
    hold: dict[str, Any] = {"kind": Kind.PENDING, "purpose": Purpose.HOLD}
    async with Poster(db) as poster:
        for _ in range(20):
            old, new, late = (
                direct(kenji, yuki, 1, asset="JPY", **hold),
                direct(alice, bob, 1, **hold),
                direct(alice, bob, 1),
            )
            async with one.unit() as unit:
                await ledger.post(unit, [old])
                await ledger.post(unit, [void(old)])
            async with one.unit() as unit:
                await ledger.post(unit, [old, void(old)], refuse=False)
                for _ in range(3):
                    await poster.post_many(Columns.of([direct(alice, bob, 1) for _ in range(4)]))
                await poster.post_many(Columns.of([new, late]))
                batch = {"funds": direct(bob, alice, 1), "a hold": void(new), "an id": late}[asked]
                answers = await ledger.post(unit, [replace(void(old), asset="USD"), batch], refuse=False)
                assert answers[1].accepted and answers[1].replayed == (asked == "an id")
                assert await unit.value("select count(*) from account a join account_now n using (id, version)") == 6
    await one.close()
    await hold_together(db)
