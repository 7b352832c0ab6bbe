"""A transaction is created all or nothing, refused by the rule's name, and moves only from where it is."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from pasys.db import Database
from pasys.domain.transaction import Kind, Status
from pasys.errors import (
    AccountClosed,
    AccountFrozen,
    AccountNotFound,
    AlreadyReversed,
    AmountNotSendable,
    CancelTooLate,
    IllegalTransition,
    InsufficientFunds,
    InvalidInput,
    NotReversible,
    PspMisconfigured,
    TransactionNotFound,
    UnknownRail,
    WrongAsset,
)
from pasys.events import decode
from pasys.money import Money, parse
from pasys.service import account, ledger, transaction, transaction_query, transaction_state
from pasys.service.transaction import Draft
from tests.psp_answers import capture, clear, decline, transaction_row
from tests.support import balance_of, open_accounts, pay

USD = "USD"


@pytest.fixture(autouse=True)
async def accounts(db: Database) -> None:
    """alice with 100.00, bob and shop with nothing."""
    async with db.unit() as unit:
        await open_accounts(unit, assets=[USD, "KWD"])
        await transaction.create(unit, Draft(amount=parse("100.00", USD), credit="alice"))


async def create(db: Database, amount: str = "30.00", asset: str = USD, **wanted: Any) -> str:
    wanted = {"debit": "alice", "credit": "shop"} | wanted
    async with db.unit() as unit:
        created = await transaction.create(unit, Draft(amount=parse(amount, asset), **wanted))
    assert created.transaction_id is not None
    return created.transaction_id


async def balances(db: Database, name: str) -> Any:
    async with db.unit() as unit:
        return next(held for held in await account.balance(unit, name) if held.asset == USD)


async def history(db: Database, transaction_id: str) -> list[tuple[str | None, str]]:
    async with db.unit() as unit:
        return [(row.from_status, row.to_status) for row in await transaction_query.history(unit, transaction_id)]


async def said(db: Database, transaction_id: str) -> list[str]:
    """What was announced of a transaction, oldest first."""
    async with db.unit() as unit:
        rows = await unit.rows("select body from event where correlation_id = %(id)s order by id", id=transaction_id)
    return [decode(bytes(row.body))[0].subject for row in rows]


async def count(db: Database, table: str) -> int:
    async with db.unit() as unit:
        return await unit.value(f"select count(*) from {table}")


# Creation ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("debit", "credit", "kind", "after"),
    [
        ("alice", "shop", "payment", {"alice": 7_000, "shop": 3_000}),
        ("alice", "bob", "transfer", {"alice": 7_000, "bob": 3_000}),
        (None, "bob", "deposit", {"bob": 3_000, "external:deposits": 13_000}),
        ("alice", None, "withdrawal", {"alice": 7_000, "external:withdrawals": 3_000}),
    ],
)
async def test_by_book_it_is_final_at_once(db, debit, credit, kind, after):
    """A book transaction is posted on both sides when it is created, and announces only that it succeeded."""
    transaction_id = await create(db, debit=debit, credit=credit)
    row = await transaction_row(db, transaction_id)
    assert (row.kind, row.rail, row.status, row.actor) == (kind, "book", "succeeded", "tester")
    assert row.final_at is not None and row.captured_minor == 0
    assert {name: (await balance_of(db, name)).minor for name in after} == after
    assert await history(db, transaction_id) == [(None, "initialized"), ("initialized", "succeeded")]
    assert await said(db, transaction_id) == ["transaction.succeeded"]
    async with db.unit() as unit:
        assert (await ledger.verify(unit)).ok


async def test_by_psp_it_is_held_and_waits(db):
    """A PSP's payment is pending; what is expected stands as pending on the payer, and cannot be spent."""
    transaction_id = await create(db, "40.00", rail="instant", payment_method="pm_card_visa")
    row = await transaction_row(db, transaction_id)
    assert (row.kind, row.status, row.final_at, row.outcome) == ("payment", "pending", None, None)
    payer, debtor = await balances(db, "alice"), await balances(db, "psp:instant:receivable")
    assert (payer.posted.minor, payer.pending.minor, payer.available.minor) == (10_000, 4_000, 10_000)
    assert (debtor.posted.minor, debtor.pending.minor) == (0, 4_000)
    assert (await balances(db, "shop")).pending.minor == 0
    assert await history(db, transaction_id) == [(None, "initialized"), ("initialized", "pending")]
    assert await said(db, transaction_id) == ["transaction.created"]


