"""A refund never promises more than was captured, waits for a second person above a limit, and is sent once."""

from __future__ import annotations

from itertools import product
from typing import Any

import msgspec
import pytest

from pasys.db import Database
from pasys.domain.refund import MOVES, Payment, Status, check_move, needs_approval, promise
from pasys.domain.transaction import Kind
from pasys.domain.transaction import Status as TransactionStatus
from pasys.errors import (
    IdempotencyMismatch,
    IllegalTransition,
    InvalidInput,
    InvalidSettings,
    NothingToResolve,
    RefundNotFound,
    RefundNotPossible,
    RefundTooLarge,
    SecondPersonRequired,
    TransactionNotFound,
)
from pasys.events import decode
from pasys.money import Money, parse
from pasys.service import account, ledger, refund, refund_query, refund_unknown, transaction
from pasys.service.refund import Requested
from pasys.service.transaction import Draft
from tests.psp_answers import (
    capture,
    complete_refund,
    decline,
    decline_refund,
    doubt_refund,
    refund_row,
    send_refund,
    transaction_row,
)
from tests.support import balance_of, open_accounts, pay

USD = "USD"

# Rules ---------------------------------------------------------------------------------------------------------------

PICTURE = {
    "requested": "awaiting_approval approved",
    "awaiting_approval": "approved rejected",
    "approved": "reserved declined",
    "reserved": "sent",
    "sent": "completed declined",
    "declined": "released",
    "completed": "",
    "rejected": "",
    "released": "",
}


def test_moves_are_those_of_the_picture():
    """Every pair of statuses either is an arrow of the picture, or is refused as an illegal transition."""
    for was, wanted in product(Status, Status):
        if str(wanted) in PICTURE[was].split():
            check_move("rf_1", was, wanted)
            assert wanted in MOVES[was]
        else:
            with pytest.raises(IllegalTransition):
                check_move("rf_1", was, wanted)


def paid(captured: int, refunding: int = 0, refunded: int = 0, rail: str = "stripe") -> Payment:
    parts = [Money(minor, USD) for minor in (captured, refunding, refunded)]
    return Payment("tx_1", Kind.PAYMENT, rail, TransactionStatus.SUCCEEDED, *parts)


@pytest.mark.parametrize(
    ("payment", "asked", "answer"),
    [
        (paid(100), None, 100),
        (paid(100), 100, 100),
        (paid(100), 1, 1),
        (paid(100, 30, 20), None, 50),
        (paid(100, 30, 20), 50, 50),
        (paid(100, 30, 20), 51, RefundTooLarge),
        (paid(100), 101, RefundTooLarge),
        (paid(100, 100, 0), None, RefundTooLarge),
        (paid(100, 0, 100), 1, RefundTooLarge),
        (paid(100), 0, InvalidInput),
        (paid(100), -1, InvalidInput),
        (paid(0), None, RefundNotPossible),
        (paid(0), 1, RefundNotPossible),
        (paid(100, rail="book"), 1, RefundNotPossible),
    ],
    ids=str,
)
def test_what_may_be_promised(payment: Payment, asked: int | None, answer: Any):
    """What was captured, less what is back and what is promised; nothing, less and more are refused by name."""
    amount = None if asked is None else Money(asked, USD)
    if isinstance(answer, int):
        assert promise(payment, amount) == Money(answer, USD)
    else:
        with pytest.raises(answer):
            promise(payment, amount)


def test_a_refund_is_in_the_payment_s_asset():
    """Euros are not given back for dollars."""
    with pytest.raises(InvalidInput, match="EUR"):
        promise(paid(100), Money(1, "EUR"))


@pytest.mark.parametrize(
    ("amount", "limits", "waits"),
    [
        ("1000.00", {"USD": "1000"}, False),
        ("1000.01", {"USD": "1000"}, True),
        ("0.01", {"USD": "0"}, True),
        ("999999.00", {"EUR": "1"}, False),
        ("999999.00", {}, False),
    ],
)
def test_above_the_limit_a_second_person_is_needed(amount: str, limits: dict[str, str], waits: bool):
    """The limit itself passes; an asset without a limit has none; a limit of 0 holds every refund."""
    assert needs_approval(parse(amount, USD), limits) is waits


