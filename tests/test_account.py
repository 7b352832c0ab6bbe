"""Accounts are opened once, found under their name, and start nothing while they are frozen or closed."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import msgspec
import pytest
from msgspec.structs import replace

from pasys import events
from pasys.db import Database, Unit
from pasys.domain.account import TYPES, balance, clearing, debit_normal
from pasys.domain.ledger import Kind, Purpose, Transfer
from pasys.domain.ledger_columns import Columns
from pasys.errors import (
    AccountClosed,
    AccountExists,
    AccountFrozen,
    AccountNotEmpty,
    AccountNotFound,
    IllegalTransition,
    InvalidInput,
    LimitExceeded,
    UnknownAsset,
    WrongAsset,
)
from pasys.service import account, ledger
from pasys.service.ledger_poster import Poster
from tests.ledger_kit import WITHIN_S, let_rows_lag
from tests.support import owning


async def fund(unit: Unit, number: int, amount_minor: int, asset: str = "USD") -> None:
    source = await account.system(unit, "external:deposits", asset)
    await ledger.post(unit, [direct(source, number, amount_minor, asset=asset, purpose=Purpose.DEPOSIT)])


def direct(
    debit: int, credit: int, amount_minor: int, *, asset: str = "USD", purpose: Purpose = Purpose.BOOK
) -> Transfer:
    return Transfer(debit=debit, credit=credit, amount_minor=amount_minor, asset=asset, purpose=purpose)


async def test_opened_twice_is_one_account(db: Database) -> None:
    """Opening again with the same properties answers with the account that exists; with others it is a conflict."""
    async with db.unit() as unit:
        first = await account.open(unit, name="alice", asset="USD", metadata={"tier": "gold"})
        assert await account.open(unit, name="alice", asset="USD", metadata={"tier": "gold"}) == first
        with pytest.raises(AccountExists):
            await account.open(unit, name="alice", asset="USD", type="merchant", metadata={"tier": "gold"})
        with pytest.raises(AccountExists):
            await account.open(unit, name="alice", asset="USD")
        opened = [item for item in unit._emitted if isinstance(item, events.AccountOpened)]
        assert [(item.account_id, item.name, item.type) for item in opened] == [(first.id, "alice", "customer")]


async def test_opened_at_once_by_many(db: Database) -> None:
    """Eight simultaneous openings of one name give one account and eight equal answers."""

    async def one() -> str:
        async with db.unit() as unit:
            return (await account.open(unit, name="shop", asset="EUR", type="merchant")).id

    answers = await asyncio.gather(*[one() for _ in range(8)])
    assert len(set(answers)) == 1


async def test_limits_follow_the_type(unit: Unit) -> None:
    """Customers and providers cannot overdraw, merchants and the system can, and each can be told otherwise."""
    limited = {}
    for kind in TYPES:
        opened = await account.open(unit, name=f"suspense:{kind}" if kind == "system" else kind, asset="USD", type=kind)
        limited[kind] = opened.debits_must_not_exceed_credits
    assert limited == {"customer": True, "merchant": False, "provider": True, "system": False}
    strict = await account.open(unit, name="strict", asset="USD", type="merchant", debits_must_not_exceed_credits=True)
    assert strict.debits_must_not_exceed_credits and not strict.credits_must_not_exceed_debits


@pytest.mark.parametrize(
    "name", ["", " ", "-x", "a b", "x" * 65, "acc_123", "ACC_1", "psp:stripe:receivable", "Bank:main", "suspense", "ä"]
)
async def test_names_that_are_refused(unit: Unit, name: str) -> None:
    """A name is short and plain, never reads as an id, and never as one of the system's own."""
    with pytest.raises(InvalidInput):
        await account.open(unit, name=name, asset="USD")


async def test_unknown_words_are_refused(unit: Unit) -> None:
    """An unknown type, status, asset, id or limit raises; it is never dropped, so it cannot widen a listing."""
    with pytest.raises(InvalidInput):
        await account.open(unit, name="x", asset="USD", type="BANANA")
    with pytest.raises(UnknownAsset):
        await account.open(unit, name="x", asset="usd")
    for filters in ({"type": "BANANA"}, {"status": "BANANA"}, {"ids": ["nonsense"]}, {"after": "x"}, {"limit": 0}):
        with pytest.raises(InvalidInput):
            await account.listing(unit, **filters)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UnknownAsset):
        await account.listing(unit, asset="XXQ")


