"""This is the only door to the books: every movement of money goes through `post`, and every balance comes from here.

`post` locks the rows of its assets until the Unit ends, so post late in a Unit, and lock your own rows first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from operator import attrgetter
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from psycopg.errors import UniqueViolation

from pasys.db import Unit, queries
from pasys.domain.ledger import Hold, Kind, Posted, Purpose, Recorded, Result, Transfer
from pasys.domain.ledger_batch import Accounts, Books, Verdict
from pasys.domain.ledger_rules import judge
from pasys.errors import InvalidInput, TransferConflict
from pasys.money import asset_of
from pasys.service import ledger_wire as wire
from pasys.service.ledger_history import (
    Statement,
    StatementLine,
    TransferRow,
    TrialRow,
    balance_at,
    balances,
    expired_holds,
    holds,
    statement,
    transfers,
    transfers_by_id,
    trial_balance,
)
from pasys.service.ledger_refusal import refusal
from pasys.service.ledger_verify import Verification, verify

__all__ = [
    "BATCH_MAX",
    "Statement",
    "StatementLine",
    "TransferRow",
    "TrialRow",
    "Verification",
    "balance_at",
    "balances",
    "ensure_asset",
    "expired_holds",
    "holds",
    "post",
    "statement",
    "transfers",
    "transfers_by_id",
    "trial_balance",
    "verify",
]

SQL = queries("ledger")
BATCH_MAX = 10_000


async def post(unit: Unit, transfers: Sequence[Transfer], *, refuse: bool = True) -> list[Posted]:
    """Post a batch in order, as if its transfers came one after the other. The answers stand in the same order.

    A repeated id with the same fields answers with the first result. With `refuse`, the first refusal raises its rule's
    error (InsufficientFunds, AccountFrozen, HoldUnusable, TransferConflict, …) and nothing is written. Without it,
    refusals are recorded with the rule that refused them, and returned. A batch may span several assets, a chain not.
    """
    if not transfers:
        return []
    if len(transfers) > BATCH_MAX:
        raise InvalidInput(field="transfers", reason=f"a batch has at most {BATCH_MAX}; this one has {len(transfers)}")
    parts = _by_asset(transfers)
    judged: list[tuple[str, list[Transfer], Loaded, Verdict]] = []
    for code in sorted(parts):
        part = [transfers[i] for i in parts[code]]
        loaded = await _load(unit, code, part)
        judged.append((code, part, loaded, judge(part, loaded.books)))
    if refuse:
        for _, part, loaded, verdict in judged:
            await _raise_first(unit, part, loaded.books, verdict)
    answers: list[Posted | None] = [None] * len(transfers)
    for code, part, loaded, verdict in judged:
        if verdict.recorded.any():
            await _apply(unit, code, part, loaded, verdict)
        for i, answer in zip(parts[code], _answers(verdict), strict=True):
            answers[i] = answer
    return [answer for answer in answers if answer is not None]


async def ensure_asset(unit: Unit, code: str) -> None:
    """The asset has a row, so that accounts can be opened in it. Raises UnknownAsset."""
    known = asset_of(code)
    await unit.rows(
        SQL["ensure_asset"],
        code=code,
        kind=known.kind,
        decimals=known.decimals,
        chain=known.chain,
        contract=known.contract,
        chain_decimals=known.chain_decimals,
    )


class Loaded:
    """An asset's locked books, and the epoch that they were read in."""

    def __init__(self, books: Books, epoch: int) -> None:
        self.books, self.epoch = books, epoch


def _by_asset(transfers: Sequence[Transfer]) -> dict[str, list[int]]:
    parts: dict[str, list[int]] = {}
    for i, transfer in enumerate(transfers):
        parts.setdefault(transfer.asset, []).append(i)
    if len(parts) > 1:
        _check_chains(transfers)
    return parts


def _check_chains(transfers: Sequence[Transfer]) -> None:
    for transfer, following in pairwise(transfers):
        if transfer.linked and following.asset != transfer.asset:
            raise InvalidInput(field="transfers", reason="a chain stays within one asset")


async def _load(unit: Unit, code: str, transfers: list[Transfer]) -> Loaded:
    batch_accounts = np.unique([number for t in transfers for number in (t.debit, t.credit)])
    hold_ids = {t.pending_id for t in transfers if t.pending_id is not None}
    asked = (
        code,
        True,
        wire.int8s(batch_accounts),
        wire.uuids([t.id for t in transfers]),
        wire.uuids(hold_ids) if hold_ids else None,
    )
    row = await _call(unit, "load", asked)
    if row[0] is None:
        await ensure_asset(unit, code)
        row = await _call(unit, "load", asked)
    numbers, foreign, *columns = (wire.read_int8s(column) for column in row[3:12])
    accounts = Accounts(numbers, foreign != 0, *columns)
    earlier = await _earlier(unit, [t.id for t in transfers]) if row[2] else {}
    return Loaded(Books(row[0], accounts, _holds(row[12:19]), earlier, unit.now), row[1])


