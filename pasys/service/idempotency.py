"""A caller's idempotency key stands for one request: the same body gets the same answer, another body is a conflict.

Keys are free text, scoped by actor and operation, and kept with a hash of the canonical body in the unit that they
name the result of. The later of two equal requests waits for the earlier one to commit.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from psycopg.errors import UniqueViolation

from pasys.db import COPY_FROM, Unit, queries
from pasys.errors import IdempotencyMismatch, InvalidInput

SQL = queries("transaction")
KEY_BYTES_MAX = 1_000
UTF8_BYTES_MAX = 4  # of one character


def check(key: str) -> None:
    """Raises InvalidInput for what is no key: an empty one is a variable that nobody set, and stands for nothing."""
    if not key.strip() or "\0" in key or len(key.encode()) > KEY_BYTES_MAX:
        raise InvalidInput(field="key", reason=f"it is text of 1 to {KEY_BYTES_MAX} bytes, and not only blanks")


def are_sound(keys: Collection[str]) -> bool:
    """True where all of them are keys for certain; where one may not be, each has to be checked."""
    return (
        max(map(len, keys), default=0) * UTF8_BYTES_MAX <= KEY_BYTES_MAX
        and "\0" not in "".join(keys)
        and all(map(str.strip, keys))
    )


async def take_many(
    unit: Unit, *, operation: str, keys: Sequence[str], hashes: Sequence[bytes], entities: Sequence[str]
) -> dict[str, str | IdempotencyMismatch]:
    """Take keys for entities that are about to be made; for those that stand for something already, by key, the entity
    that the same request made, or the conflict. A key that somebody is taking is waited for."""
    if len(keys) >= COPY_FROM and await _take_at_once(unit, operation, keys, hashes, entities):
        return {}
    values = {"actor": unit.actor, "operation": operation, "keys": list(keys), "entities": list(entities)}
    if await unit.value(SQL["take_keys"], hashes=list(hashes), now=unit.now, **values) == len(keys):
        return {}
    known = await unit.rows(SQL["keys_taken"], **values)
    wanted = dict(zip(keys, hashes, strict=True))
    return {
        row.key: row.entity_id
        if bytes(row.body_hash) == wanted[row.key]
        else IdempotencyMismatch(key=row.key, entity_id=row.entity_id)
        for row in known
    }


async def _take_at_once(
    unit: Unit, operation: str, keys: Sequence[str], hashes: Sequence[bytes], entities: Sequence[str]
) -> bool:
    """Take all of them, or none: COPY knows no way around a key that is taken, but costs half of what does.

    In the order in which everybody takes them, so that two who want the same never wait for each other.
    """
    order = sorted(range(len(keys)), key=keys.__getitem__)
    try:
        async with unit.savepoint():
            await unit.copy(
                "idempotency",
                len(keys),
                actor=unit.actor,
                operation=operation,
                key=[keys[at] for at in order],
                body_hash=[hashes[at] for at in order],
                entity_id=[entities[at] for at in order],
                at=unit.now,
            )
    except UniqueViolation:
        return False
    return True


async def give_back(unit: Unit, *, operation: str, keys: Sequence[str], entities: Sequence[str]) -> None:
    """What was refused takes no key; a key that stands for anything else is left alone."""
    if keys:
        values = {"keys": list(keys), "entities": list(entities)}
        await unit.rows(SQL["give_back_keys"], actor=unit.actor, operation=operation, **values)


async def take(unit: Unit, *, operation: str, key: str | None, body_hash: bytes, entity_id: str) -> str | None:
    """Take a key for an entity that is about to be made; the id of the one that the same request made before, if any.

    Raises IdempotencyMismatch where the key stands for another body.
    """
    if key is None:
        return None
    check(key)
    found = (await take_many(unit, operation=operation, keys=[key], hashes=[body_hash], entities=[entity_id])).get(key)
    if isinstance(found, IdempotencyMismatch):
        raise found
    return found
