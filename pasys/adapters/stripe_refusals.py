"""Every word that Stripe has for no, against the closed list of reasons that a transaction fails for.

Sources: https://docs.stripe.com/declines/codes, https://docs.stripe.com/error-codes,
https://docs.stripe.com/api/refunds/object (failure_reason). A word that is not here says "declined".
"""

from __future__ import annotations

from typing import Any

import msgspec

_WORDS = {
    "declined": """
        approve_with_id call_issuer card_declined card_not_supported card_velocity_exceeded do_not_honor
        do_not_try_again generic_decline issuer_not_available new_account_information_available no_action_taken
        not_permitted pin_try_exceeded restricted_card revocation_of_all_authorizations revocation_of_authorization
        security_violation service_not_allowed stop_payment_order transaction_not_allowed charge_already_refunded
        charge_disputed charge_not_refundable charge_for_pending_refund_disputed merchant_request unknown
    """,
    "insufficient_funds": "insufficient_funds withdrawal_count_limit_exceeded",
    "card_lost_or_stolen": "lost_card stolen_card pickup_card lost_or_stolen_card",
    "card_expired": "expired_card invalid_expiry_month invalid_expiry_year expired_or_canceled_card",
    "card_number_invalid": "incorrect_number invalid_number invalid_account test_mode_live_card testmode_decline",
    "security_code_wrong": "incorrect_cvc invalid_cvc incorrect_pin invalid_pin incorrect_zip incorrect_address",
    "authentication_required": """
        authentication_required authentication_not_handled mobile_device_authentication_required offline_pin_required
        online_or_offline_pin_required payment_intent_authentication_failure requires_action
    """,
    "payment_method_invalid": """
        payment_method_not_available payment_method_unactivated payment_method_unexpected_state
        payment_method_invalid_parameter payment_method_billing_details_address_missing
        payment_method_customer_decline invalid_card_type token_already_used token_in_use
    """,
    "amount_not_accepted": """
        amount_too_large amount_too_small invalid_amount invalid_charge_amount charge_exceeds_source_limit
        charge_exceeds_transaction_limit
    """,
    "currency_not_accepted": "currency_not_supported payment_method_currency_mismatch",
    "processing_error": """
        processing_error reenter_transaction try_again_later payment_method_provider_decline
        payment_method_provider_timeout payment_intent_payment_attempt_failed payment_intent_payment_attempt_expired
    """,
    "authorisation_expired": "charge_expired_for_capture capture_charge_authorization_expired expired automatic",
    "duplicate": "duplicate_transaction duplicate",
    "suspected_fraud": "fraudulent merchant_blacklist highest_risk_level",
    "not_found_at_psp": "",
}
REASONS = {word: reason for reason, words in _WORDS.items() for word in words.split()}

# Stripe could not make sense of the value of one of these.
_PARAMS = {
    "amount": "amount_not_accepted",
    "currency": "currency_not_accepted",
    "payment_method": "payment_method_invalid",
}

# The request, the key or the address is wrong, which says nothing about the payment.
_OUR_FAULT = """
    account_invalid api_key_expired livemode_mismatch parameter_missing parameter_unknown parameters_exclusive
    platform_api_key_expired secret_key_required testmode_charges_only tls_version_unsupported url_invalid
"""
OUR_FAULT = frozenset(_OUR_FAULT.split())


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """An error that Stripe answered with; for the parts of it, https://docs.stripe.com/api/errors."""

    status: int
    code: str | None = None
    decline_code: str | None = None
    param: str | None = None
    message: str = ""
    payment_intent: dict[str, Any] | None = None

    @property
    def word(self) -> str | None:
        """Stripe's most exact word for it."""
        return self.decline_code or self.code

    @property
    def missing(self) -> bool:
        return self.status == 404 and self.code == "resource_missing"

    @property
    def spoiled(self) -> bool:
        """Stripe's own error, kept under the key: asking again under it never says more."""
        return self.status >= 500

    @property
    def our_fault(self) -> bool:
        return self.code in OUR_FAULT or (self.status == 404 and not self.missing)


def reason_of(refusal: Refusal) -> str:
    """The reason from domain.transaction.FAILURES."""
    for word in (refusal.decline_code, refusal.code):
        if word in REASONS and REASONS[word] != "declined":
            return REASONS[word]
    return _PARAMS.get(refusal.param or "", "declined")
