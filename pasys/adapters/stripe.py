"""Stripe, asked so that the same question never moves money twice: our simulator, localstripe or the real service.

Each step goes under its own idempotency key. Stripe keeps keys for a day; while they are kept, asking again means the
same request under the same key. Afterwards, and where the answer kept under a key is an error of Stripe's own, we look
for what carries our id in its metadata and go on from there.

    requires_capture ──▶ Authorised      succeeded ──▶ Captured      canceled ──▶ Declined
    requires_action  ──▶ canceled by us, Declined: nobody is here to authenticate
    anything else    ──▶ PspUnavailable: not known yet
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import cached_property
from math import ceil
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from pasys.adapters import Authorised, Captured, Declined, Notice, Page, Payment, Refunded, Repayment
from pasys.adapters.stripe_currency import from_stripe, to_stripe
from pasys.adapters.stripe_refusals import REASONS, Refusal, reason_of
from pasys.adapters.stripe_statement import disputed, is_dispute, line_of, metadata_of
from pasys.config import Settings
from pasys.errors import AmountNotKept, AmountNotSendable, BadSignature, PspMisconfigured, PspUnavailable
from pasys.money import Money

if TYPE_CHECKING:  # the SDK takes its time to import, and check() does without it
    from pasys.adapters.stripe_api import StripeApi

KEYS_KEPT_S = 23 * 3_600  # Stripe says 24 hours
LAG_S = 600  # clocks differ, requests travel, and a search misses what is younger than this
PAGE_LINES = 100
LISTED_PAGES_MAX = 100
NAME = "stripe"

_INTENTS = "/v1/payment_intents"
_REFUNDS = "/v1/refunds"
_TOLD_US = ("payment_intent.", "charge.", "refund.")
_ABANDONED = "abandoned"
_WITH_CHARGE = {"expand": ["data.latest_charge"]}
_WITH_FEE = {"expand": ["latest_charge.balance_transaction"]}


class _Object(msgspec.Struct):
    id: str = ""
    currency: str | None = None
    metadata: dict[str, str] | None = None


class _Data(msgspec.Struct):
    object: _Object


class _Event(msgspec.Struct):
    id: str
    type: str
    data: _Data


_events = msgspec.json.Decoder(_Event)


def open_psp(settings: Settings) -> StripePsp:
    """Stripe at the address and under the key of the settings. Raises PspMisconfigured."""
    return StripePsp(settings)


class StripePsp:
    name = NAME
    keeps_statement = True

    def __init__(self, settings: Settings) -> None:
        if not settings.stripe_api_key:
            raise PspMisconfigured(psp=NAME, reason="there is no API key")
        self._key = settings.stripe_api_key
        self._settings = settings

    @cached_property
    def _api(self) -> StripeApi:
        from pasys.adapters.stripe_api import StripeApi

        settings = self._settings
        return StripeApi(api_key=self._key, api_base=settings.stripe_api_base, timeout_s=settings.psp_timeout_s)

    async def close(self) -> None:
        if "_api" in self.__dict__:
            await self._api.close()

    def check(self, amount: Money) -> None:
        to_stripe(amount)

    # Authorise -------------------------------------------------------------------------------------------------------

    async def authorise(self, payment: Payment) -> Authorised | Declined:
        method = payment.payment_method or self._test_method
        if method is None:
            return Declined("payment_method_invalid", "no_payment_method")
        try:
            units = to_stripe(payment.amount)
        except AmountNotSendable:
            return Declined("amount_not_accepted", "not_sendable")
        if _age_s(payment.requested_at) < KEYS_KEPT_S:
            intent = await self._api.post(_INTENTS, _create(payment, method, units), key=payment.key("authorise"))
            if not _spoiled(intent):
                return await self._authorised(payment, intent)
        intent = await self._find_intent(payment)
        if intent is None:
            return _not_found(payment.requested_at)
        return await self._authorised(payment, intent)

    @property
    def _test_method(self) -> str | None:
        """With a test key a payment may go without a method of its own; a real one is never made up."""
        return "pm_card_visa" if self._key.startswith("sk_test_") else None

    async def _authorised(self, payment: Payment, intent: dict[str, Any] | Refusal) -> Authorised | Declined:
        if isinstance(intent, Refusal):
            return _declined(intent)
        match intent["status"]:
            case "requires_capture" | "succeeded":
                return _authorised(intent)
            case "requires_action":
                return await self._abandon(
                    payment, intent["id"], Declined("authentication_required", "requires_action")
                )
            case "requires_payment_method":
                return _declined(_last_error(intent), intent["id"])
            case "canceled":
                return _canceled(intent)
        raise _not_known_yet(intent)

    async def _abandon(self, payment: Payment, intent_id: str, because: Declined) -> Authorised | Declined:
        """Cancel what can no longer lead anywhere, so that nothing can be taken after we said that it failed."""
        canceled = await self._api.post(
            _intent_path(intent_id, "cancel"), {"cancellation_reason": _ABANDONED}, key=payment.key("cancel")
        )
        if isinstance(canceled, dict):
            return Declined(because.reason, because.processor_code, intent_id)
        now = await self._intent(intent_id)
        if isinstance(now, Refusal) or now["status"] in ("requires_action", "requires_payment_method"):
            raise PspUnavailable(psp=NAME, reason=f"{intent_id} could not be canceled: {canceled.message}")
        return await self._authorised(payment, now)

    # Capture ---------------------------------------------------------------------------------------------------------

    async def capture(self, payment: Payment, authorised: Authorised) -> Captured | Declined:
        intent_id = authorised.psp_reference
        answer = await self._api.post(_intent_path(intent_id, "capture"), _WITH_FEE, key=payment.key("capture"))
        refusal = answer if isinstance(answer, Refusal) else None
        intent = await self._intent(intent_id) if refusal else answer
        if isinstance(intent, Refusal):
            return _declined(intent, intent_id)
        match intent["status"]:
            case "succeeded":
                return _captured(intent)
            case "canceled":
                return Declined("authorisation_expired", intent.get("cancellation_reason"), intent_id)
            case "requires_capture" | "requires_payment_method" if refusal and not refusal.spoiled:
                declined = _declined(refusal, intent_id)
                gone = await self._abandon(payment, intent_id, declined)
                if isinstance(gone, Declined):
                    return gone
        raise _not_known_yet(intent)

    # Refund ----------------------------------------------------------------------------------------------------------

    async def refund(self, repayment: Repayment) -> Refunded | Declined:
        try:
            units = to_stripe(repayment.amount)
        except AmountNotSendable:
            return Declined("amount_not_accepted", "not_sendable")
        if _age_s(repayment.requested_at) < KEYS_KEPT_S:
            wanted = {
                "payment_intent": repayment.psp_reference,
                "amount": units,
                "metadata": {"refund_id": repayment.refund_id, "transaction_id": repayment.transaction_id},
            }
            made = await self._api.post(_REFUNDS, wanted, key=repayment.key)
            if isinstance(made, Refusal) and not made.spoiled:
                return _declined(made)
            if isinstance(made, dict):
                return await self._refunded(made)
        async for made in self._list(_REFUNDS, {"payment_intent": repayment.psp_reference}):
            if (made.get("metadata") or {}).get("refund_id") == repayment.refund_id:
                return await self._refunded(made)
        return _not_found(repayment.requested_at)

    async def _refunded(self, made: dict[str, Any]) -> Refunded | Declined:
        """A refund counts when it has succeeded. What a key says is as old as the key, so pending is looked up."""
        if made["status"] == "pending":
            looked_up = await self._api.get(f"{_REFUNDS}/{quote(made['id'], safe='')}")
            made = looked_up if isinstance(looked_up, dict) else made
        match made["status"]:
            case "succeeded":
                return Refunded(made["id"])
            case "failed" | "canceled":
                word = made.get("failure_reason") or made["status"]
                return Declined(REASONS.get(word, "declined"), word, made["id"])
        raise _not_known_yet(made)

    # Statement -------------------------------------------------------------------------------------------------------

    async def statement(self, *, since: datetime, until: datetime, cursor: str | None) -> Page:
        wanted: dict[str, Any] = {
            "created": {"gte": ceil(since.timestamp()), "lt": ceil(until.timestamp())},
            "limit": PAGE_LINES,
            "expand": ["data.source"],
        }
        if cursor is not None:
            wanted["starting_after"] = cursor
        page = _or_unavailable(await self._api.get("/v1/balance_transactions", wanted))
        entries = page["data"]
        lines = [line_of(entry, await self._about(entry)) for entry in entries]
        return Page(lines, entries[-1]["id"] if page["has_more"] else None)

    async def _about(self, entry: dict[str, Any]) -> dict[str, str]:
        """The metadata that says whose line it is; a dispute has none, but the payment that it disputes has."""
        intent_id = disputed(entry) if is_dispute(entry) else None
        if intent_id is None:
            return metadata_of(entry)
        return _or_unavailable(await self._intent(intent_id)).get("metadata") or {}

    # Webhooks --------------------------------------------------------------------------------------------------------

    def verify(self, payload: bytes, signature: str | None) -> Notice | None:
        from pasys.adapters.stripe_api import verify_signature

        verify_signature(payload, signature, self._settings.stripe_webhook_secret)
        try:
            event = _events.decode(payload)
        except msgspec.MsgspecError as error:
            raise BadSignature(reason=f"the payload is not an event: {error}") from None
        if not event.type.startswith(_TOLD_US):
            return None
        about, ours = event.data.object, event.data.object.metadata or {}
        currency = about.currency or ""
        return Notice(
            event_id=event.id,
            type=event.type,
            object_id=about.id,
            asset=currency.upper() if len(currency) == 3 and currency.isascii() and currency.isalpha() else "XXX",
            transaction_id=ours.get("transaction_id"),
            refund_id=ours.get("refund_id"),
        )

    # Looking things up -----------------------------------------------------------------------------------------------

    async def _intent(self, intent_id: str) -> dict[str, Any] | Refusal:
        return await self._api.get(_intent_path(intent_id), _WITH_FEE)

    async def _find_intent(self, payment: Payment) -> dict[str, Any] | None:
        """The payment intent that carries our id: searched for, or looked for in a list where there is no search."""
        query = f"metadata['transaction_id']:'{payment.transaction_id}'"
        found = await self._api.get(f"{_INTENTS}/search", {"query": query, "limit": 1, **_WITH_CHARGE})
        if isinstance(found, dict):
            return found["data"][0] if found["data"] else None
        first = int(payment.requested_at.timestamp())
        created = {"gte": first - LAG_S, "lte": first + KEYS_KEPT_S + LAG_S}
        async for intent in self._list(_INTENTS, {"created": created, **_WITH_CHARGE}):
            if (intent.get("metadata") or {}).get("transaction_id") == payment.transaction_id:
                return intent
        return None

    async def _list(self, path: str, wanted: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Every object of a list. Raises PspUnavailable for one that is too long to conclude from."""
        wanted = {**wanted, "limit": PAGE_LINES}
        for _ in range(LISTED_PAGES_MAX):
            page = _or_unavailable(await self._api.get(path, wanted))
            for made in page["data"]:
                yield made
            if not page["has_more"]:
                return
            wanted["starting_after"] = page["data"][-1]["id"]
        raise PspUnavailable(psp=NAME, reason=f"{path} is longer than {LISTED_PAGES_MAX} pages")


