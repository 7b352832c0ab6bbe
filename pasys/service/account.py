"""Accounts are opened, found and listed here, and change their status or limits under the lock of their asset."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import ColumnElement, Select, func, select, update
from sqlalchemy.dialects import postgresql

from pasys import ids
from pasys.db import Unit
from pasys.domain import account as rules
from pasys.domain.account import Balance
from pasys.domain.ledger import CREDITS_MUST_NOT_EXCEED_DEBITS, DEBITS_MUST_NOT_EXCEED_CREDITS
from pasys.errors import AccountExists, AccountNotEmpty, AccountNotFound, InvalidInput, LimitExceeded, WrongAsset
from pasys.events import AccountChanged, AccountOpened
from pasys.money import Money, asset_of
from pasys.schema import account as stored
from pasys.schema import asset as asset_table
from pasys.service.ledger import ensure_asset, project

LISTING_MAX = 1_000
_TRIGRAM = re.compile(r"[A-Za-z0-9]{3}")
# System accounts are never renamed or deleted, so a number that was once seen committed stays true.
_system: dict[tuple[str, int, str, str, str], int] = {}
_opened_here: WeakKeyDictionary[Unit, set[int]] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class AccountRow:
    """An account as it stands. `id` is its public form (acc_…), `number` its form in the books."""

    id: str
    number: int
    name: str
    asset: str
    type: str
    status: str
    debits_must_not_exceed_credits: bool
    credits_must_not_exceed_debits: bool
    metadata: Mapping[str, Any] | None
    balance: Balance
    version: int
    opened_at: datetime


async def open(
    unit: Unit,
    *,
    name: str,
    asset: str,
    type: str = "customer",
    debits_must_not_exceed_credits: bool | None = None,
    credits_must_not_exceed_debits: bool | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> AccountRow:
    """Open an account. Asked again with the same properties, it answers with the account that exists.

    A limit of None is the type's own. Raises InvalidInput, UnknownAsset, AccountExists.
    """
    rules.check_one_of("type", type, rules.TYPES)
    rules.check_name(name, type)
    flags = rules.limits(type, debit_limit=debits_must_not_exceed_credits, credit_limit=credits_must_not_exceed_debits)
    given = dict(metadata) if metadata else None
    await ensure_asset(unit, asset)
    await _insert(unit, [(name, type, flags)], asset, given)
    found = _row(await _get(unit, _state_of(stored.c.name == name, stored.c.asset == asset)))
    if (found.type, _flags(found), found.metadata) != (type, flags, given):
        raise AccountExists(name=name, asset=asset)
    return found


async def system(unit: Unit, name: str, asset: str) -> int:
    """The number of one of the system's own accounts, such as psp:stripe:receivable; opened where it is missing."""
    return (await system_many(unit, [name], asset))[name]


async def system_many(unit: Unit, names: Sequence[str], asset: str) -> dict[str, int]:
    """The numbers of several of the system's own accounts in one asset, by name."""
    known = {name: _system[_key(unit, name, asset)] for name in names if _key(unit, name, asset) in _system}
    missing = sorted(set(names) - known.keys())
    if not missing:
        return known
    for name in missing:
        assert rules.reserved(name), f"{name} is not a system account's name"
    found = await _system_numbers(unit, missing, asset)
    if len(found) < len(missing):
        await ensure_asset(unit, asset)
        await _insert(unit, [(name, "system", 0) for name in missing if name not in found], asset, None)
        found = await _system_numbers(unit, missing, asset)
    ours = _opened_here.get(unit, set())
    for name, number in found.items():
        if number not in ours:  # ours may still be rolled back
            _system[_key(unit, name, asset)] = number
    return {name: (known | found)[name] for name in names}


async def find(unit: Unit, name_or_id: str, asset: str | None = None) -> AccountRow:
    """One account, by acc_… id or by name; the asset may be left out where the name has only one.

    Raises AccountNotFound, WrongAsset (the name exists in other assets only), InvalidInput (it has several).
    """
    rows = await _rows(unit, _named(name_or_id))
    if not rows:
        raise AccountNotFound(account=name_or_id)
    if asset is not None:
        matching = [row for row in rows if row.asset == asset]
        if not matching:
            raise WrongAsset(account=name_or_id, account_asset=", ".join(row.asset for row in rows), asset=asset)
        return matching[0]
    if len(rows) > 1:
        raise InvalidInput(field="asset", reason=f"{name_or_id} has {', '.join(row.asset for row in rows)}: say which")
    return rows[0]


