"""Each parameter has one check: it takes the raw text and gives the value, or refuses as Stripe would.

An empty text means "unset" in Stripe's API and becomes None.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from pasys.simulator.refusal import invalid, missing_parameter, unknown_parameter

Check = Callable[[str, Any], Any]

METADATA_KEYS_MAX = 50
METADATA_KEY_LENGTH_MAX = 40
METADATA_VALUE_LENGTH_MAX = 500
TEXT_LENGTH_MAX = 5000
INTEGER_DIGITS_MAX = 15
LIST_LENGTH_MAX = 100
EXPANSIONS_MAX = 20

_INTEGER = re.compile(rf"-?[0-9]{{1,{INTEGER_DIGITS_MAX}}}")


def checked(asked: Mapping[str, Any], allowed: Mapping[str, Check], required: tuple[str, ...] = ()) -> dict[str, Any]:
    """Every parameter checked; raises Refusal for an unknown, a missing or a malformed one."""
    unknown = [name for name in asked if name not in allowed]
    if unknown:
        raise unknown_parameter(unknown)
    for name in required:
        if asked.get(name, "") == "":
            raise missing_parameter(name)
    return {name: allowed[name](name, raw) for name, raw in asked.items()}


def text(name: str, raw: Any) -> str | None:
    if not isinstance(raw, str):
        raise invalid(f"Invalid string: {name} must be a string", param=name)
    if len(raw) > TEXT_LENGTH_MAX:
        message = f"Invalid string: {name} must be at most {TEXT_LENGTH_MAX} characters"
        raise invalid(message, "parameter_invalid_string_too_long", param=name)
    return raw or None


def integer(name: str, raw: Any) -> int:
    if not isinstance(raw, str) or not _INTEGER.fullmatch(raw):
        shown = raw if isinstance(raw, str) else name
        raise invalid(f"Invalid integer: {shown}", "parameter_invalid_integer", param=name)
    return int(raw)


def boolean(name: str, raw: Any) -> bool:
    if raw not in ("true", "false"):
        raise invalid(f"Invalid boolean: {raw}", param=name)
    return raw == "true"


def off_session(name: str, raw: Any) -> bool:
    """Stripe takes `true`, `false` and the older `one_off` and `recurring`."""
    return raw in ("one_off", "recurring") or boolean(name, raw)


def choice(*allowed: str) -> Check:
    def check(name: str, raw: Any) -> str | None:
        if raw == "":
            return None
        if raw not in allowed:
            raise invalid(f"Invalid {name}: must be one of {', '.join(allowed)}", param=name)
        return raw

    return check


def strings(name: str, raw: Any) -> list[str]:
    """A list of texts, written `name[]=a` or `name[0]=a`."""
    values = list(raw.values()) if isinstance(raw, dict) else None
    if values is None or len(values) > LIST_LENGTH_MAX or not all(isinstance(value, str) for value in values):
        raise invalid(f"Invalid array: {name}", param=name)
    return values


def expansions(name: str, raw: Any) -> list[str]:
    paths = strings(name, raw)
    if len(paths) > EXPANSIONS_MAX:
        raise invalid(f"You cannot expand more than {EXPANSIONS_MAX} properties.", param=name)
    return paths


def mapping(name: str, raw: Any) -> dict[str, Any] | None:
    """A nested object that is kept and shown as it came."""
    if raw == "":
        return None
    if not isinstance(raw, dict):
        raise invalid(f"Invalid object: {name}", param=name)
    return raw


def metadata(name: str, raw: Any) -> dict[str, str]:
    """Keys to texts; a key with an empty text is to be removed, and an empty `metadata` removes them all."""
    if raw == "":
        return {"": ""}
    if not isinstance(raw, dict) or not all(isinstance(value, str) for value in raw.values()):
        raise invalid("Invalid hash: metadata maps strings to strings.", param=name)
    if len(raw) > METADATA_KEYS_MAX:
        raise invalid(f"You can specify at most {METADATA_KEYS_MAX} metadata keys.", param=name)
    for key, value in raw.items():
        if not key or len(key) > METADATA_KEY_LENGTH_MAX:
            raise invalid(f"Metadata keys have 1 to {METADATA_KEY_LENGTH_MAX} characters.", param=name)
        if len(value) > METADATA_VALUE_LENGTH_MAX:
            raise invalid(f"Metadata values have at most {METADATA_VALUE_LENGTH_MAX} characters.", param=name)
    return raw


def merged(present: dict[str, str], asked: dict[str, str] | None) -> dict[str, str]:
    """The metadata after an update: what is asked wins, empty texts remove."""
    if asked is None:
        return present
    if "" in asked:
        return {}
    return {key: value for key, value in {**present, **asked}.items() if value != ""}


def period(name: str, raw: Any) -> dict[str, int]:
    """A time filter: one second as a number, or bounds named gt, gte, lt, lte."""
    if isinstance(raw, str):
        return {"eq": integer(name, raw)}
    unknown = [bound for bound in raw if bound not in ("gt", "gte", "lt", "lte")]
    if unknown:
        raise unknown_parameter([f"{name}[{bound}]" for bound in unknown])
    return {bound: integer(f"{name}[{bound}]", value) for bound, value in raw.items()}


EXPAND: dict[str, Check] = {"expand": expansions}
PAGE: dict[str, Check] = {
    **EXPAND,
    "limit": integer,
    "starting_after": text,
    "ending_before": text,
    "created": period,
}
