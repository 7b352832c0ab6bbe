"""A PSP inside this process, for benches and tests: it says yes at once and keeps nothing.

Every answer follows from the question, so asking again gives the same one. What Stripe's test cards decline is declined
here by the same names. It keeps no statement, so its only page is empty and there is nothing to reconcile with it; nor
does it send webhooks, or know how much of a payment was refunded before.
"""

from __future__ import annotations

from datetime import datetime

from pasys.adapters import Authorised, Captured, Declined, Notice, Page, Payment, Refunded, Repayment
from pasys.config import Settings
from pasys.errors import AmountNotSendable
from pasys.money import Money

NAME = "instant"
FEE_PER_MILLE = 29
FEE_FIXED_MINOR = 30

_ACCEPTED = "pm_card_"
_DECLINED = {
    "chargeDeclined": ("declined", "generic_decline"),
    "chargeDeclinedInsufficientFunds": ("insufficient_funds", "insufficient_funds"),
    "chargeDeclinedLostCard": ("card_lost_or_stolen", "lost_card"),
    "chargeDeclinedStolenCard": ("card_lost_or_stolen", "stolen_card"),
    "chargeDeclinedExpiredCard": ("card_expired", "expired_card"),
    "chargeDeclinedIncorrectCvc": ("security_code_wrong", "incorrect_cvc"),
    "chargeDeclinedProcessingError": ("processing_error", "processing_error"),
    "chargeDeclinedVelocityLimitExceeded": ("declined", "card_velocity_exceeded"),
    "chargeDeclinedFraudulent": ("suspected_fraud", "fraudulent"),
    "chargeCustomerFail": ("declined", "generic_decline"),
    "threeDSecure2Required": ("authentication_required", "requires_action"),
    "threeDSecureRequired": ("authentication_required", "requires_action"),
    "authenticationRequired": ("authentication_required", "requires_action"),
}


def open_psp(settings: Settings) -> InstantPsp:
    return InstantPsp()


class InstantPsp:
    name = NAME
    keeps_statement = False

    def check(self, amount: Money) -> None:
        if amount.minor < 1:
            raise AmountNotSendable(psp=NAME, amount=amount, reason="it is not positive")

    async def authorise(self, payment: Payment) -> Authorised | Declined:
        reference = _reference("pi", payment.transaction_id)
        method = payment.payment_method or "pm_card_visa"
        if not method.startswith(_ACCEPTED):
            return Declined("payment_method_invalid", "resource_missing")
        no = _DECLINED.get(method.removeprefix(_ACCEPTED).removeprefix("visa_"))
        if no is not None:
            return Declined(*no, reference)
        return Authorised(reference, payment.transaction_id[-6:], "approved")

    async def capture(self, payment: Payment, authorised: Authorised) -> Captured | Declined:
        fee_minor = (payment.amount.minor * FEE_PER_MILLE + 500) // 1_000 + FEE_FIXED_MINOR
        charge = _reference("ch", payment.transaction_id)
        return Captured(authorised.psp_reference, charge, payment.amount, Money(fee_minor, payment.amount.asset))

    async def refund(self, repayment: Repayment) -> Refunded | Declined:
        return Refunded(_reference("re", repayment.refund_id))

    async def statement(self, *, since: datetime, until: datetime, cursor: str | None) -> Page:
        return Page([], None)

    def verify(self, payload: bytes, signature: str | None) -> Notice | None:
        return None

    async def close(self) -> None:
        return None


def _reference(kind: str, entity_id: str) -> str:
    return f"{kind}_{NAME}_{entity_id.partition('_')[2]}"
