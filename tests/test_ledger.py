"""What is posted is right, complete, in order, and cannot be changed, however many post at once."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pasys.db import Database, Unit
from pasys.domain import posting
from pasys.domain.ledger import Kind, Posted, Purpose
from pasys.domain.ledger_columns import Columns
from pasys.errors import (
    AccountNotFound,
    HoldUnusable,
    InsufficientFunds,
    InvalidInput,
    LimitExceeded,
    TransferConflict,
    TransferRefused,
    UnknownAsset,
    WrongAsset,
)
from pasys.ids import uuid7
from pasys.money import MINOR_MAX
from pasys.service import account, ledger
from tests.ledger_batches import Batches
from tests.ledger_kit import T0, compare, direct, hold_of, people, posted
from tests.ledger_model import Model, ModelAccount

# The rules, against the oracle ---------------------------------------------------------------------------------------


@given(st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_batch_equals_one_by_one(seed: int) -> None:
    """A batch judged at once answers exactly as its transfers would have one after the other."""
    compare(seed)


@pytest.mark.slow
@given(st.integers(0, 2**32))
@settings(max_examples=3_000, deadline=None)
def test_batch_equals_one_by_one_at_length(seed: int) -> None:
    """The same, for long."""
    compare(seed)


async def against_the_database(db: Database, seed: int, rounds: int) -> None:
    """Random batches through post(), the journal and accounts compared with the oracle, and verified."""
    oracle = Model("USD")
    async with db.unit(now=T0) as unit:
        source = await account.system(unit, "external:deposits", "USD")
        numbers = [source, *await people(unit, *[f"user_{i}" for i in range(5)])]
        for number in numbers:
            row = await unit.row("select * from account where id = %(id)s", id=number)
            oracle.accounts[number] = ModelAccount("USD", row.flags)
    batches = Batches(seed, numbers)
    now = T0
    for _ in range(rounds):
        now += timedelta(seconds=batches.random.randint(0, 30))
        batch = batches.batch(batches.random.randint(1, 60), now)
        async with db.unit(now=now) as unit:
            answers = await ledger.post(unit, batch, refuse=False)
        assert [(a.result, a.replayed, a.seq) for a in answers] == oracle.post(batch, now)
    async with db.unit() as unit:
        for number, one in oracle.accounts.items():
            row = await unit.row("select * from account where id = %(id)s", id=number)
            names = ("version", "debits_pending", "debits_posted", "credits_pending", "credits_posted")
            assert [getattr(row, name) for name in names] == [getattr(one, name) for name in names]
        rows = await ledger.transfers(unit, asset="USD", limit=10_000)
        assert [(r.id, r.result, r.seq) for r in rows] == [(r.transfer.id, r.result, r.seq) for r in oracle.journal]
        assert await unit.value("select count(*) from hold") == len(oracle.holds)
        assert (await ledger.verify(unit)).findings == []


@pytest.mark.parametrize("seed", range(3))
async def test_database_equals_the_model(db: Database, seed: int) -> None:
    """Journal, accounts and holds in PostgreSQL are those of the oracle, and verify agrees."""
    await against_the_database(db, seed, rounds=12)


@pytest.mark.slow
@given(seed=st.integers(0, 2**32))
@settings(max_examples=1, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_database_equals_the_model_at_length(db: Database, seed: int) -> None:
    """The same, for long."""
    await against_the_database(db, seed, rounds=150)


# One transfer at a time ----------------------------------------------------------------------------------------------


async def test_payment_from_hold_to_payout(unit: Unit) -> None:
    """The posting table of the design: gross 100.00, fee 3.20, refund 40.00, and every clearing account explained."""
    (alice,) = await people(unit, "alice")
    shop = (await account.open(unit, name="shop", asset="USD", type="merchant")).number
    names = ["psp:stripe:receivable", "fees:psp", "refunds:in_flight", "bank:main"]
    receivable, fees, flight, bank = (await account.system_many(unit, names, "USD")).values()
    same = {"asset": "USD", "reference": "tx_1"}
    (held,) = posting.payment_hold(receivable=receivable, customer=alice, amount_minor=10_000, **same)
    await ledger.post(unit, [held])
    (before,) = await account.balance(unit, "alice")
    assert (before.posted.minor, before.pending.minor, before.available.minor) == (0, 10_000, 0)
    await ledger.post(unit, posting.settlement(hold=hold_of(held), merchant=shop))
    await ledger.post(unit, posting.psp_fee(bearer=fees, receivable=receivable, amount_minor=320, **same))
    await ledger.post(unit, posting.refund_reserve(account=shop, in_flight=flight, amount_minor=4_000, **same))
    await ledger.post(
        unit,
        posting.refund_complete(in_flight=flight, customer=alice, receivable=receivable, amount_minor=4_000, **same),
    )
    await ledger.post(unit, posting.payout(bank=bank, receivable=receivable, amount_minor=5_680, **same))
    assert [await posted(unit, n) for n in (alice, shop, receivable, fees, flight, bank)] == [0, 6000, 0, 320, 0, 5680]
    assert (await ledger.verify(unit)).ok


async def test_partial_post_releases_the_rest(unit: Unit) -> None:
    """A hold is posted once, for all or part of it; what was not posted is free again."""
    alice, bob = await people(unit, "alice", "bob", funds=100)
    (held,) = posting.withdrawal_hold(account=alice, external=bob, amount_minor=100, asset="USD", reference="tx_1")
    await ledger.post(unit, [held])
    with pytest.raises(InsufficientFunds, match=r"alice has 0\.00 USD available; 0\.01 USD was asked"):
        await ledger.post(unit, [direct(alice, bob, 1)])
    await ledger.post(unit, posting.capture(hold=hold_of(held), captured_minor=60))
    (row,) = await account.balance(unit, "alice")
    assert (row.posted.minor, row.available.minor, row.pending.minor) == (40, 40, 0)
    for again in (posting.capture(hold=hold_of(held)), posting.void(hold=hold_of(held))):
        with pytest.raises(HoldUnusable, match="hold_resolved"):
            await ledger.post(unit, again)


async def test_expired_holds_are_listed_and_only_voided(db: Database) -> None:
    """From its deadline on a hold cannot be posted; it is listed until it is voided. Without a deadline it stays."""
    async with db.unit(now=T0) as unit:
        alice, bob = await people(unit, "alice", "bob", funds=100)
        held = [
            posting.withdrawal_hold(
                account=alice, external=bob, amount_minor=10, asset="USD", reference="tx_1", expires_at=deadline
            )[0]
            for deadline in (T0 + timedelta(seconds=10), T0 + timedelta(seconds=20), None)
        ]
        await ledger.post(unit, held)
    async with db.unit(now=T0 + timedelta(seconds=10)) as unit:
        (expired,) = await ledger.expired_holds(unit, 10)
        assert expired == hold_of(held[0])
        with pytest.raises(HoldUnusable, match="hold_expired"):
            await ledger.post(unit, posting.capture(hold=expired))
        await ledger.post(unit, posting.void(hold=expired))
        assert await ledger.expired_holds(unit, 10) == []
        assert set(await ledger.holds(unit, [t.id for t in held])) == {held[1].id, held[2].id}


async def test_same_id_is_posted_once(db: Database) -> None:
    """A repeated id answers with the first result, marked as replayed; with other fields it is a conflict."""
    async with db.unit() as unit:
        alice, bob = await people(unit, "alice", "bob", funds=100)
        transfer = direct(alice, bob, 60, reference="tx_1")
        (first,) = await ledger.post(unit, [transfer])
    async with db.unit() as unit:
        (again,) = await ledger.post(unit, [transfer])
        assert again == replace(first, replayed=True)
        assert await posted(unit, bob) == 160
    others = ({"amount_minor": 61}, {"credit": 5}, {"reference": "tx_2"}, {"purpose": Purpose.FEE}, {"asset": "EUR"})
    for other in others:
        with pytest.raises(TransferConflict):
            async with db.unit() as unit:
                await ledger.post(unit, [replace(transfer, **other)])


async def test_a_replay_in_a_chain_keeps_its_answer(unit: Unit) -> None:
    """Where the order decides, a repeated transfer is not judged again by what the account has left."""
    alice, bob = await people(unit, "alice", "bob", funds=100)
    first = direct(alice, bob, 60)
    await ledger.post(unit, [first])
    batch = [replace(first, linked=True), direct(alice, bob, 30), direct(alice, bob, 30)]
    answers = await ledger.post(unit, batch, refuse=False)
    assert [a.result.rule for a in answers] == ["accepted", "accepted", "exceeds_credits"]
    assert [a.replayed for a in answers] == [True, False, False]


@pytest.mark.parametrize("at_once", [True, False])
async def test_no_sum_leaves_its_range(unit: Unit, at_once: bool) -> None:
    """What an account without limits has sent stays a 64-bit number, and so does what it has received."""
    names = ["external:deposits", "external:withdrawals", "bank:main"]
    sender, receiver, third = (await account.system_many(unit, names, "USD")).values()
    batch = [direct(sender, receiver, MINOR_MAX)]
    batch += [direct(sender, third, 1), direct(third, receiver, 1), direct(receiver, sender, 1)]
    answers = []
    for part in [batch] if at_once else [[one] for one in batch]:
        answers += await ledger.post(unit, part, refuse=False)
    assert [a.result.rule for a in answers] == ["accepted", "exceeds_range", "exceeds_range", "accepted"]


async def test_refused_in_a_unit_writes_nothing(db: Database) -> None:
    """Inside a Unit the first refusal raises, and neither the good transfers nor the refusal are recorded."""
    async with db.unit() as unit:
        alice, bob = await people(unit, "alice", "bob", funds=100)
    with pytest.raises(InsufficientFunds):
        async with db.unit() as unit:
            await ledger.post(unit, [direct(alice, bob, 60), direct(alice, bob, 60)])
    async with db.unit() as unit:
        assert len(await ledger.transfers(unit, asset="USD")) == 2
        assert await posted(unit, bob) == 100


async def test_refusals_are_recorded_where_asked(unit: Unit) -> None:
    """In a batch that does not raise, the refusal is a journal row with the rule that refused, and keeps its id."""
    alice, bob = await people(unit, "alice", "bob", funds=100)
    batch = [direct(alice, bob, 60), direct(alice, bob, 60), direct(bob, alice, 5)]
    answers = await ledger.post(unit, batch, refuse=False)
    assert [(a.result.rule, a.seq) for a in answers] == [("accepted", 3), ("exceeds_credits", 4), ("accepted", 5)]
    rows = await ledger.transfers(unit, asset="USD", account=alice, after_seq=2)
    assert [row.result for row in rows] == [a.result for a in answers]
    with pytest.raises(InsufficientFunds):
        await ledger.post(unit, [batch[1]])


async def test_each_rule_has_its_error(unit: Unit) -> None:
    """Every refusal raises the error that is named after the rule, with the account's own name."""
    alice, bob = await people(unit, "alice", "bob", funds=100)
    (euro,) = await people(unit, "carol", asset="EUR")
    capped = await account.open(unit, name="capped", asset="USD", type="merchant", credits_must_not_exceed_debits=True)
    nobody = posting.void(hold=hold_of(direct(alice, bob, 1, kind=Kind.PENDING)))[0]
    wrong = [
        (direct(alice, bob, 0), TransferRefused, "amount_not_positive"),
        (direct(alice, bob, -1), TransferRefused, "amount_not_positive"),
        (direct(alice, alice, 1), TransferRefused, "same_account"),
        (direct(5, bob, 1), AccountNotFound, "acc_"),
        (direct(alice, 5, 1), AccountNotFound, "acc_"),
        (direct(alice, euro, 1), WrongAsset, "carol is kept in EUR; USD"),
        (direct(alice, bob, 101), InsufficientFunds, "alice has 1.00 USD"),
        (direct(alice, capped.number, 1), LimitExceeded, "capped would break its limit credits_must_not"),
        (nobody, HoldUnusable, "hold_not_found"),
    ]
    for transfer, error, text in wrong:
        with pytest.raises(error, match=text):
            await ledger.post(unit, [transfer])
    with pytest.raises(UnknownAsset):
        await ledger.post(unit, [direct(alice, bob, 1, asset="XXQ")])
    with pytest.raises(AccountNotFound):
        await ledger.post(unit, [direct(1, 2, 1, asset="SEK")])