@pytest.mark.parametrize("limit", ["many", "-1", "1.001", ""])
def test_a_wrong_limit_is_named(limit: str):
    """A limit that is no amount stops refunds with the setting's name; it is not read as no limit."""
    with pytest.raises(InvalidSettings, match=r"refund_approval_above\.USD"):
        needs_approval(parse("1", USD), {"USD": limit})


# Service -------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def payment(db: Database) -> str:
    """alice has paid shop 100.00 by a PSP that kept 7.77."""
    async with db.unit() as unit:
        await open_accounts(unit)
    transaction_id = await pay(db, "100.00")
    await capture(db, transaction_id, fee_minor=777)
    return transaction_id


async def ask(db: Database, transaction_id: str, amount: str | None = None, **wanted: Any) -> Requested:
    actor = wanted.pop("actor", None)
    async with db.unit(actor=actor) as unit:
        money = None if amount is None else parse(amount, USD)
        return await refund.request(unit, transaction_id, amount=money, **wanted)


async def standing(db: Database, transaction_id: str) -> tuple[str, int, int]:
    """A transaction's status, what is promised to refunds, and what is back."""
    row = await transaction_row(db, transaction_id)
    return row.status, row.refunding_minor, row.refunded_minor


async def books(db: Database) -> dict[str, int]:
    """What is posted where, once the books hold."""
    async with db.unit() as unit:
        assert (await ledger.verify(unit)).ok
        rows = await account.listing(unit, asset=USD)
    return {row.name: row.balance.posted.minor for row in rows if row.balance.posted.minor}


async def steps(db: Database, refund_id: str) -> list[str]:
    async with db.unit() as unit:
        return [row.to_status for row in await refund_query.history(unit, refund_id)]


SETTLED = {"shop": 10_000, "psp:instant:receivable": 9_223, "fees:psp": 777}


async def test_everything_goes_back(db, payment):
    """Through refunds:in_flight and the customer's account, out of what the PSP owes us; the fee stays what it was."""
    assert await books(db) == SETTLED
    asked = await ask(db, payment, reason="returned")
    assert (asked.status, asked.replayed) == (Status.APPROVED, False)
    assert await standing(db, payment) == ("refunding", 10_000, 0)
    await send_refund(db, asked.refund_id)
    held = await books(db)
    assert "shop" not in held and held["refunds:in_flight"] == 10_000
    done = await complete_refund(db, asked.refund_id)
    assert (done.status, done.psp_reference, done.reason) == ("completed", "re_1", "returned")
    assert await standing(db, payment) == ("refunded", 0, 10_000)
    assert await books(db) == {"psp:instant:receivable": -777, "fees:psp": 777}
    assert await steps(db, asked.refund_id) == ["requested", "approved", "reserved", "sent", "completed"]


async def test_the_fee_is_the_stored_one(db, payment):
    """What the PSP kept is what it said, whatever a formula would give; a refund neither changes nor returns it."""
    assert (await transaction_row(db, payment)).fee_minor == 777
    asked = await ask(db, payment, "40.00")
    await send_refund(db, asked.refund_id)
    await complete_refund(db, asked.refund_id)
    assert (await transaction_row(db, payment)).fee_minor == 777
    assert (await balance_of(db, "fees:psp")).minor == 777


async def test_parts_add_up_to_the_whole(db, payment):
    """Partial refunds come and go between succeeded and refunding; what is left is what may be asked."""
    first = await ask(db, payment, "60.00")
    with pytest.raises(RefundTooLarge, match=r"40\.00 USD left"):
        await ask(db, payment, "60.00")
    await send_refund(db, first.refund_id)
    await complete_refund(db, first.refund_id)
    assert await standing(db, payment) == ("succeeded", 0, 6_000)
    second, third = await ask(db, payment, "15.00"), await ask(db, payment)
    assert (await refund_row(db, third.refund_id)).amount.minor == 2_500
    assert await standing(db, payment) == ("refunding", 4_000, 6_000)
    await send_refund(db, second.refund_id)
    await complete_refund(db, second.refund_id)
    assert await standing(db, payment) == ("refunding", 2_500, 7_500)
    await send_refund(db, third.refund_id)
    await complete_refund(db, third.refund_id)
    assert await standing(db, payment) == ("refunded", 0, 10_000)
    with pytest.raises(RefundTooLarge):
        await ask(db, payment, "0.01")