async def test_found_by_name_or_id(unit: Unit) -> None:
    """An account is found by id or name; a name in several assets asks which, one in another asset says which."""
    usd = await account.open(unit, name="alice", asset="USD")
    assert await account.find(unit, "alice") == usd == await account.find(unit, usd.id, "USD")
    with pytest.raises(WrongAsset, match="kept in USD; EUR"):
        await account.find(unit, "alice", "EUR")
    eur = await account.open(unit, name="alice", asset="EUR")
    with pytest.raises(InvalidInput, match="EUR, USD"):
        await account.find(unit, "alice")
    assert await account.find(unit, "alice", "EUR") == eur
    for missing in ("nobody", "acc_0000000000000"):
        with pytest.raises(AccountNotFound):
            await account.find(unit, missing)
        with pytest.raises(AccountNotFound):
            await account.balance(unit, missing)


async def test_listing_narrows(unit: Unit) -> None:
    """Each filter returns exactly the accounts that match, and a listing goes on after the last one seen."""
    made = [await account.open(unit, name=f"user_{i}", asset="USD") for i in range(5)]
    shop = await account.open(unit, name="shop", asset="EUR", type="merchant")
    await account.freeze(unit, "user_3")
    assert {row.name for row in await account.listing(unit, type="merchant")} == {"shop"}
    assert {row.name for row in await account.listing(unit, status="frozen")} == {"user_3"}
    assert {row.name for row in await account.listing(unit, asset="EUR")} == {"shop"}
    assert {row.name for row in await account.listing(unit, ids=[made[0].id, shop.id])} == {"user_0", "shop"}
    assert await account.listing(unit, ids=[]) == []
    await account.open(unit, name="user.5", asset="USD")
    for part in ("R_", "SER_"):  # too short for the index, and not
        assert {row.name for row in await account.listing(unit, name_like=part)} == {f"user_{i}" for i in range(5)}
    for nowhere in ("use%", "use%5", "user\\_1"):
        assert await account.listing(unit, name_like=nowhere) == []
    first = await account.listing(unit, limit=4)
    rest = await account.listing(unit, limit=4, after=first[-1].id)
    assert len({row.id for row in first + rest}) == 7


MANY = """
insert into account (id, name, asset, type, metadata)
select 1000 + n, 'user' || n || '.' || case when n % 10 = 0 then 'smith' else 'tanaka' end, 'USD', 'customer',
       jsonb_build_object('note', repeat('much is known of each, ', 20))
  from generate_series(1, 20000) n"""


@pytest.mark.parametrize(
    ("part", "names", "by_index"), [("19998.tan", 1, True), ("nobody", 0, True), ("smith", 50, False), ("zz", 0, False)]
)
async def test_a_rare_part_of_a_name_is_found_by_its_index(db: Database, part: str, names: int, by_index: bool) -> None:
    """A part that few names have is looked up, also when it is asked for again and again, and not searched for among
    all accounts. The first fifty of a part that many have are found on the way, and what is too short for the index is
    not held against the whole of it."""
    async with owning(db) as unit:
        await account.ensure_asset(unit, "USD")
        await unit.rows(MANY)
        await unit.rows("analyze account")
        await unit.value("select gin_clean_pending_list('account_name_part_idx')")  # as autovacuum does

    async def scans() -> int:
        async with db.unit() as unit:
            await unit.rows("select pg_stat_force_next_flush()")
        async with db.unit() as unit:
            return await unit.value(
                "select idx_scan from pg_stat_user_indexes where indexrelname = 'account_name_part_idx'"
            )

    before = await scans()
    for _ in range(12):  # by then a statement that is prepared may have a plan for whatever part
        async with db.unit() as unit:
            assert len(await account.listing(unit, name_like=part, limit=50)) == names
    assert await scans() - before == (12 if by_index else 0)