async def test_linked_all_or_none(unit: Unit) -> None:
    """Of a chain all transfers are applied, or none; the one that failed keeps its rule."""
    alice, bob = await people(unit, "alice", "bob", funds=100)
    chain = [direct(alice, bob, 100, linked=True), direct(bob, alice, 500, linked=True), direct(alice, bob, 1)]
    answers = await ledger.post(unit, [*chain, direct(alice, bob, 7)], refuse=False)
    assert [a.result.rule for a in answers] == ["linked_failed", "exceeds_credits", "linked_failed", "accepted"]
    assert await posted(unit, bob) == 107
    answers = await ledger.post(unit, [replace(t, id=uuid7()) for t in chain], refuse=False)
    assert [a.seq for a in answers] == [7, 8, 9]
    with pytest.raises(InsufficientFunds, match="account alice"):
        await ledger.post(unit, [replace(t, id=uuid7()) for t in chain])


async def test_one_of_a_failed_chain_is_asked_for_again(unit: Unit) -> None:
    """By itself it has no reason of its own, and is refused as it was."""
    alice, bob = await people(unit, "alice", "bob", funds=100)
    chain = [direct(alice, bob, 1, linked=True), direct(bob, alice, 500)]
    await ledger.post(unit, chain, refuse=False)
    with pytest.raises(TransferRefused, match="linked_failed"):
        await ledger.post(unit, [direct(alice, bob, 2), replace(chain[0], linked=False)])
    with pytest.raises(InsufficientFunds, match="bob"):
        await ledger.post(unit, [replace(chain[0], linked=False), chain[1]])