def _holds(columns: Sequence[list[Any] | None]) -> dict[UUID, Hold]:
    ids, assets, debits, credits, amounts, are_open, deadlines = (column or [] for column in columns)
    return {
        ids[i]: Hold(
            id=ids[i],
            debit=debits[i],
            credit=credits[i],
            amount_minor=amounts[i],
            asset=assets[i],
            expires_at=deadlines[i],
            open=are_open[i],
        )
        for i in range(len(ids))
    }


async def _earlier(unit: Unit, ids: list[UUID]) -> dict[UUID, Recorded]:
    rows = await unit.rows(SQL["earlier"], ids=ids)
    return {row.id: Recorded(_transfer(row), Result(row.result), row.seq) for row in rows}


def _transfer(row: Any) -> Transfer:
    return Transfer(
        id=row.id,
        debit=row.debit,
        credit=row.credit,
        amount_minor=row.amount,
        asset=row.asset,
        purpose=Purpose(row.code),
        kind=Kind(row.kind),
        pending_id=row.pending_id,
        corrects=row.corrects,
        effective_at=row.effective_at,
        reference=row.reference,
    )


async def _raise_first(unit: Unit, transfers: list[Transfer], books: Books, verdict: Verdict) -> None:
    """Raise for the first transfer that was refused for a reason of its own."""
    if not verdict.result.any():
        return
    refused = verdict.result.tolist()
    i = next(i for i, result in enumerate(refused) if result not in (Result.ACCEPTED, Result.LINKED_FAILED))
    raise await refusal(unit, transfers[i], Result(refused[i]), books)


async def _apply(unit: Unit, code: str, transfers: list[Transfer], loaded: Loaded, verdict: Verdict) -> None:
    where = verdict.recorded
    rows = transfers if where.all() else [transfers[i] for i in np.flatnonzero(where).tolist()]
    try:
        await _call(unit, "apply", (*_journal(code, rows, loaded, verdict, unit), *_counters(verdict)))
    except UniqueViolation:
        # Two assets, one id, at the same time: the other lock did not protect us from it.
        raise TransferConflict(transfer_id=transfers[0].id) from None


def _journal(code: str, rows: list[Transfer], loaded: Loaded, verdict: Verdict, unit: Unit) -> tuple[Any, ...]:
    """The arguments that become journal rows and holds."""
    where = verdict.recorded

    def column(read: Callable[[Transfer], int]) -> NDArray[np.int64]:
        return np.fromiter(map(read, rows), np.int64, len(rows))

    def some(values: list[Any], encode: Callable[[list[Any]], bytes]) -> bytes | None:
        return encode(values) if any(value is not None for value in values) else None

    pending = any(t.kind is Kind.PENDING for t in rows)
    return (
        code,
        loaded.books.last_seq,
        loaded.epoch,
        unit.now,
        wire.uuids([t.id for t in rows]),
        wire.int8s(column(attrgetter("debit"))),
        wire.int8s(column(attrgetter("credit"))),
        wire.int8s(column(attrgetter("amount_minor"))),
        wire.int2s(column(attrgetter("kind"))),
        wire.int2s(column(attrgetter("purpose"))),
        wire.int2s(verdict.result[where]),
        wire.int8s(verdict.debit_version[where]),
        wire.int8s(verdict.credit_version[where]),
        wire.int8s(verdict.debit_balance[where]),
        wire.int8s(verdict.credit_balance[where]),
        some([t.pending_id for t in rows], wire.uuids),
        some([t.corrects for t in rows], wire.uuids),
        some([t.effective_at for t in rows], wire.times),
        wire.times([t.expires_at for t in rows]) if pending else None,
        some([t.reference for t in rows], wire.texts),
    )


def _counters(verdict: Verdict) -> tuple[bytes, ...]:
    """The arguments that become the accounts' counters."""
    to = verdict.changed
    columns = (to.number, to.version, to.debits_pending, to.debits_posted, to.credits_pending, to.credits_posted)
    return tuple(wire.int8s(column) for column in columns)


async def _call(unit: Unit, name: str, values: Sequence[Any]) -> Any:
    async with wire.cursor(unit.driver) as cursor:
        await cursor.execute(SQL[name].encode(), values, prepare=True)
        return await cursor.fetchone()


_RESULTS = {int(result): result for result in Result}


def _answers(verdict: Verdict) -> list[Posted]:
    columns = zip(verdict.result.tolist(), verdict.replayed.tolist(), verdict.seq.tolist(), strict=True)
    return [Posted(_RESULTS[result], replayed, seq) for result, replayed, seq in columns]