async def test_frozen_starts_nothing(db: Database) -> None:
    """A frozen account neither pays nor is paid, but what has begun still finishes; unfrozen it pays again."""
    async with db.unit() as unit:
        alice = await account.open(unit, name="alice", asset="USD")
        bob = await account.open(unit, name="bob", asset="USD")
        flight = await account.system(unit, "refunds:in_flight", "USD")
        await fund(unit, alice.number, 100)
        await account.freeze(unit, "alice")
    for pair in ((alice.number, bob.number), (bob.number, alice.number)):
        with pytest.raises(AccountFrozen, match="account alice is frozen"):
            async with db.unit() as unit:
                await ledger.post(unit, [direct(*pair, 1)])
    async with db.unit() as unit:
        await ledger.post(unit, [direct(alice.number, flight, 40, purpose=Purpose.REFUND_RESERVE)])
        await account.unfreeze(unit, "alice")
        await ledger.post(unit, [direct(alice.number, bob.number, 60)])
        assert [row.available.minor for row in await account.balance(unit, "bob")] == [60]


async def test_only_an_empty_account_closes(db: Database) -> None:
    """Closing needs a zero balance and nothing pending; a closed account is closed for good."""
    async with db.unit() as unit:
        alice = await account.open(unit, name="alice", asset="USD")
        bob = await account.open(unit, name="bob", asset="USD")
        await fund(unit, alice.number, 100)
        with pytest.raises(AccountNotEmpty, match=r"alice holds 1\.00 USD and 0\.00 USD pending"):
            await account.close(unit, "alice")
        await ledger.post(unit, [direct(alice.number, bob.number, 100)])
        assert (await account.close(unit, "alice")).status == "closed"
        for move in (account.close, account.freeze, account.unfreeze):
            with pytest.raises(IllegalTransition, match="alice is closed"):
                await move(unit, "alice")
        with pytest.raises(IllegalTransition):
            await account.unfreeze(unit, "bob")
        with pytest.raises(AccountClosed):
            await ledger.post(unit, [direct(bob.number, alice.number, 1)])


async def test_changes_move_the_epoch_and_are_announced(db: Database) -> None:
    """Each change of status or limits moves the asset's epoch, so that no poster trusts an old copy of the account."""
    async with db.unit() as unit:
        await account.open(unit, name="shop", asset="USD", type="merchant")
        before = await unit.value("select epoch from asset where code = 'USD'")
        await account.freeze(unit, "shop")
        await account.unfreeze(unit, "shop")
        await account.change_limits(unit, "shop", debits_must_not_exceed_credits=True)
        assert await unit.value("select epoch from asset where code = 'USD'") == before + 3
        changes = [item.status for item in unit._emitted if isinstance(item, events.AccountChanged)]
        assert changes == ["frozen", "active", "active"]