async def test_several_assets_in_one_batch(unit: Unit) -> None:
    """A batch may span assets, is all or none across them, and answers in its own order. A chain stays in one."""
    usd = await people(unit, "alice", "bob", funds=100)
    jpy = await people(unit, "kenji", "yuki", asset="JPY", funds=100)
    batch = [direct(*usd, 1), direct(*jpy, 2, asset="JPY"), direct(*usd, 3)]
    assert [a.seq for a in await ledger.post(unit, batch)] == [3, 3, 4]
    with pytest.raises(InsufficientFunds):
        await ledger.post(unit, [direct(*usd, 1), direct(*jpy, 1_000, asset="JPY")])
    assert [await posted(unit, n) for n in (*usd, *jpy)] == [96, 104, 98, 102]
    with pytest.raises(InvalidInput, match="no next one"):
        await ledger.post(unit, [direct(*usd, 1), direct(*usd, 1, linked=True)])
    with pytest.raises(InvalidInput, match="one asset"):
        await ledger.post(unit, [direct(*usd, 1, linked=True), direct(*jpy, 1, asset="JPY")])
    assert await ledger.post(unit, []) == []
    with pytest.raises(InvalidInput, match="at most"):
        await ledger.post(unit, [batch[0]] * (ledger.BATCH_MAX + 1))
    with pytest.raises(InvalidInput, match="at most"):
        await ledger.post_many(unit, Columns.of([direct(*usd, 1)] * (ledger.BATCH_MAX + 1)))