async def test_a_deposit_by_psp_reaches_its_own_account(db):
    """Who is paid in by a PSP needs no payee: the money arrives on their account."""
    transaction_id = await create(db, "40.00", rail="instant", debit=None, credit="bob")
    assert (await balances(db, "bob")).pending.minor == 4_000
    assert (await capture(db, transaction_id)).kind == "deposit"
    assert (await balances(db, "bob")).posted.minor == 4_000


async def test_the_payer_s_own_card_is_used(db):
    """Without a payment method the customer's own is taken; a named one wins."""
    async with db.unit() as unit:
        await account.open(unit, name="carol", type="customer", asset=USD, metadata={"payment_method": "pm_card_mc"})
    own = await create(db, rail="instant", debit="carol")
    named = await create(db, rail="instant", debit="carol", payment_method="pm_card_visa")
    methods = [(await transaction_row(db, one)).payment_method for one in (own, named)]
    assert methods == ["pm_card_mc", "pm_card_visa"]


async def test_accounts_go_by_name_or_id(db):
    """acc_ ids and names lead to the same accounts; metadata and the effective time are kept."""
    at = datetime(2026, 1, 31, 23, 59, tzinfo=UTC)
    async with db.unit() as unit:
        alice, shop = [(await account.find(unit, name, USD)).id for name in ("alice", "shop")]
    transaction_id = await create(db, debit=alice, credit=shop, metadata={"order": 7}, effective_at=at)
    row = await transaction_row(db, transaction_id)
    assert (row.debit, row.credit, row.metadata, row.effective_at) == ("alice", "shop", {"order": 7}, at)


REFUSALS: list[tuple[type[Exception], dict[str, Any]]] = [
    (AccountNotFound, {"debit": "nobody"}),
    (AccountNotFound, {"credit": "acc_0000000000001"}),
    (WrongAsset, {"amount": Money(100, "EUR")}),
    (WrongAsset, {"amount": Money(100, "ZZZ"), "debit": None}),
    (InsufficientFunds, {"amount": Money(10_001, USD)}),
    (InsufficientFunds, {"amount": Money(10_001, USD), "credit": None}),
    (UnknownRail, {"rail": "paypal"}),
    (PspMisconfigured, {"rail": "stripe"}),
    (InvalidInput, {"kind": Kind.DEPOSIT}),
    (InvalidInput, {"kind": Kind.WITHDRAWAL, "rail": "instant", "credit": None}),
    (InvalidInput, {"kind": Kind.TRANSFER, "rail": "instant", "credit": "bob"}),
    (InvalidInput, {"debit": None, "credit": None}),
    (InvalidInput, {"credit": "alice"}),
    (InvalidInput, {"credit": "alice", "rail": "instant"}),
    (InvalidInput, {"amount": Money(0, USD)}),
    (InvalidInput, {"amount": Money(-5, USD), "rail": "instant"}),
]


@pytest.mark.parametrize(("rule", "wanted"), REFUSALS, ids=lambda value: getattr(value, "__name__", str(value)[:60]))
async def test_refusals_have_the_rule_s_name(db, rule, wanted):
    """What a rule refuses raises that rule; no transaction, no key, no account and no word of it is left."""
    before = [await count(db, table) for table in ("transaction", "idempotency", "event", "account", "hold")]
    draft = {"amount": Money(3_000, USD), "debit": "alice", "credit": "shop", "key": "k"} | wanted
    with pytest.raises(rule) as refused:
        async with db.unit() as unit:
            await transaction.create(unit, Draft(**draft))
    assert type(refused.value) is rule
    assert [await count(db, table) for table in ("transaction", "idempotency", "event", "account", "hold")] == before


@pytest.mark.parametrize("rail", ["book", "instant"])
@pytest.mark.parametrize("name", ["alice", "shop"])
@pytest.mark.parametrize("rule", [AccountFrozen, AccountClosed])
async def test_frozen_and_closed_accounts_start_nothing(db, rail, name, rule):
    """Neither as payer nor as payee, by book or by PSP."""
    async with db.unit() as unit:
        if rule is AccountClosed:
            held = await account.balance(unit, "alice")
            await transaction.create(unit, Draft(amount=held[-1].posted, debit="alice"))
            await account.close(unit, name, USD)
        else:
            await account.freeze(unit, name, USD)
    with pytest.raises(rule) as refused:
        await create(db, rail=rail)
    assert refused.value.facts["account"] == name