def _create(payment: Payment, method: str, units: int) -> dict[str, Any]:
    """The same for the same payment, always: Stripe compares it with what the key was first used for."""
    return {
        "amount": units,
        "currency": payment.amount.asset.lower(),
        "payment_method": method,
        "payment_method_types": ["card"],
        "capture_method": "manual",
        "confirm": True,
        "metadata": {"transaction_id": payment.transaction_id, "account": payment.customer},
        "expand": ["latest_charge"],
    }


def _authorised(intent: dict[str, Any]) -> Authorised:
    charge = intent.get("latest_charge") or {}
    card = (charge.get("payment_method_details") or {}).get("card") or {}
    outcome = charge.get("outcome") or {}
    return Authorised(intent["id"], card.get("authorization_code"), outcome.get("network_status"))


def _captured(intent: dict[str, Any]) -> Captured:
    charge = intent["latest_charge"]
    received = intent.get("amount_received")
    taken = intent["amount"] if received is None else received  # localstripe does not say what it received
    return Captured(intent["id"], charge["id"], from_stripe(taken, intent["currency"]), _fee(intent, charge))


def _fee(intent: dict[str, Any], charge: dict[str, Any]) -> Money | None:
    """Not known where Stripe settles in another currency, or charges a fraction of our unit: the statement says it."""
    entry = charge.get("balance_transaction")
    if not isinstance(entry, dict) or entry["currency"] != intent["currency"]:
        return None
    try:
        return from_stripe(entry["fee"], entry["currency"])
    except AmountNotKept:
        return None


