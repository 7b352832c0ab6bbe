"""Every step of a payment, refund or order is a recipe here: the transfers that put it into the books.

Accounts are numbers, amounts are minor units. Ids are minted with the transfers; the caller keeps them on its own row.
Who owes whom: a PSP's receivable is what the PSP owes us, so a payment debits it and a payout credits it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np

from pasys.domain import transaction
from pasys.domain.ledger import Hold, Kind, Purpose, Transfer
from pasys.domain.ledger_columns import Columns, Int64s, Uuids

# What a transaction by book is to the books.
BOOK_PURPOSES = {
    transaction.Kind.PAYMENT: Purpose.BOOK,
    transaction.Kind.TRANSFER: Purpose.BOOK,
    transaction.Kind.DEPOSIT: Purpose.DEPOSIT,
    transaction.Kind.WITHDRAWAL: Purpose.WITHDRAWAL,
}


def payment_hold(
    *,
    receivable: int,
    customer: int,
    amount_minor: int,
    asset: str,
    reference: str,
    expires_at: datetime | None = None,
    purpose: Purpose = Purpose.HOLD,
) -> list[Transfer]:
    """The payment is expected: visible as pending on the customer, spendable by nobody."""
    return [
        Transfer(
            debit=receivable,
            credit=customer,
            amount_minor=amount_minor,
            asset=asset,
            purpose=purpose,
            kind=Kind.PENDING,
            expires_at=expires_at,
            reference=reference,
        )
    ]


def settlement(
    *, hold: Hold, merchant: int, captured_minor: int | None = None, effective_at: datetime | None = None
) -> list[Transfer]:
    """The PSP has captured: the hold becomes the customer's money and goes on to the merchant, both or neither."""
    amount_minor = hold.amount_minor if captured_minor is None else captured_minor
    return [
        _post(hold, amount_minor, Purpose.PAYMENT, effective_at=effective_at, linked=True),
        Transfer(
            debit=hold.credit,
            credit=merchant,
            amount_minor=amount_minor,
            asset=hold.asset,
            purpose=Purpose.PAYMENT,
            effective_at=effective_at,
            reference=hold.reference,
        ),
    ]


def capture(
    *,
    hold: Hold,
    captured_minor: int | None = None,
    purpose: Purpose = Purpose.PAYMENT,
    effective_at: datetime | None = None,
) -> list[Transfer]:
    """The money has arrived at, or left, the account that it was held for: a PSP deposit, a withdrawal that was paid
    out, a payment that was captured but is not to reach the merchant."""
    return [_post(hold, hold.amount_minor if captured_minor is None else captured_minor, purpose, effective_at)]


def late_capture(
    *,
    receivable: int,
    customer: int,
    amount_minor: int,
    asset: str,
    reference: str,
    merchant: int | None = None,
    effective_at: datetime | None = None,
) -> list[Transfer]:
    """The PSP has captured although the hold is gone, or beyond it; what the world did is recorded all the same."""
    arrival = Transfer(
        debit=receivable,
        credit=customer,
        amount_minor=amount_minor,
        asset=asset,
        purpose=Purpose.LATE_CAPTURE,
        reference=reference,
        effective_at=effective_at,
        linked=merchant is not None,
    )
    if merchant is None:
        return [arrival]
    onward = _direct(customer, merchant, amount_minor, asset, Purpose.PAYMENT, reference, effective_at)
    return [arrival, onward]


def void(*, hold: Hold) -> list[Transfer]:
    """Nothing was captured: cancelled, declined, blocked as fraud before capture, or expired."""
    return [
        Transfer(
            debit=hold.debit,
            credit=hold.credit,
            amount_minor=hold.amount_minor,
            asset=hold.asset,
            purpose=Purpose.HOLD,
            kind=Kind.VOID,
            pending_id=hold.id,
            reference=hold.reference,
        )
    ]


def psp_fee(*, bearer: int, receivable: int, amount_minor: int, asset: str, reference: str) -> list[Transfer]:
    """The PSP keeps its fee from what it owes us. `bearer` is fees:psp or the merchant, by its plan."""
    return [_direct(bearer, receivable, amount_minor, asset, Purpose.FEE, reference)]


def our_fee(*, merchant: int, income: int, amount_minor: int, asset: str, reference: str) -> list[Transfer]:
    """What we charge the merchant. `income` is fees:income."""
    return [_direct(merchant, income, amount_minor, asset, Purpose.INCOME, reference)]


def refund_reserve(*, account: int, in_flight: int, amount_minor: int, asset: str, reference: str) -> list[Transfer]:
    """The merchant (or the customer, where the merchant never got it) can no longer spend what is to go back."""
    return [_direct(account, in_flight, amount_minor, asset, Purpose.REFUND_RESERVE, reference)]