async def test_one_id_in_two_assets_is_a_conflict(db: Database) -> None:
    """A batch that gives one id to two assets is refused by the name of that id, and writes nothing."""
    async with db.unit() as unit:
        usd = await people(unit, "alice", "bob", funds=100)
        jpy = await people(unit, "kenji", "yuki", asset="JPY", funds=100)
    one = direct(*usd, 1)
    with pytest.raises(TransferConflict, match=str(one.id)):
        async with db.unit() as unit:
            await ledger.post(unit, [direct(*usd, 1), one, direct(*jpy, 1, asset="JPY", id=one.id)], refuse=False)
    async with db.unit() as unit:
        assert [await posted(unit, n) for n in (*usd, *jpy)] == [100] * 4


@pytest.mark.parametrize(
    ("asset", "text"),
    [("JPY", "12,345 JPY"), ("KWD", "12.345 KWD"), ("DAI", "0.000012345 DAI"), ("USDC", "0.012345 USDC")],
)
async def test_every_scale_is_exact(unit: Unit, asset: str, text: str) -> None:
    """Zero, three, six or nine decimals: the books hold whole minor units and say them without rounding."""
    (alice,) = await people(unit, "alice", asset=asset, funds=12_345)
    assert str((await ledger.balances(unit, [alice]))[alice].posted) == text