async def balance(unit: Unit, name_or_id: str) -> list[Balance]:
    """What is held under a name, one row for each asset. Raises AccountNotFound."""
    rows = await _rows(unit, _named(name_or_id))
    if not rows:
        raise AccountNotFound(account=name_or_id)
    return [row.balance for row in rows]


async def listing(
    unit: Unit,
    *,
    ids: Sequence[str] | None = None,
    type: str | None = None,
    status: str | None = None,
    asset: str | None = None,
    name_like: str | None = None,
    limit: int = 50,
    after: str | None = None,
) -> list[AccountRow]:
    """Accounts in the order in which they were opened, after the account `after` (acc_…).

    Every filter narrows; a filter value that means nothing raises InvalidInput or UnknownAsset. Raises AccountNotFound
    for an id that is asked for by itself and does not exist.
    """
    if not 1 <= limit <= LISTING_MAX:
        raise InvalidInput(field="limit", reason=f"1 to {LISTING_MAX}")
    query = select(stored.c.id).order_by(stored.c.id).limit(limit)
    if ids is not None:
        query = query.where(stored.c.id.in_([_number("ids", one) for one in ids]))
    if type is not None:
        rules.check_one_of("type", type, rules.TYPES)
        query = query.where(stored.c.type == type)
    if status is not None:
        rules.check_one_of("status", status, rules.STATUSES)
        query = query.where(stored.c.status == status)
    if asset is not None:
        query = query.where(stored.c.asset == asset_of(asset).code)
    if name_like is not None:
        query = query.where(_contains(name_like))
    if after is not None:
        query = query.where(stored.c.id > _number("after", after))
    return await _rows(unit, _state(query))


async def freeze(unit: Unit, name_or_id: str, asset: str | None = None) -> AccountRow:
    """The account starts nothing new from now on. What has begun still finishes."""
    return await _move(unit, await _locked(unit, name_or_id, asset), "frozen")


async def unfreeze(unit: Unit, name_or_id: str, asset: str | None = None) -> AccountRow:
    return await _move(unit, await _locked(unit, name_or_id, asset), "active")


async def close(unit: Unit, name_or_id: str, asset: str | None = None) -> AccountRow:
    """The account is closed for good. Raises AccountNotEmpty unless it holds nothing and nothing is pending."""
    found = await _locked(unit, name_or_id, asset)
    pending = await _pending(unit, found)
    if found.balance.posted.minor or pending.minor:
        raise AccountNotEmpty(account=found.name, balance=found.balance.posted, holds=pending)
    return await _move(unit, found, "closed")


async def change_limits(
    unit: Unit,
    name_or_id: str,
    asset: str | None = None,
    *,
    debits_must_not_exceed_credits: bool | None = None,
    credits_must_not_exceed_debits: bool | None = None,
) -> AccountRow:
    """Change the account's limits; None leaves one as it is. Raises LimitExceeded where the balance is beyond it."""
    found = await _locked(unit, name_or_id, asset)
    wanted = {
        "debits_must_not_exceed_credits": debits_must_not_exceed_credits,
        "credits_must_not_exceed_debits": credits_must_not_exceed_debits,
    }
    debit, credit = (getattr(found, rule) if value is None else value for rule, value in wanted.items())
    row = await _get(unit, _state_of(stored.c.id == found.number))
    if debit and row["debits_posted"] + row["debits_pending"] > row["credits_posted"]:
        raise LimitExceeded(account=found.name, rule="debits_must_not_exceed_credits")
    if credit and row["credits_posted"] + row["credits_pending"] > row["debits_posted"]:
        raise LimitExceeded(account=found.name, rule="credits_must_not_exceed_debits")
    return await _change(unit, found, flags=rules.flags(debit_limit=debit, credit_limit=credit))


async def _locked(unit: Unit, name_or_id: str, asset: str | None) -> AccountRow:
    """The account, with its asset locked first (the order that posting keeps), as it stands under the lock."""
    found = await find(unit, name_or_id, asset)
    if found.type == "system":
        raise InvalidInput(field="account", reason=f"{found.name} is the system's own and stays as it is")
    await unit.execute(
        update(asset_table).where(asset_table.c.code == found.asset).values(epoch=asset_table.c.epoch + 1)
    )
    await project(unit, found.asset)
    return _row(await _get(unit, _state_of(stored.c.id == found.number)))


async def _move(unit: Unit, found: AccountRow, wanted: str) -> AccountRow:
    rules.check_move(found.name, status=found.status, wanted=wanted)
    return await _change(unit, found, status=wanted)