async def test_only_what_a_psp_captured_goes_back(db, payment):
    """By book, before capture and after a decline there is nothing to refund."""
    async with db.unit() as unit:
        book = await transaction.create(unit, Draft(amount=parse("5.00", USD), debit="shop", credit="bob"))
    pending = await pay(db, "10.00")
    declined = await decline(db, await pay(db, "10.00"))
    for transaction_id in (book.transaction_id, pending, declined.id):
        with pytest.raises(RefundNotPossible):
            await ask(db, transaction_id or "")
    with pytest.raises(TransactionNotFound):
        await ask(db, "tx_nothing")


async def test_a_decline_gives_everything_back_to_the_merchant(db, payment):
    """What was reserved is the merchant's again, the promise is gone, and it may be asked anew."""
    asked = await ask(db, payment, "40.00")
    await send_refund(db, asked.refund_id)
    declined = await decline_refund(db, asked.refund_id, "card_expired")
    assert (declined.status, declined.decline_reason) == ("released", "card_expired")
    assert await books(db) == SETTLED
    assert await standing(db, payment) == ("succeeded", 0, 0)
    assert (await steps(db, asked.refund_id))[-2:] == ["declined", "released"]
    assert (await ask(db, payment)).status is Status.APPROVED


async def test_a_refund_that_a_rule_stops_moves_no_money(db, payment):
    """Declined before anything was reserved: nothing to release but the promise."""
    asked = await ask(db, payment, "40.00")
    assert (await decline_refund(db, asked.refund_id, "insufficient_funds")).status == "released"
    assert await books(db) == SETTLED and await standing(db, payment) == ("succeeded", 0, 0)


async def test_said_twice_it_happens_once(db, payment):
    """Every step names where it comes from: repeated, or too late, it changes nothing."""
    asked = await ask(db, payment, "40.00")
    await send_refund(db, asked.refund_id)
    async with db.unit() as unit:
        assert await refund.reserve(unit, asked.refund_id) is None
        assert await refund.send(unit, asked.refund_id) is None
    for _ in range(2):
        assert (await complete_refund(db, asked.refund_id)).status == "completed"
    assert (await decline_refund(db, asked.refund_id)).status == "completed"
    assert await standing(db, payment) == ("succeeded", 0, 4_000)
    assert await books(db) == {"shop": 6_000, "psp:instant:receivable": 5_223, "fees:psp": 777}


# Approval ------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def waiting(db: Database, payment: str) -> str:
    """A refund of 40.00 that waits, because everything above 10.00 does."""
    db.settings = msgspec.structs.replace(db.settings, refund_approval_above={"USD": "10"})
    asked = await ask(db, payment, "40.00")
    assert asked.status is Status.AWAITING_APPROVAL
    return asked.refund_id


async def test_a_second_person_says_yes(db, payment, waiting):
    """Who asked may not decide; somebody else may, once; then it goes on its way."""
    with pytest.raises(SecondPersonRequired):
        async with db.unit() as unit:
            await refund.approve(unit, waiting)
    async with db.unit(actor="second") as unit:
        await refund.approve(unit, waiting)
    row = await refund_row(db, waiting)
    assert (row.status, row.requested_by, row.decided_by) == ("approved", "tester", "second")
    with pytest.raises(IllegalTransition):
        async with db.unit(actor="third") as unit:
            await refund.approve(unit, waiting)
    with pytest.raises(IllegalTransition):
        async with db.unit(actor="third") as unit:
            await refund.reject(unit, waiting, reason="late")


async def test_a_second_person_says_no(db, payment, waiting):
    """The promise is taken back: nothing is left of it but its history."""
    assert await standing(db, payment) == ("refunding", 4_000, 0)
    with pytest.raises(SecondPersonRequired):
        async with db.unit() as unit:
            await refund.reject(unit, waiting, reason="no")
    async with db.unit(actor="second") as unit:
        await refund.reject(unit, waiting, reason="not ours")
    row = await refund_row(db, waiting)
    assert (row.status, row.decided_by) == ("rejected", "second") and row.final_at is not None
    assert await standing(db, payment) == ("succeeded", 0, 0) and await books(db) == SETTLED


async def test_what_waits_is_promised(db, payment, waiting):
    """Nobody else gets what waits for approval, and nothing happens to it by itself."""
    with pytest.raises(RefundTooLarge):
        await ask(db, payment, "70.00")
    async with db.unit() as unit:
        assert await refund.reserve(unit, waiting) is None
    assert (await refund_row(db, waiting)).status == "awaiting_approval"