@pytest.mark.parametrize(("amount", "sendable"), [("1.001", False), ("1.010", True)])
async def test_an_amount_that_the_psp_cannot_express_is_refused(db, settings, amount, sendable):
    """Stripe takes three-decimals currencies in tens of minor units: 1.001 KWD is refused before anything is held."""
    known = msgspec.structs.replace(settings, stripe_api_key="sk_test_1", stripe_api_base="http://127.0.0.1:1")
    database = Database(known)
    try:
        if sendable:
            assert await create(database, amount, "KWD", rail="stripe")
        else:
            with pytest.raises(AmountNotSendable, match=r"1\.001 KWD"):
                await create(database, amount, "KWD", rail="stripe")
    finally:
        await database.close()


# Batches -------------------------------------------------------------------------------------------------------------


def drafts() -> list[Draft]:
    """Three that are good and four that are not, the funds running out on the way."""
    good = {"debit": "alice", "credit": "shop"}
    return [
        Draft(amount=parse("60.00", USD), key="a", **good),
        Draft(amount=parse("60.00", USD), key="b", **good),
        Draft(amount=parse("40.00", USD), key="c", **good),
        Draft(amount=parse("1.00", USD), key="d", debit="nobody", credit="shop"),
        Draft(amount=parse("1.00", USD), key="e", rail="paypal", **good),
        Draft(amount=parse("1.00", USD), key="a", **good),
        Draft(amount=parse("5.00", USD), key="f", rail="instant", **good),
    ]


async def test_in_a_batch_the_good_ones_stand(db):
    """A refused draft leaves the others alone, each refusal has its rule, and a refused one takes no key."""
    async with db.unit() as unit:
        answers = await transaction.create_many(unit, drafts(), partial=True)
    assert [bool(answer.transaction_id) for answer in answers] == [True, False, True, False, False, False, True]
    rules = [answer.refusal.facts.get("rule") or answer.refusal.code for answer in answers if answer.refusal]
    assert rules == ["exceeds_credits", "account_not_found", "unknown_rail", "invalid_input"]
    assert await count(db, "idempotency") == 3
    assert (await balance_of(db, "alice")).minor == 0
    async with db.unit() as unit:
        names = {row.name for row in await account.listing(unit, type="system")}
        assert (await ledger.verify(unit)).ok
    assert "psp:paypal:receivable" not in names


async def test_a_refused_draft_gives_back_only_its_own_key(db):
    """A key that stands for an earlier transaction still does after a batch refused the key's second use."""
    draft = Draft(amount=parse("10.00", USD), debit="alice", credit="shop", key="k")
    async with db.unit() as unit:
        first = await transaction.create(unit, draft)
    async with db.unit() as unit:
        answers = await transaction.create_many(unit, [draft, draft], partial=True)
    assert [answer.replayed for answer in answers] == [True, False] and answers[1].refusal is not None
    async with db.unit() as unit:
        assert (await transaction.create(unit, draft)).transaction_id == first.transaction_id


async def test_without_partial_a_batch_is_all_or_none(db):
    """One refusal refuses the whole, by its rule."""
    with pytest.raises(AccountNotFound):
        async with db.unit() as unit:
            await transaction.create_many(unit, [drafts()[0], drafts()[3]], partial=False)
    assert await count(db, "transaction") == 1 and (await balance_of(db, "alice")).minor == 10_000


async def test_a_replay_answers_with_what_it_is_now(db):
    """The same key and body answer with the first transaction, as it stands today."""
    draft = Draft(amount=parse("10.00", USD), rail="instant", debit="alice", credit="shop", key="k")
    async with db.unit() as unit:
        first = await transaction.create(unit, draft)
    assert first.transaction_id is not None
    await capture(db, first.transaction_id)
    async with db.unit() as unit:
        again = await transaction.create(unit, draft)
    assert (again.transaction_id, again.status, again.replayed) == (first.transaction_id, Status.SUCCEEDED, True)
    assert await count(db, "transaction") == 2


# Cancel and reverse --------------------------------------------------------------------------------------------------


