"""A webhook endpoint is an address that wants some events; its secret is shown once, when it is made."""

from __future__ import annotations

import secrets

from pasys.simulator import listing
from pasys.simulator.events import TYPES
from pasys.simulator.fields import EXPAND, PAGE, Check, boolean, merged, metadata, strings, text
from pasys.simulator.operations import Call, Operation
from pasys.simulator.refusal import invalid
from pasys.simulator.store import Object
from pasys.simulator.unit import API_VERSION, Unit

_FIELDS: dict[str, Check] = {
    **EXPAND,
    "description": text,
    "enabled_events": strings,
    "metadata": metadata,
    "url": text,
}

# Marks the endpoint that was registered at the start.
COMMAND_LINE = {"registered_by": "command line"}


def register(unit: Unit, url: str, secret: str, enabled_events: list[str]) -> Object:
    """The command line's endpoint, made or brought up to date: one, also when its address has moved."""
    check_events(enabled_events)
    unit.endpoints_changed = True
    rows = unit.store.rows("SELECT id FROM webhook_endpoints")
    for (endpoint_id,) in rows:
        found = unit.load("webhook_endpoint", endpoint_id)
        if found["url"] == url or found["metadata"] == COMMAND_LINE:
            found.update(url=url, enabled_events=enabled_events, status="enabled", metadata=COMMAND_LINE)
            unit.change(found)
            unit.store.write("UPDATE webhook_endpoints SET secret = ? WHERE id = ?", (secret, endpoint_id))
            return found
    return _insert(unit, url, secret, enabled_events, {"metadata": COMMAND_LINE})


def check_events(names: list[str]) -> None:
    unknown = [name for name in names if name != "*" and name not in TYPES]
    if unknown or not names:
        raise invalid(
            f"Invalid enabled_events: {', '.join(unknown) or 'none given'}; known are *, {', '.join(sorted(TYPES))}.",
            param="enabled_events",
        )


def _insert(unit: Unit, url: str, secret: str, enabled_events: list[str], asked: Object) -> Object:
    return unit.insert(
        "webhook_endpoint",
        {"secret": secret},
        api_version=API_VERSION,
        application=None,
        description=asked.get("description"),
        enabled_events=enabled_events,
        metadata=merged({}, asked.get("metadata")),
        status="enabled",
        url=url,
    )


def _create(unit: Unit, call: Call) -> Object:
    asked = call.asked
    _check_url(asked["url"])
    check_events(asked["enabled_events"])
    secret = "whsec_" + secrets.token_hex(16)
    unit.endpoints_changed = True
    return {**_insert(unit, asked["url"], secret, asked["enabled_events"], asked), "secret": secret}


def _check_url(url: str) -> None:
    if not url.startswith(("http://", "https://")):
        raise invalid("Invalid URL: An explicit scheme (such as https) must be provided.", "url_invalid", param="url")


def _update(unit: Unit, call: Call) -> Object:
    asked = call.asked
    found = unit.load("webhook_endpoint", call.id)
    if "url" in asked:
        _check_url(asked["url"] or "")
    if "enabled_events" in asked:
        check_events(asked["enabled_events"])
    found.update({name: asked[name] for name in ("description", "enabled_events", "url") if name in asked})
    if "disabled" in asked:
        found["status"] = "disabled" if asked["disabled"] else "enabled"
    found["metadata"] = merged(found["metadata"], asked.get("metadata"))
    unit.change(found)
    unit.endpoints_changed = True
    return found


def _delete(unit: Unit, call: Call) -> Object:
    unit.delete(unit.load("webhook_endpoint", call.id))
    unit.endpoints_changed = True
    return {"id": call.id, "object": "webhook_endpoint", "deleted": True}


def _retrieve(unit: Unit, call: Call) -> Object:
    return unit.load("webhook_endpoint", call.id)


def _list(unit: Unit, call: Call) -> Object:
    return listing.page(unit.store, "webhook_endpoint", call.asked, call.path)


OPERATIONS = [
    Operation("webhook_endpoints.create", "POST", "webhook_endpoints", _create, _FIELDS, ("enabled_events", "url")),
    Operation("webhook_endpoints.list", "GET", "webhook_endpoints", _list, PAGE),
    Operation("webhook_endpoints.retrieve", "GET", "webhook_endpoints/:id", _retrieve, EXPAND),
    Operation("webhook_endpoints.update", "POST", "webhook_endpoints/:id", _update, {**_FIELDS, "disabled": boolean}),
    Operation("webhook_endpoints.delete", "DELETE", "webhook_endpoints/:id", _delete, {}),
]