async def test_what_a_rule_sends_back_waits_for_nobody(db, payment, waiting):
    """An automatic refund needs no approval, whatever its amount, and takes only what is left."""
    async with db.unit(actor="daemon:ledger") as unit:
        asked, approved = await refund.start_automatic(unit, payment, reason="suspected_fraud")
    assert (asked.subject, approved.subject) == ("refund.requested", "refund.approved")
    row = await refund_row(db, asked.entity_id)
    assert (row.status, row.automatic, row.amount.minor) == ("approved", True, 6_000)


# Keys, unknown outcomes, rows ----------------------------------------------------------------------------------------


async def test_a_key_stands_for_one_request(db, payment):
    """The same request again is the same refund; another body is a conflict; another actor's key is another key."""
    first = await ask(db, payment, "10.00", key="k")
    again = await ask(db, payment, "10.00", key="k")
    assert (again.refund_id, again.replayed) == (first.refund_id, True)
    for other in ({"amount": "11.00"}, {"amount": None}, {"amount": "10.00", "reason": "why"}):
        with pytest.raises(IdempotencyMismatch, match=first.refund_id):
            await ask(db, payment, key="k", **other)
    somebody = await ask(db, payment, "10.00", key="k", actor="somebody")
    assert somebody.refund_id != first.refund_id
    assert await standing(db, payment) == ("refunding", 2_000, 0)


async def test_a_refused_request_takes_no_key(db, payment):
    """What was too large can be asked again, smaller, under the same key."""
    with pytest.raises(RefundTooLarge):
        await ask(db, payment, "100.01", key="k")
    assert not (await ask(db, payment, "100.00", key="k")).replayed


async def test_an_unknown_outcome_stays_sent(db, payment):
    """Nobody guesses: the money stays reserved, the PSP can be asked again, and its answer counts."""
    asked = await ask(db, payment, "40.00")
    await send_refund(db, asked.refund_id)
    with pytest.raises(NothingToResolve):
        async with db.unit() as unit:
            await refund_unknown.ask_again(unit, asked.refund_id)
    row = await doubt_refund(db, asked.refund_id)
    assert (row.status, row.outcome) == ("sent", "unknown")
    assert await standing(db, payment) == ("refunding", 4_000, 0)
    async with db.unit() as unit:
        assert await refund_unknown.resolve(unit) == [], "it is not due yet"
        await refund_unknown.ask_again(unit, asked.refund_id)
    async with db.unit() as unit:
        (again,) = await refund_unknown.resolve(unit)
    assert (again.refund_id, again.again, again.psp_reference) == (asked.refund_id, True, "pi_1")
    done = await complete_refund(db, asked.refund_id)
    assert (done.status, done.outcome) == ("completed", None)


async def test_refunds_are_found_by_what_they_are(db, payment):
    """Filters narrow, pages are whole, and words that mean nothing are refused."""
    made = [(await ask(db, payment, "1.00")).refund_id for _ in range(5)]
    await send_refund(db, made[0])
    async with db.unit() as unit:
        sent = await refund_query.listing(unit, status="sent")
        mine = await refund_query.listing(unit, transaction=payment)
        pages = await refund_query.listing(unit, limit=2), await refund_query.listing(unit, limit=3, after=made[3])
        nothing = await refund_query.listing(unit, transaction="tx_nothing")
        automatic = await refund_query.listing(unit, automatic=True)
        for asked in ({"status": "BANANA"}, {"status": "SENT"}, {"limit": 0}):
            with pytest.raises(InvalidInput):
                await refund_query.listing(unit, **asked)
        with pytest.raises(RefundNotFound):
            await refund_query.get(unit, "rf_nothing")
    assert [row.id for row in sent] == [made[0]] and [row.id for row in mine] == made[::-1]
    assert [row.id for page in pages for row in page] == made[::-1]
    assert [*nothing, *automatic] == []


async def test_every_step_is_announced(db, payment):
    """What happens to a refund can be followed on the bus, each step with the actor that took it."""
    asked = await ask(db, payment, "40.00")
    async with db.unit() as unit:
        rows = await unit.rows("select body from event where entity_id = %(id)s order by id", id=asked.refund_id)
    envelopes = [decode(bytes(row.body))[0] for row in rows]
    assert [envelope.subject for envelope in envelopes] == ["refund.requested", "refund.approved"]
    assert {(envelope.actor, envelope.correlation_id) for envelope in envelopes} == {("tester", payment)}