# Many at once --------------------------------------------------------------------------------------------------------


async def test_opposite_transfers_do_not_deadlock(db: Database) -> None:
    """Sixty opposite transfers over two assets from twelve connections all succeed, and nothing is lost."""
    async with db.unit() as unit:
        usd = await people(unit, "alice", "bob", funds=1_000)
        eur = await people(unit, "alice", "bob", asset="EUR", funds=1_000)

    async def one(i: int) -> None:
        pairs = [(usd, "USD"), (eur, "EUR")][:: 1 if i % 2 else -1]
        async with db.unit() as unit:
            batch = [direct(*(numbers[:: 1 if i % 3 else -1]), 10, asset=asset) for numbers, asset in pairs]
            await ledger.post(unit, batch)

    await asyncio.gather(*[one(i) for i in range(60)])
    async with db.unit() as unit:
        assert sum([await posted(unit, n) for n in usd]) == 2_000
        verification = await ledger.verify(unit)
        assert verification.ok and verification.transfers == 4 + 120


async def test_seq_is_gapless_with_many_writers(db: Database) -> None:
    """Writers that succeed, fail and roll back leave a journal that counts 1, 2, 3 … in commit order."""
    async with db.unit() as unit:
        alice, bob = await people(unit, "alice", "bob", funds=100)

    class Stop(Exception):
        pass

    async def one(i: int) -> None:
        try:
            async with db.unit() as unit:
                await ledger.post(unit, [direct(alice, bob, 1), direct(bob, alice, 1)])
                if i % 3 == 0:
                    raise Stop
        except Stop:
            pass

    await asyncio.gather(*[one(i) for i in range(30)])
    async with db.unit() as unit:
        rows = await ledger.transfers(unit, asset="USD", limit=1_000)
        assert [row.seq for row in rows] == list(range(1, 2 + 40 + 1))


async def test_two_hundred_at_once_cannot_overspend(db: Database) -> None:
    """Of two hundred simultaneous payments of 10 from an account with 100, ten succeed."""
    async with db.unit() as unit:
        (alice,) = await people(unit, "alice", funds=100)
        (bob,) = await people(unit, "bob")

    async def one() -> bool:
        try:
            async with db.unit() as unit:
                await ledger.post(unit, [direct(alice, bob, 10)])
            return True
        except InsufficientFunds:
            return False

    assert sum(await asyncio.gather(*[one() for _ in range(200)])) == 10


async def test_same_id_at_once_is_posted_once(db: Database) -> None:
    """Five simultaneous requests with one id: one is posted and all five get its answer."""
    async with db.unit() as unit:
        alice, bob = await people(unit, "alice", "bob", funds=100)
    transfer = direct(alice, bob, 60)

    async def one() -> Posted:
        async with db.unit() as unit:
            return (await ledger.post(unit, [transfer]))[0]

    answers = await asyncio.gather(*[one() for _ in range(5)])
    assert {a.seq for a in answers} == {3} and sorted(a.replayed for a in answers) == [False, True, True, True, True]