async def test_a_pending_payment_is_withdrawn(db):
    """Before settlement begins it can be cancelled: the hold is gone, and nobody will be charged."""
    transaction_id = await create(db, rail="instant")
    async with db.unit() as unit:
        await transaction_state.cancel(unit, transaction_id, reason="changed my mind")
    row = await transaction_row(db, transaction_id)
    assert (row.status, row.reason) == ("cancelled", "changed my mind")
    assert (await balances(db, "alice")).pending.minor == 0 and await count(db, "hold") == 0
    assert (await history(db, transaction_id))[-1] == ("pending", "cancelled")
    assert (await said(db, transaction_id))[-1] == "transaction.cancelled"
    with pytest.raises(IllegalTransition):
        async with db.unit() as unit:
            await transaction_state.cancel(unit, transaction_id)


async def test_once_the_psp_is_asked_it_is_too_late(db):
    """From the moment that the attempts are on record a payment cannot be cancelled; after a decline neither."""
    transaction_id = await create(db, rail="instant")
    await clear(db, transaction_id)
    with pytest.raises(CancelTooLate):
        async with db.unit() as unit:
            await transaction_state.cancel(unit, transaction_id)
    declined = await decline(db, await create(db, rail="instant"), "card_expired")
    assert (declined.status, declined.reason) == ("failed", "card_expired")
    with pytest.raises(IllegalTransition):
        async with db.unit() as unit:
            await transaction_state.cancel(unit, declined.id)
    with pytest.raises(TransactionNotFound):
        async with db.unit() as unit:
            await transaction_state.cancel(unit, "tx_nothing")


async def reverse(db: Database, transaction_id: str) -> str:
    async with db.unit() as unit:
        return await transaction_state.reverse(unit, transaction_id, reason="a mistake")


async def test_a_book_transaction_is_reversed_once(db):
    """Its mirror image takes the money back and names it; neither can be reversed again."""
    transaction_id = await create(db)
    reversal_id = await reverse(db, transaction_id)
    row = await transaction_row(db, reversal_id)
    assert (row.parent_id, row.debit, row.credit, row.status) == (transaction_id, "shop", "alice", "succeeded")
    assert (await balance_of(db, "alice")).minor == 10_000 and (await balance_of(db, "shop")).minor == 0
    with pytest.raises(AlreadyReversed, match=reversal_id):
        await reverse(db, transaction_id)
    with pytest.raises(NotReversible, match="itself the reversal"):
        await reverse(db, reversal_id)


async def test_a_psp_s_payment_is_refunded_and_not_reversed(db):
    """What went by a PSP goes back by the PSP."""
    transaction_id = await pay(db, "10.00")
    await capture(db, transaction_id)
    with pytest.raises(NotReversible, match="it went by instant"):
        await reverse(db, transaction_id)


async def test_what_was_spent_cannot_be_reversed(db):
    """A reversal obeys the limits of the account that it takes from."""
    transaction_id = await create(db, credit="bob")
    await create(db, "1.00", debit="bob")
    with pytest.raises(InsufficientFunds):
        await reverse(db, transaction_id)
    assert await count(db, "transaction") == 3


async def test_undo_is_all_or_none(db):
    """Every transaction of an import is reversed, the newest first, or none is."""
    batch = [
        Draft(amount=parse("10.00", USD), debit="alice", credit="bob", batch_id="imp_1"),
        Draft(amount=parse("10.00", USD), debit="bob", credit="shop", batch_id="imp_1"),
    ]
    async with db.unit() as unit:
        await transaction.create_many(unit, batch, partial=False)
    spent = await create(db, "10.00", debit="shop", credit=None)
    async with db.unit() as unit:
        await account.change_limits(unit, "shop", USD, debits_must_not_exceed_credits=True)
    with pytest.raises(InsufficientFunds):
        async with db.unit() as unit:
            await transaction_state.undo(unit, "imp_1")
    assert (await balance_of(db, "alice")).minor == 9_000 and await count(db, "transaction") == 4
    await reverse(db, spent)
    async with db.unit() as unit:
        assert len(await transaction_state.undo(unit, "imp_1")) == 2
        assert await transaction_state.undo(unit, "imp_1") == []
    assert (await balance_of(db, "alice")).minor == 10_000
    with pytest.raises(TransactionNotFound):
        async with db.unit() as unit:
            await transaction_state.undo(unit, "imp_nothing")