def _declined(refusal: Refusal, intent_id: str | None = None) -> Declined:
    """Raises PspUnavailable where the refusal is about us and not about the payment."""
    if refusal.our_fault:
        raise PspUnavailable(psp=NAME, reason=f"it refuses our request: {refusal.message}")
    reference = (refusal.payment_intent or {}).get("id") or intent_id
    if refusal.missing and refusal.param != "payment_method":
        return Declined("not_found_at_psp", refusal.code, reference)
    return Declined(reason_of(refusal), refusal.word, reference)


def _last_error(intent: dict[str, Any]) -> Refusal:
    said = intent.get("last_payment_error") or {}
    return Refusal(status=402, code=said.get("code"), decline_code=said.get("decline_code"), param=said.get("param"))


def _canceled(intent: dict[str, Any]) -> Declined:
    """By us, because nobody could authenticate; else by Stripe, when the authorisation had expired."""
    why = intent.get("cancellation_reason")
    reason = "authentication_required" if why == _ABANDONED else "authorisation_expired"
    return Declined(reason, why or "canceled", intent["id"])


def _not_found(requested_at: datetime) -> Declined:
    """Raises PspUnavailable while the request may still arrive, or its effect be missing from a search."""
    if _age_s(requested_at) < KEYS_KEPT_S + LAG_S:
        raise PspUnavailable(psp=NAME, reason="its answer is an error, and what it did is not to be found yet")
    return Declined("not_found_at_psp")


def _not_known_yet(made: dict[str, Any]) -> PspUnavailable:
    return PspUnavailable(psp=NAME, reason=f"{made['id']} is {made['status']}")


def _or_unavailable(answer: dict[str, Any] | Refusal) -> dict[str, Any]:
    if isinstance(answer, Refusal):
        raise PspUnavailable(psp=NAME, reason=f"it refuses to show us: {answer.message}")
    return answer


def _spoiled(answer: dict[str, Any] | Refusal) -> bool:
    return isinstance(answer, Refusal) and answer.spoiled


def _intent_path(intent_id: str, verb: str | None = None) -> str:
    path = f"{_INTENTS}/{quote(intent_id, safe='')}"
    return f"{path}/{verb}" if verb else path


def _age_s(moment: datetime) -> float:
    return (datetime.now(UTC) - moment) / timedelta(seconds=1)
