"""One call of Stripe through its own SDK: an object, a refusal, or PspUnavailable, and never a second try by itself.

Calls go through `raw_request_async`, the SDK's door that leaves the answer a dict. Its typed methods turn each nested
object of the answer into a class instance of its own, which is two thirds of their cost: 1.7 ms of CPU a call against
0.5 to 0.7 ms here, on aiohttp; 4.7 ms on the SDK's default, HTTPX (loopback, payment intents created and captured).
Logic that the SDK owns (keys, encoding, API version, errors, signatures) stays the SDK's.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

import aiohttp
import stripe

from pasys.adapters.stripe_refusals import Refusal
from pasys.errors import BadSignature, PspKeyReused, PspUnavailable

CONNECTIONS_MAX = 64
KEEPALIVE_S = 20.0  # shorter than the server's: a connection that it has just closed is an outcome that we do not know
DNS_CACHE_S = 60
SIGNATURE_TOLERANCE_S = 300

# The SDK would time calls and tell Stripe about this machine in a header of each request.
stripe.enable_telemetry = False


class StripeApi:
    """An open client. It belongs to the event loop that makes the first call."""

    def __init__(self, *, api_key: str, api_base: str | None, timeout_s: float) -> None:
        connector = aiohttp.TCPConnector(
            limit=CONNECTIONS_MAX,
            keepalive_timeout=KEEPALIVE_S,
            ttl_dns_cache=DNS_CACHE_S,
            ssl=(api_base is not None and api_base.startswith("http:")) or _certificates(),
        )
        self._http = stripe.AIOHTTPClient(timeout=aiohttp.ClientTimeout(total=timeout_s), connector=connector)
        self._client = stripe.StripeClient(
            api_key,
            base_addresses={"api": api_base.rstrip("/")} if api_base else None,
            max_network_retries=0,  # the resolver asks again, and it knows what it may conclude
            http_client=self._http,
        )

    async def get(self, path: str, parameters: Mapping[str, Any] | None = None) -> dict[str, Any] | Refusal:
        """Read. Raises PspUnavailable."""
        return await self._call("get", path, parameters or {})

    async def post(self, path: str, parameters: Mapping[str, Any], *, key: str) -> dict[str, Any] | Refusal:
        """Do, once for the key. Raises PspUnavailable: the outcome is unknown; PspKeyReused."""
        return await self._call("post", path, {**parameters, "idempotency_key": key})

    async def close(self) -> None:
        await self._http.close_async()

    async def _call(self, method: str, path: str, parameters: Mapping[str, Any]) -> dict[str, Any] | Refusal:
        try:
            answer = await self._client.raw_request_async(method, path, **parameters)
        except (stripe.CardError, stripe.InvalidRequestError) as error:
            return _refusal(error)
        except stripe.IdempotencyError as error:
            raise PspKeyReused(psp="stripe", key=parameters.get("idempotency_key")) from error
        except (stripe.AuthenticationError, stripe.PermissionError) as error:
            raise PspUnavailable(psp="stripe", reason=f"it refuses our API key: {error.user_message}") from error
        except stripe.StripeError as error:
            if _kept_under_its_key(error):
                return _refusal(error)
            raise PspUnavailable(psp="stripe", reason=_sentence(error)) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:  # while the body was read
            raise PspUnavailable(psp="stripe", reason=str(error) or type(error).__name__) from error
        if not isinstance(answer.data, dict):
            raise PspUnavailable(psp="stripe", reason=f"its answer to {path} is no object")
        return answer.data


def _certificates() -> ssl.SSLContext:
    """The authorities that the SDK brings along, so that a machine without any of its own can trust Stripe."""
    return ssl.create_default_context(cafile=stripe.ca_bundle_path)


def verify_signature(payload: bytes, signature: str | None, secret: str | None) -> None:
    """The SDK's check of a webhook's Stripe-Signature, at most five minutes old. Raises BadSignature."""
    try:
        stripe.WebhookSignature.verify_header(payload, signature, secret, SIGNATURE_TOLERANCE_S)
    except stripe.SignatureVerificationError as error:
        raise BadSignature(reason=(error.user_message or "no reason given").split(".")[0]) from None
    except UnicodeDecodeError:
        raise BadSignature(reason="the payload is not UTF-8 text") from None


def _kept_under_its_key(error: stripe.StripeError) -> bool:
    """Stripe keeps a 500 as the answer to a key, and marks it as such when it is asked again."""
    return (error.http_status or 0) >= 500 and (error.headers or {}).get("idempotent-replayed") == "true"


def _refusal(error: stripe.StripeError) -> Refusal:
    body: Any = error.json_body
    said: dict[str, Any] = body["error"]  # the SDK reads it, too, before it raises
    intent = said.get("payment_intent")
    return Refusal(
        status=error.http_status or 0,
        code=said.get("code"),
        decline_code=said.get("decline_code"),
        param=said.get("param"),
        message=error.user_message or "",
        payment_intent=intent if isinstance(intent, dict) else None,
    )


def _sentence(error: stripe.StripeError) -> str:
    cause = error.__cause__
    if isinstance(error, stripe.APIConnectionError) and cause is not None:
        return str(cause) or f"{type(cause).__name__} after no answer"
    return f"HTTP {error.http_status}: {error.user_message}"
