"""Only Stripe's documented test cards exist here, each with what it does when it is charged or refunded.

Any other number is declined, as Stripe's test mode does, so a real card number is never kept. Of a test card the
name is kept, never the number. Source: https://docs.stripe.com/testing
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from pasys.simulator.refusal import Refusal

TOKEN_PREFIX = "pm_card_"


class Card(NamedTuple):
    """A test card: its token, what is shown of it, and how it behaves."""

    token: str
    number: str
    brand: str = "visa"
    funding: str = "credit"
    country: str = "US"
    # The decline of a charge: Stripe's error code and decline code.
    code: str | None = None
    decline_code: str | None = None
    # Declined already when attached to a customer; a few cards only fail later.
    attachable: bool = True
    three_d_secure: bool = False
    # "available" skips the pending balance, "pending" and "failed" say how a refund goes, others are dispute reasons.
    balance: str = "pending"
    refund: str = "succeeded"
    dispute: str | None = None

    @property
    def last4(self) -> str:
        return self.number[-4:]

    @property
    def fingerprint(self) -> str:
        return hashlib.blake2s(self.token.encode(), digest_size=8).hexdigest()


def _declined(name: str, number: str, code: str, decline_code: str) -> Card:
    return Card(TOKEN_PREFIX + name, number, code=code, decline_code=decline_code, attachable=False)


def _secured(name: str, number: str, code: str | None = None, decline_code: str | None = None) -> Card:
    return Card(TOKEN_PREFIX + name, number, code=code, decline_code=decline_code, three_d_secure=True)


_CARDS = [
    Card("pm_card_visa", "4242424242424242"),
    Card("pm_card_visa_debit", "4000056655665556", funding="debit"),
    Card("pm_card_mastercard", "5555555555554444", "mastercard"),
    Card("pm_card_mastercard_debit", "5200828282828210", "mastercard", "debit"),
    Card("pm_card_mastercard_prepaid", "5105105105105100", "mastercard", "prepaid"),
    Card("pm_card_amex", "378282246310005", "amex"),
    Card("pm_card_discover", "6011111111111117", "discover"),
    Card("pm_card_diners", "3056930009020004", "diners"),
    Card("pm_card_jcb", "3566002020360505", "jcb", country="JP"),
    Card("pm_card_unionpay", "6200000000000005", "unionpay", country="CN"),
    Card("pm_card_br", "4000000760000002", country="BR"),
    Card("pm_card_ca", "4000001240000000", country="CA"),
    Card("pm_card_de", "4000002760000016", country="DE"),
    Card("pm_card_fr", "4000002500000003", country="FR"),
    Card("pm_card_gb", "4000008260000000", country="GB"),
    Card("pm_card_jp", "4000003920000003", "jcb", country="JP"),
    _declined("chargeDeclined", "4000000000000002", "card_declined", "generic_decline"),
    _declined("chargeDeclinedInsufficientFunds", "4000000000009995", "card_declined", "insufficient_funds"),
    _declined("chargeDeclinedLostCard", "4000000000009987", "card_declined", "lost_card"),
    _declined("chargeDeclinedStolenCard", "4000000000009979", "card_declined", "stolen_card"),
    _declined("chargeDeclinedExpiredCard", "4000000000000069", "expired_card", "expired_card"),
    _declined("chargeDeclinedIncorrectCvc", "4000000000000127", "incorrect_cvc", "incorrect_cvc"),
    _declined("chargeDeclinedProcessingError", "4000000000000119", "processing_error", "processing_error"),
    _declined("chargeDeclinedVelocityLimitExceeded", "4000000000006975", "card_declined", "card_velocity_exceeded"),
    _declined("chargeDeclinedFraudulent", "4100000000000019", "card_declined", "fraudulent"),
    Card("pm_card_chargeCustomerFail", "4000000000000341", code="card_declined", decline_code="generic_decline"),
    Card("pm_card_createDispute", "4000000000000259", dispute="fraudulent"),
    Card("pm_card_createDisputeProductNotReceived", "4000000000002685", dispute="product_not_received"),
    Card("pm_card_pendingRefund", "4000000000007726", refund="pending"),
    Card("pm_card_refundFail", "4000000000005126", refund="failed"),
    Card("pm_card_bypassPending", "4000000000000077", balance="available"),
    _secured("threeDSecure2Required", "4000000000003220"),
    _secured("threeDSecureRequired", "4000000000003063"),
    _secured("authenticationRequired", "4000002760003184"),
    _secured("authenticationRequiredOnSetup", "4000002500003155"),
    _secured("threeDSecureRequiredChargeDeclined", "4000008400001629", "card_declined", "generic_decline"),
    _secured(
        "authenticationRequiredChargeDeclinedInsufficientFunds",
        "4000008260003178",
        "card_declined",
        "insufficient_funds",
    ),
]

BY_TOKEN = {card.token: card for card in _CARDS}
BY_NUMBER = {card.number: card for card in _CARDS}
# Stripe names some declines with the brand and some without; both are taken here.
_ALIASES = {
    "pm_card_us": "pm_card_visa",
    "pm_card_radarBlock": "pm_card_chargeDeclinedFraudulent",
    **{
        card.token.replace(TOKEN_PREFIX, TOKEN_PREFIX + "visa_"): card.token
        for card in _CARDS
        if card.code is not None and not card.three_d_secure
    },
}

_SENTENCES = {
    "insufficient_funds": "Your card has insufficient funds.",
    "expired_card": "Your card has expired.",
    "incorrect_cvc": "Your card's security code is incorrect.",
    "processing_error": "An error occurred while processing your card. Try again in a little bit.",
    "card_velocity_exceeded": "Your card was declined for making repeated attempts too frequently or exceeding its "
    "amount limit.",
    "authentication_required": "Your card was declined. This transaction requires authentication.",
    "incorrect_number": "Your card number is incorrect.",
    "test_mode_live_card": "Your card was declined. Your request was in test mode, but used a non test card.",
}


def by_token(token: str) -> Card | None:
    """The card behind `pm_card_…` or its older name `tok_…`."""
    if token.startswith("tok_"):
        token = TOKEN_PREFIX + token.removeprefix("tok_")
    return BY_TOKEN.get(_ALIASES.get(token, token))


def by_number(number: str) -> Card:
    """The test card with this number; raises the decline that Stripe gives for any other."""
    digits = number.replace(" ", "").replace("-", "")
    card = BY_NUMBER.get(digits)
    if card is not None:
        return card
    if not digits.isdigit() or not _luhn(digits):
        raise declined("incorrect_number", None, param="number")
    raise declined("card_declined", "test_mode_live_card")


def as_payment_method(card: Card, token: str) -> dict[str, Any]:
    """A `pm_card_…` token is a payment method that exists without having been made."""
    return {
        "id": token,
        "object": "payment_method",
        "created": 0,
        "livemode": False,
        "type": "card",
        "customer": None,
        "billing_details": {"address": None, "email": None, "name": None, "phone": None},
        "metadata": {},
        "card": details(card, exp_month=12, exp_year=2034),
    }


def details(card: Card, *, exp_month: int, exp_year: int) -> dict[str, Any]:
    """What Stripe shows of a card; nothing in it leads back to the number."""
    return {
        "brand": card.brand,
        "checks": {"address_line1_check": None, "address_postal_code_check": None, "cvc_check": "pass"},
        "country": card.country,
        "display_brand": card.brand,
        "exp_month": exp_month,
        "exp_year": exp_year,
        "fingerprint": card.fingerprint,
        "funding": card.funding,
        "generated_from": None,
        "last4": card.last4,
        "networks": {"available": [card.brand], "preferred": None},
        "three_d_secure_usage": {"supported": True},
        "wallet": None,
    }


def declined(code: str, decline_code: str | None, **facts: Any) -> Refusal:
    if decline_code is not None:
        facts["decline_code"] = decline_code
    return Refusal(402, "card_error", code, sentence(code, decline_code), **facts)


def sentence(code: str, decline_code: str | None) -> str:
    return _SENTENCES.get(decline_code or code, "Your card was declined.")


def without_numbers(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The pairs of a call as they may be remembered: a card number becomes its card's name, a CVC disappears."""
    return [
        (name, _name(value)) if name.endswith("[number]") else (name, value)
        for name, value in pairs
        if not name.endswith("[cvc]")
    ]


def _name(number: str) -> str:
    card = BY_NUMBER.get(number.replace(" ", "").replace("-", ""))
    return card.token if card else "…" + number[-4:]


def _luhn(digits: str) -> bool:
    doubled = [int(digit) * (1 + index % 2) for index, digit in enumerate(reversed(digits))]
    return sum(value // 10 + value % 10 for value in doubled) % 10 == 0
