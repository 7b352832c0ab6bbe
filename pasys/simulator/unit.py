"""What one call has read and written. Nothing of it reaches the store before the call has succeeded.

A call runs without a pause from its first read to `flush`, so no other call can come between: that is why
twenty refunds at once can never return more than was captured.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from pasys.simulator import cards
from pasys.simulator.faults import Faults
from pasys.simulator.refusal import resource_missing
from pasys.simulator.schema import BY_PREFIX, KINDS
from pasys.simulator.store import Object, Store, encode

API_VERSION = "2026-10-28.endive"

# Each payment would make several of these beside the event that matters, and triple the size of the file.
ONLY_IF_WANTED = frozenset(
    {
        "charge.captured",
        "charge.succeeded",
        "charge.updated",
        "payment_intent.amount_capturable_updated",
        "payment_intent.created",
    }
)


class Settings(NamedTuple):
    """What the command line decides about time."""

    pending_s: int
    refund_delay_s: float


class Announced(NamedTuple):
    """An event that webhooks may want."""

    event_id: str
    type: str
    metadata: dict[str, str]


class Unit:
    """One call's working set."""

    def __init__(
        self,
        store: Store,
        faults: Faults,
        settings: Settings,
        wanted: Callable[[str], bool],
        idempotency_key: str | None = None,
    ) -> None:
        self.store = store
        self.faults = faults
        self.settings = settings
        self._wanted = wanted
        self.now = int(time.time())
        self.request_id = f"req_{os.urandom(7).hex()}"
        self._idempotency_key = idempotency_key
        self._objects: dict[str, Object] = {}
        self._inserted: dict[str, dict[str, Any]] = {}
        self._changed: dict[str, bool] = {}
        self._events: list[tuple[Object, Announced]] = []
        self._deferred: dict[str, float | None] = {}
        self._deleted: list[Object] = []
        self.endpoints_changed = False

    # -- reading -----------------------------------------------------------------------------------------------------

    def load(self, noun: str, object_id: str, *, param: str | None = None) -> Object:
        """The object, or Refusal `resource_missing`: 404 for the one in the path, 400 for one named in a parameter."""
        found = self.find(noun, object_id)
        if found is None and param is None:
            raise resource_missing(noun, object_id)
        if found is None:
            raise resource_missing(noun, object_id, param=str(param), status=400)
        return found

    def find(self, noun: str, object_id: str) -> Object | None:
        known = self._objects.get(object_id)
        if known is not None:
            return known if known["object"] == noun else None
        card = cards.by_token(object_id) if noun == "payment_method" else None
        found = self.store.find(KINDS[noun], object_id) if card is None else cards.as_payment_method(card, object_id)
        if found is not None:
            self._objects[object_id] = found
        return found

    def find_any(self, object_id: str) -> Object | None:
        """The object of whatever kind its prefix says."""
        kind = BY_PREFIX.get(object_id.partition("_")[0])
        return None if kind is None else self.find(kind.name, object_id)

    def test_card(self, payment_method_id: str) -> cards.Card:
        """How this payment method behaves."""
        private = self._inserted.get(payment_method_id)
        if private is not None:
            return cards.BY_TOKEN[private["test_card"]]
        card = cards.by_token(payment_method_id)
        if card is not None:
            return card
        return cards.BY_TOKEN[self.store.private(KINDS["payment_method"], payment_method_id, "test_card")]

    # -- writing -----------------------------------------------------------------------------------------------------

    def insert(self, noun: str, private: dict[str, Any] | None = None, **fields: Any) -> Object:
        """A new object, made now."""
        made = {"id": self.store.new_id(KINDS[noun].prefix), "object": noun, "created": self.now, "livemode": False}
        made.update(fields)
        self._objects[made["id"]] = made
        self._inserted[made["id"]] = private or {}
        return made

    def change(self, changed: Object, *, metadata: bool = False) -> None:
        """Marks an object that was loaded and altered; `metadata` says that its metadata was altered too."""
        self._changed[changed["id"]] = metadata or self._changed.get(changed["id"], False)

    def delete(self, gone: Object) -> None:
        self._deleted.append(gone)

    def announce(self, event_type: str, about: Object, previous: Object | None = None) -> None:
        """An event with the object as it is at this moment; the noisy ones only if an endpoint wants them."""
        if event_type in ONLY_IF_WANTED and not self._wanted(event_type):
            return
        data: Object = {"object": msgspec.Raw(encode(about))}
        if previous is not None:
            data["previous_attributes"] = previous
        event = {
            "id": self.store.new_id("evt"),
            "object": "event",
            "api_version": API_VERSION,
            "created": self.now,
            "data": data,
            "livemode": False,
            "pending_webhooks": 0,
            "request": {"id": self.request_id, "idempotency_key": self._idempotency_key},
            "type": event_type,
        }
        self._events.append((event, Announced(event["id"], event_type, about.get("metadata") or {})))

    def later(self, object_id: str, delay_s: float | None) -> None:
        """Asks for this object to be settled after the delay, or (None) no longer."""
        self._deferred[object_id] = None if delay_s is None else time.time() + delay_s

    # -- the end -----------------------------------------------------------------------------------------------------

    def flush(self) -> list[Announced]:
        """Writes everything into the open group and returns the events for the webhooks."""
        for object_id, private in self._inserted.items():
            made = self._objects[object_id]
            self.store.insert(made, private)
            if KINDS[made["object"]].searchable and made["metadata"]:
                self.store.add_metadata(made)
            if made["object"] == "balance_transaction":
                self._add_to_balance(made)
        for object_id, metadata in self._changed.items():
            self._write_change(self._objects[object_id], metadata)
        for gone in self._deleted:
            self.store.write(f"DELETE FROM {KINDS[gone['object']].table} WHERE id = ?", (gone["id"],))
        for object_id, due in self._deferred.items():
            self.store.write("DELETE FROM deferred WHERE id = ?", (object_id,))
            if due is not None:
                self.store.write("INSERT INTO deferred VALUES (?, ?)", (object_id, due))
        for event, _ in self._events:
            self.store.insert(event, {})
        return [announced for _, announced in self._events]

    @property
    def deferred(self) -> bool:
        return bool(self._deferred)

    def _write_change(self, changed: Object, metadata: bool) -> None:
        if changed["id"] in self._inserted:
            return
        self.store.update(changed)
        if metadata and KINDS[changed["object"]].searchable:
            self.store.index_metadata(changed)

    def _add_to_balance(self, line: Object) -> None:
        # What is available at once shares one row, so that a balance is the sum of a handful of rows.
        available_on = 0 if line["available_on"] <= self.now else line["available_on"]
        self.store.write(
            "INSERT INTO balance VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET net = net + excluded.net",
            (line["currency"], available_on, line["net"]),
        )
