"""A key is good for one request: its answer is kept for a day and given again, another request with it is refused.

As Stripe defines it: only answers of calls that were executed are kept (200, 402, 500), never those of calls that
failed validation. Source: https://docs.stripe.com/api/idempotent_requests
"""

from __future__ import annotations

import hashlib
import time
from typing import NamedTuple

from pasys.simulator import cards
from pasys.simulator.form import Pairs
from pasys.simulator.refusal import idempotency_in_use, idempotency_mismatch, invalid
from pasys.simulator.store import Store

KEPT_S = 24 * 3600
KEY_LENGTH_MAX = 255
PRUNED_AT_ONCE_MAX = 5000
KEPT_STATUSES = (200, 402, 500)


class Kept(NamedTuple):
    """The first answer to a key."""

    status: int
    body: bytes
    request_id: str


class Idempotency:
    """The answers kept, and the keys whose call is still under way."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._in_use: set[str] = set()

    def take(self, key: str) -> None:
        """Marks a key as under way; raises Refusal (409) if it is already."""
        if len(key) > KEY_LENGTH_MAX:
            raise invalid(f"Idempotency keys have at most {KEY_LENGTH_MAX} characters.")
        if key in self._in_use:
            raise idempotency_in_use(key)
        self._in_use.add(key)

    def release(self, key: str) -> None:
        self._in_use.discard(key)

    def find(self, key: str, fingerprint: bytes) -> Kept | None:
        """The kept answer; raises Refusal if the key was first used with another request."""
        row = self._store.row("SELECT fingerprint, status, body, request, at FROM idempotency WHERE key = ?", (key,))
        if row is None:
            return None
        known, status, body, request_id, at = row
        if at < time.time() - KEPT_S:
            self._store.write("DELETE FROM idempotency WHERE key = ?", (key,))
            return None
        if known != fingerprint:
            raise idempotency_mismatch(key)
        return Kept(status, body, request_id)

    def keep(self, key: str, fingerprint: bytes, kept: Kept) -> None:
        if kept.status in KEPT_STATUSES:
            self._store.write(
                "INSERT INTO idempotency (key, fingerprint, status, body, request, at) VALUES (?, ?, ?, ?, ?, ?)",
                (key, fingerprint, *kept, int(time.time())),
            )

    def prune(self) -> None:
        """Forgets answers older than a day, the oldest first and a bounded number at once."""
        self._store.write(
            "DELETE FROM idempotency WHERE at < ? AND seq IN (SELECT seq FROM idempotency ORDER BY seq LIMIT ?)",
            (int(time.time()) - KEPT_S, PRUNED_AT_ONCE_MAX),
        )


def fingerprint(path: str, pairs: Pairs) -> bytes:
    """The same for the same parameters in any order; nothing of a card number goes into it."""
    remembered = sorted(cards.without_numbers(pairs))
    return hashlib.blake2b(repr((path, remembered)).encode(), digest_size=16).digest()