def refund_complete(
    *, in_flight: int, customer: int, receivable: int, amount_minor: int, asset: str, reference: str
) -> list[Transfer]:
    """The PSP has paid the customer back: through the customer's account, out of what the PSP owes us."""
    return [
        Transfer(
            debit=in_flight,
            credit=customer,
            amount_minor=amount_minor,
            asset=asset,
            purpose=Purpose.REFUND_COMPLETE,
            reference=reference,
            linked=True,
        ),
        *refund_return(
            customer=customer, receivable=receivable, amount_minor=amount_minor, asset=asset, reference=reference
        ),
    ]


def refund_release(*, in_flight: int, account: int, amount_minor: int, asset: str, reference: str) -> list[Transfer]:
    """The refund was declined: what was reserved goes back to where it was reserved from."""
    return [_direct(in_flight, account, amount_minor, asset, Purpose.REFUND_RELEASE, reference)]


def refund_return(*, customer: int, receivable: int, amount_minor: int, asset: str, reference: str) -> list[Transfer]:
    """Captured money that never reached a merchant goes back by the way it came."""
    return [_direct(customer, receivable, amount_minor, asset, Purpose.REFUND_RETURN, reference)]


def book_transfer(
    *,
    debit: int,
    credit: int,
    amount_minor: int,
    asset: str,
    reference: str,
    purpose: Purpose = Purpose.BOOK,
    effective_at: datetime | None = None,
) -> list[Transfer]:
    """From one account of ours to another, at once. Deposits and withdrawals on the book rail are this, with their own
    purpose and external:deposits or external:withdrawals on the other side."""
    return [_direct(debit, credit, amount_minor, asset, purpose, reference, effective_at)]


def book_transfers(
    *,
    id: Uuids,
    debit: Sequence[int],
    credit: Sequence[int],
    amount_minor: Sequence[int],
    asset: str,
    reference: Sequence[str],
    purpose: Sequence[Purpose],
    effective_at: Int64s | None = None,
) -> Columns:
    """Many of them, as columns: each is what `book_transfer` makes. Times are microseconds since 2000."""
    return Columns(
        asset=asset,
        id=id,
        debit=np.array(debit, np.int64),
        credit=np.array(credit, np.int64),
        amount=np.array(amount_minor, np.int64),
        purpose=np.array(purpose, np.int64),
        effective_at=effective_at,
        reference=reference,
    )


def withdrawal_hold(
    *,
    account: int,
    external: int,
    amount_minor: int,
    asset: str,
    reference: str,
    expires_at: datetime | None = None,
) -> list[Transfer]:
    """What is to leave is out of reach at once. `capture` with Purpose.WITHDRAWAL follows, or `void`."""
    return [
        Transfer(
            debit=account,
            credit=external,
            amount_minor=amount_minor,
            asset=asset,
            purpose=Purpose.WITHDRAWAL,
            kind=Kind.PENDING,
            expires_at=expires_at,
            reference=reference,
        )
    ]


def reversal(*, original: Transfer, amount_minor: int, reference: str) -> list[Transfer]:
    """A posted transfer is undone by its mirror image, which names what it undoes."""
    return [
        Transfer(
            debit=original.credit,
            credit=original.debit,
            amount_minor=amount_minor,
            asset=original.asset,
            purpose=Purpose.REVERSAL,
            corrects=original.id,
            reference=reference,
        )
    ]


def payout(*, bank: int, receivable: int, amount_minor: int, asset: str, reference: str) -> list[Transfer]:
    """The PSP has paid what it owed into our bank."""
    return [_direct(bank, receivable, amount_minor, asset, Purpose.PAYOUT, reference)]


def correction(
    *, debit: int, credit: int, amount_minor: int, asset: str, reference: str, corrects: Transfer | None = None
) -> list[Transfer]:
    """What reconciliation found out, as an entry of its own, which names what it corrects."""
    return [
        Transfer(
            debit=debit,
            credit=credit,
            amount_minor=amount_minor,
            asset=asset,
            purpose=Purpose.CORRECTION,
            corrects=corrects.id if corrects else None,
            reference=reference,
        )
    ]


def _post(
    hold: Hold, amount_minor: int, purpose: Purpose, effective_at: datetime | None, linked: bool = False
) -> Transfer:
    return Transfer(
        debit=hold.debit,
        credit=hold.credit,
        amount_minor=amount_minor,
        asset=hold.asset,
        purpose=purpose,
        kind=Kind.POST,
        pending_id=hold.id,
        effective_at=effective_at,
        reference=hold.reference,
        linked=linked,
    )


def _direct(
    debit: int,
    credit: int,
    amount_minor: int,
    asset: str,
    purpose: Purpose,
    reference: str,
    effective_at: datetime | None = None,
) -> Transfer:
    return Transfer(
        debit=debit,
        credit=credit,
        amount_minor=amount_minor,
        asset=asset,
        purpose=purpose,
        reference=reference,
        effective_at=effective_at,
    )
