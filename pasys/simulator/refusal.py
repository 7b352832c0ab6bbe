"""A refusal is an answer that Stripe documents: a status, a type, a code and one sentence."""

from __future__ import annotations

from typing import Any


class Refusal(Exception):
    """Raised wherever a call is refused; `has_effects` marks a decline, whose rows are written all the same."""

    def __init__(self, status: int, error_type: str, code: str | None, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.status = status
        self.has_effects = False
        error = {"type": error_type, "message": message, **facts}
        if code is not None:
            error["code"] = code
            error["doc_url"] = "https://stripe.com/docs/error-codes/" + code.replace("_", "-")
        self.body: dict[str, Any] = {"error": error}


def invalid(message: str, code: str | None = None, *, param: str | None = None, **facts: Any) -> Refusal:
    if param is not None:
        facts["param"] = param
    return Refusal(400, "invalid_request_error", code, message, **facts)


def unknown_parameter(names: list[str]) -> Refusal:
    noun = "parameter" if len(names) == 1 else "parameters"
    return invalid(f"Received unknown {noun}: {', '.join(names)}", "parameter_unknown", param=names[0])


def missing_parameter(name: str) -> Refusal:
    return invalid(f"Missing required param: {name}.", "parameter_missing", param=name)


def resource_missing(noun: str, object_id: str, *, param: str = "id", status: int = 404) -> Refusal:
    message = f"No such {noun}: '{object_id}'"
    return Refusal(status, "invalid_request_error", "resource_missing", message, param=param)


def unexpected_state(message: str, payment_intent: dict[str, Any]) -> Refusal:
    return invalid(message, "payment_intent_unexpected_state", payment_intent=payment_intent)


def unrecognized_url(method: str, path: str) -> Refusal:
    return Refusal(404, "invalid_request_error", None, f"Unrecognized request URL ({method}: {path}).")


def unauthorized(message: str) -> Refusal:
    return Refusal(401, "invalid_request_error", None, message)


def idempotency_mismatch(key: str) -> Refusal:
    message = (
        "Keys for idempotent requests can only be used with the same parameters they were first used with. "
        f"Try using a key other than '{key}' if you meant to execute a different request."
    )
    return Refusal(400, "idempotency_error", None, message)


def idempotency_in_use(key: str) -> Refusal:
    message = f"There is currently another in-progress request using this Idempotency Key: {key}."
    return Refusal(409, "idempotency_error", "idempotency_key_in_use", message)
