"""A caller's idempotency key stands for one request: the same body gets the same answer, another body is a conflict.

Keys are free text, scoped by actor and operation, and kept with a hash of the canonical body in the unit that they
name the result of. The later of two equal requests waits for the earlier one to commit.
"""

from __future__ import annotations

from pasys.db import Unit, queries
from pasys.errors import IdempotencyMismatch, InvalidInput

SQL = queries("transaction")
KEY_BYTES_MAX = 1_000


def check(key: str) -> None:
    """Raises InvalidInput for what is no key: an empty one is a variable that nobody set, and stands for nothing."""
    if not key.strip() or "\0" in key or len(key.encode()) > KEY_BYTES_MAX:
        raise InvalidInput(field="key", reason=f"it is text of 1 to {KEY_BYTES_MAX} bytes, and not only blanks")


async def take(unit: Unit, *, operation: str, key: str | None, body_hash: bytes, entity_id: str) -> str | None:
    """Take a key for an entity that is about to be made; the id of the one that the same request made before, if any.

    Raises IdempotencyMismatch where the key stands for another body.
    """
    if key is None:
        return None
    check(key)
    taken = await unit.rows(
        SQL["take_keys"],
        actor=unit.actor,
        operation=operation,
        now=unit.now,
        keys=[key],
        hashes=[body_hash],
        entities=[entity_id],
    )
    if taken:
        return None
    earlier = await unit.row(SQL["keys_taken"], actor=unit.actor, operation=operation, keys=[key])
    assert earlier is not None, "somebody has it, or we would"
    if bytes(earlier.body_hash) != body_hash:
        raise IdempotencyMismatch(key=key, entity_id=earlier.entity_id)
    return earlier.entity_id