async def _change(unit: Unit, found: AccountRow, **values: Any) -> AccountRow:
    changed = _row(
        await _get(unit, update(stored).where(stored.c.id == found.number).values(**values).returning(stored))
    )
    unit.emit(AccountChanged(asset=changed.asset, account_id=changed.id, name=changed.name, status=changed.status))
    return changed


async def _pending(unit: Unit, found: AccountRow) -> Money:
    """All that is held on either side: what is held for an account and against it does not cancel out."""
    row = await _get(unit, _state_of(stored.c.id == found.number))
    return Money(row["debits_pending"] + row["credits_pending"], found.asset)


async def _insert(
    unit: Unit, accounts: Iterable[tuple[str, str, int]], asset: str, metadata: Mapping[str, Any] | None
) -> None:
    """Open those that do not exist yet; an account that somebody else opens at the same time is waited for."""
    rows = [
        {
            "id": ids.new_account_number(),
            "name": name,
            "asset": asset,
            "type": type,
            "flags": flags,
            "metadata": metadata,
            "opened_at": unit.now,
        }
        for name, type, flags in accounts
    ]
    statement = postgresql.insert(stored).values(rows).on_conflict_do_nothing(index_elements=["name", "asset"])
    for row in await unit.execute(statement.returning(stored.c.id, stored.c.name, stored.c.type)):
        _opened_here.setdefault(unit, set()).add(row["id"])
        account_id = ids.account_id(row["id"])
        unit.emit(AccountOpened(asset=asset, account_id=account_id, name=row["name"], type=row["type"]))


async def _system_numbers(unit: Unit, names: Sequence[str], asset: str) -> dict[str, int]:
    query = select(stored.c.name, stored.c.id).where(stored.c.name.in_(names), stored.c.asset == asset)
    rows = await unit.execute(query)
    return {row["name"]: row["id"] for row in rows}


async def _get(unit: Unit, statement: Any) -> Any:
    row = await unit.one(statement)
    assert row is not None
    return row


async def _rows(unit: Unit, query: Select[Any]) -> list[AccountRow]:
    return [_row(row) for row in await unit.execute(query)]


def _state_of(*chosen: ColumnElement[bool]) -> Select[Any]:
    return _state(select(stored.c.id).where(*chosen))


def _state(numbers: Select[Any], *, by: str = "id") -> Select[Any]:
    """The accounts of these numbers as they are: their rows may lag behind the journal, and what they lack is added."""
    state = func.account_state(func.array(numbers.scalar_subquery())).table_valued(*stored.c, name="state")
    return select(state).order_by(state.c[by])


def _named(name_or_id: str) -> Select[Any]:
    number = ids.account_number(name_or_id)
    chosen = stored.c.name == name_or_id if number is None else stored.c.id == number
    return _state(select(stored.c.id).where(chosen), by="asset")


def _contains(part: str) -> ColumnElement[bool]:
    """Names with this part, whatever its case. The index knows it by three letters or digits in a row; a part without
    them would be held against the whole index, which takes longer than the names themselves."""
    if _TRIGRAM.search(part) is None:
        return func.lower(stored.c.name).contains(part.lower(), autoescape=True)
    return stored.c.name.icontains(part, autoescape=True)


def _number(field: str, public_id: str) -> int:
    number = ids.account_number(public_id)
    if number is None:
        raise InvalidInput(field=field, reason=f"{public_id!r} is not an account id (acc_…)")
    return number


def _key(unit: Unit, name: str, asset: str) -> tuple[str, int, str, str, str]:
    server = unit.driver.info
    return server.host, server.port, server.dbname, name, asset


def _flags(row: AccountRow) -> int:
    return rules.flags(debit_limit=row.debits_must_not_exceed_credits, credit_limit=row.credits_must_not_exceed_debits)


def _row(row: Any) -> AccountRow:
    return AccountRow(
        id=ids.account_id(row["id"]),
        number=row["id"],
        name=row["name"],
        asset=row["asset"],
        type=row["type"],
        status=row["status"],
        debits_must_not_exceed_credits=bool(row["flags"] & DEBITS_MUST_NOT_EXCEED_CREDITS),
        credits_must_not_exceed_debits=bool(row["flags"] & CREDITS_MUST_NOT_EXCEED_DEBITS),
        metadata=row["metadata"],
        balance=rules.balance(
            row["name"],
            row["type"],
            row["asset"],
            debits_pending=row["debits_pending"],
            debits_posted=row["debits_posted"],
            credits_pending=row["credits_pending"],
            credits_posted=row["credits_posted"],
        ),
        version=row["version"],
        opened_at=row["opened_at"],
    )
