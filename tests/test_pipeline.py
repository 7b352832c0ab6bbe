"""The money path: a payment is created, cleared, settled, posted, and partly refunded, by real daemons."""

from __future__ import annotations

from pasys.money import parse
from pasys.service import refund, refund_query
from tests.support import balance_of, daemons, eventually, open_accounts, pay, until_status


async def test_a_payment_goes_all_the_way(db, settings):
    """Created, checked, settled and posted: the merchant has the gross, the PSP owes the net."""
    async with db.unit() as unit:
        await open_accounts(unit)
    async with daemons(settings):
        transaction_id = await pay(db, "100.00")
        row = await until_status(db, transaction_id, "succeeded")
        assert row.fee_minor == 320
        assert (await balance_of(db, "shop")).minor == 10_000
        assert (await balance_of(db, "alice")).minor == 0
        assert (await balance_of(db, "psp:instant:receivable")).minor == 10_000 - 320


async def test_a_decline_leaves_nothing_behind(db, settings):
    """A declined card: the payment failed for a reason from the closed list, and the hold is released."""
    async with db.unit() as unit:
        await open_accounts(unit)
    async with daemons(settings):
        transaction_id = await pay(db, "100.00", payment_method="pm_card_visa_chargeDeclined")
        row = await until_status(db, transaction_id, "failed")
        assert row.reason == "declined"
        assert (await balance_of(db, "shop")).minor == 0


async def test_a_partial_refund_comes_back(db, settings):
    """Forty of a hundred go back: through refunds:in_flight to the customer, out of what the PSP owes us."""
    async with db.unit() as unit:
        await open_accounts(unit)
    async with daemons(settings):
        transaction_id = await pay(db, "100.00")
        await until_status(db, transaction_id, "succeeded")
        async with db.unit() as unit:
            asked = await refund.request(unit, transaction_id, amount=parse("40.00", "USD"))

        async def completed():
            async with db.unit() as unit:
                return (await refund_query.get(unit, asked.refund_id)).status == "completed"

        await eventually(completed)
        row = await until_status(db, transaction_id, "succeeded")
        assert row.refunded_minor == 4_000
        assert (await balance_of(db, "shop")).minor == 6_000
        assert (await balance_of(db, "refunds:in_flight")).minor == 0
