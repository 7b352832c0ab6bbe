"""The fraud rules in force are the newest version; each version is a whole document that nobody can change.

Version 1 is written by whoever needs rules first. Changes are made one after the other, under a lock on the table, and
a change of what somebody has looked at may say from which version it was made.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import msgspec
from sqlalchemy import func, insert, select
from sqlalchemy.dialects import postgresql

from pasys.db import Unit
from pasys.domain.fraud import Prepared, Rules, prepare, read, relist
from pasys.errors import RulesChanged, RulesNotFound
from pasys.schema import fraud_rules as table

FIRST = 1
PREPARED_MAX = 32
# A version never changes, so what was once read stays true for its database.
_prepared: dict[tuple[str | None, int], Prepared] = {}


@dataclass(frozen=True, slots=True)
class RulesRow:
    """A version of the rules: who made it, when, and why."""

    version: int
    note: str
    actor: str
    at: datetime


@dataclass(frozen=True, slots=True)
class RulesDocument(RulesRow):
    """A version of the rules with its document."""

    rules: dict[str, Any]


async def ensure_rules(unit: Unit) -> int:
    """The newest version; writes the first one where there is none."""
    version = await _newest(unit)
    if version is not None:
        return version
    # Whoever comes second waits here for the first, and then finds it.
    document = {"version": FIRST, "rules": msgspec.to_builtins(Rules()), "note": "built in", "actor": "pasys"}
    await unit.execute(postgresql.insert(table).values(document).on_conflict_do_nothing())
    found = await _newest(unit)
    assert found is not None, "somebody has written it"
    return found


async def rules_of(unit: Unit, version: int | None) -> Prepared:
    """A version, ready to judge; of None, the first one, which is thereby written. Raises RulesNotFound."""
    if version is None:
        version = await ensure_rules(unit)
    key = (unit.settings.database_url, version)
    if key not in _prepared:
        document = (await rules_at(unit, version)).rules
        if len(_prepared) >= PREPARED_MAX:
            _prepared.clear()
        _prepared[key] = prepare(msgspec.convert(document, Rules), version=version)
    return _prepared[key]


async def rules_versions(unit: Unit) -> list[RulesRow]:
    """Every version, newest first."""
    await ensure_rules(unit)
    rows = await unit.execute(
        select(table.c.version, table.c.note, table.c.actor, table.c.at).order_by(table.c.version.desc())
    )
    return [RulesRow(**row) for row in rows]


async def rules_at(unit: Unit, version: int | None = None) -> RulesDocument:
    """A version with its document; of None, the newest. Raises RulesNotFound."""
    if version is None:
        version = await ensure_rules(unit)
    row = await unit.one(select(table).where(table.c.version == version))
    if row is None:
        raise RulesNotFound(version=version)
    return RulesDocument(**row)


async def change_rules(unit: Unit, document: Any, note: str = "", *, based_on: int | None = None) -> RulesDocument:
    """Put a document in force, as the next version. Raises InvalidInput with the field's path, RulesChanged."""
    rules = read(document)
    version = await _lock(unit)
    if based_on is not None and based_on != version:
        raise RulesChanged(version=version, based_on=based_on)
    return await _write(unit, version + 1, rules, note)


async def relist_rules(
    unit: Unit,
    *,
    name: Literal["allow", "block"],
    field: Literal["accounts", "payment_methods"],
    value: str,
    present: bool,
    note: str = "",
) -> RulesDocument:
    """Put a value on one of the lists, or take it off; a list that is so already makes no new version."""
    version = await _lock(unit)
    before = (await rules_of(unit, version)).rules
    after = relist(before, name=name, field=field, value=value, present=present)
    if after is before:
        return await rules_at(unit, version)
    read(msgspec.to_builtins(after))
    return await _write(unit, version + 1, after, note or f"{name} {'add' if present else 'remove'} {value}")


async def _lock(unit: Unit) -> int:
    """Nobody else changes the rules until this unit ends; those who judge are not held up. The newest version."""
    await unit.rows("select pg_advisory_xact_lock(hashtextextended('fraud_rules', 0))")
    return await ensure_rules(unit)


async def _newest(unit: Unit) -> int | None:
    row = await unit.one(select(func.max(table.c.version).label("version")))
    return row["version"] if row else None


async def _write(unit: Unit, version: int, rules: Rules, note: str) -> RulesDocument:
    document = {"version": version, "rules": msgspec.to_builtins(rules), "note": note, "actor": unit.actor}
    row = await unit.one(insert(table).values(document).returning(table))
    assert row is not None, "an insert returns its row"
    return RulesDocument(**row)