async def test_a_change_sees_the_newest_partition(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit changes a person's accounts in two assets, while others begin a partition of the second one's journal: all
    that stands there counts. Many times on one connection, so that this has in its caches whatever it needs."""
    let_rows_lag(monkeypatch)
    async with owning(db) as unit:
        name = await unit.value("select current_database()")
        await unit.rows(f"alter database {name} set pasys.partition_rows = '20'")
    await db.close()  # so that every connection has it
    pairs: dict[str, list[tuple[int, int]]] = {}
    async with db.unit() as unit:
        for asset in ("JPY", "USD"):
            source = await account.system(unit, "external:deposits", asset)
            opened = [await account.open(unit, name=name, asset=asset) for name in ("alice", "bob", "carol", "dave")]
            pairs[asset] = [(source, row.number) for row in opened]

    def deposits(asset: str) -> Columns:
        return Columns.of([direct(*pair, 1, asset=asset) for pair in pairs[asset] * 5])

    one = Database(db.settings, connections_max=1)
    for turn in range(1, 7):
        async with asyncio.timeout(WITHIN_S), Poster(db) as poster, one.unit() as unit:
            for asset in ("JPY", "JPY", "USD", "USD"):  # under the lock, and then by memory, so that rows lag
                await poster.post_many(deposits(asset))
            await account.balance(unit, "dave")
            await account.change_limits(unit, "dave", "JPY", credits_must_not_exceed_debits=False)
            await poster.post_many(deposits("USD"))
            changed = await account.change_limits(unit, "dave", "USD", credits_must_not_exceed_debits=False)
            assert changed.balance.posted.minor == 15 * turn
    await one.close()
    async with db.unit() as unit:
        assert (await ledger.verify(unit)).findings == []


async def test_a_limit_that_is_already_broken_is_refused(db: Database) -> None:
    """An account that is below zero cannot get the rule that it must not be, nor one above zero the other; what is held
    counts."""
    async with db.unit() as unit:
        shop = await account.open(unit, name="shop", asset="USD", type="merchant")
        bob = await account.open(unit, name="bob", asset="USD")
        await ledger.post(unit, [direct(shop.number, bob.number, 5)])
        with pytest.raises(LimitExceeded, match="debits_must_not_exceed_credits"):
            await account.change_limits(unit, "shop", debits_must_not_exceed_credits=True)
        with pytest.raises(LimitExceeded, match="credits_must_not_exceed_debits"):
            await account.change_limits(unit, "bob", credits_must_not_exceed_debits=True)
        kept = await account.open(unit, name="kept", asset="USD", type="merchant")
        await ledger.post(unit, [replace(direct(kept.number, bob.number, 5), kind=Kind.PENDING)])
        with pytest.raises(LimitExceeded, match="debits_must_not_exceed_credits"):
            await account.change_limits(unit, "kept", debits_must_not_exceed_credits=True)
        with pytest.raises(InvalidInput, match="the system's own"):
            await account.system(unit, "suspense", "USD")
            await account.freeze(unit, "suspense")


async def test_system_accounts_are_opened_once(db: Database) -> None:
    """Many units that need the same system account at once get one number; a unit that rolls back leaves no trace."""

    class Stop(Exception):
        pass

    with pytest.raises(Stop):
        async with db.unit() as unit:
            gone = await account.system(unit, "fees:psp", "JPY")
            assert await account.system(unit, "fees:psp", "JPY") == gone
            raise Stop

    async def one() -> int:
        async with db.unit() as unit:
            return await account.system(unit, "fees:psp", "JPY")

    numbers = await asyncio.gather(*[one() for _ in range(8)])
    assert len(set(numbers)) == 1 and numbers[0] != gone
    async with db.unit() as unit:
        many = await account.system_many(unit, ["fees:psp", "fees:income"], "JPY")
        assert many["fees:psp"] == numbers[0]
        rows = await ledger.balances(unit, list(many.values()))
        assert {row.posted.minor for row in rows.values()} == {0}


async def test_balance_shows_what_is_held(db: Database) -> None:
    """A hold for the account is pending and not available; a hold against it lowers available at once."""
    from pasys.domain import posting

    async with db.unit() as unit:
        alice = await account.open(unit, name="alice", asset="KWD")
        outside = await account.system(unit, "external:withdrawals", "KWD")
        await fund(unit, alice.number, 10_000, "KWD")
        held = posting.withdrawal_hold(
            account=alice.number, external=outside, amount_minor=2_500, asset="KWD", reference="tx_1",
            expires_at=unit.now + timedelta(days=1),
        )  # fmt: skip
        await ledger.post(unit, held)
        (row,) = await account.balance(unit, "alice")
        assert [str(row.available), str(row.posted), str(row.pending)] == ["7.500 KWD", "10.000 KWD", "-2.500 KWD"]
        (source,) = await account.balance(unit, "external:deposits")
        assert str(source.posted) == "10.000 KWD"


def test_normal_side() -> None:
    """What others owe to the system is shown as positive though it is a debit balance."""
    sides = {"debits_pending": 1, "debits_posted": 10, "credits_pending": 2, "credits_posted": 4}
    owed = balance("psp:stripe:receivable", "system", "USD", **sides)
    assert (owed.posted.minor, owed.pending.minor, owed.available.minor) == (6, -1, 4)
    mine = balance("alice", "customer", "USD", **sides)
    assert (mine.posted.minor, mine.pending.minor, mine.available.minor) == (-6, 1, -7)
    assert debit_normal("bank:main", "system") and not debit_normal("bank:main", "customer")
    assert clearing("refunds:in_flight", "system") and not clearing("fees:income", "system")


def test_rows_travel() -> None:
    """An account row is plain data that every face can serialise."""
    assert msgspec.json.encode(balance("a", "customer", "USD", debits_pending=0, debits_posted=0, credits_pending=0,
                                       credits_posted=5))  # fmt: skip
