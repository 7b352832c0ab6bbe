"""An asset's books are read and written here: by whoever has locked them, and by a poster that trusts its memory.

One call reads and one writes; they go to functions in the database (migrations/versions/0003_ledger_engine.sql and
0015_alone.sql).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import numpy as np
from psycopg.errors import UniqueViolation
from psycopg.rows import namedtuple_row
from psycopg.types.numeric import Int2, Int8

from pasys.bulk import Column, copy_rows
from pasys.db import copy_into, queries
from pasys.domain import ledger_answer, ledger_chain
from pasys.domain.ledger import Hold, Kind, Posted, Purpose, Recorded, Result, Transfer
from pasys.domain.ledger_answer import Answer
from pasys.domain.ledger_batch import Accounts, Books, Changes, Verdict
from pasys.domain.ledger_columns import EPOCH, Bools, Columns, Int64s, micros, moment
from pasys.domain.ledger_one import Side
from pasys.driver import Driver
from pasys.errors import InvalidInput, TransferConflict
from pasys.service import ledger_wire as wire

SQL = queries("ledger")
_TAKEN = re.compile(r"\(id\)=\((.+?)\)")
_COPIED = ("seq", "id", "debit", "credit", "amount", "kind", "code", "result", "debit_version", "credit_version")
_COPIED += ("debit_balance", "credit_balance", "effective_at", "recorded_at")  # of a row as it is hashed
BATCH_MAX = 10_000  # transfers
COPY_FROM = 2_000  # rows: below, a call of a function is cheaper than four of the protocol's turns


@dataclass(frozen=True, slots=True)
class Head:
    """Where an asset's books stand: what a writer must have seen in order to write.

    `last_recorded_at` is in microseconds since 2000.
    """

    last_seq: int
    epoch: int
    projected_seq: int
    last_hash: bytes
    last_recorded_at: int

    def time(self, now: datetime) -> datetime:
        """When the next batch is judged and recorded: a later row is never earlier, whatever a writer's clock says."""
        last = self.last_recorded_at
        return EPOCH + timedelta(microseconds=last) if last > micros(now) else now


@dataclass(frozen=True, slots=True)
class Answers:
    """What became of a batch, in its order: Result numbers, True where replayed, place in the journal (0: none)."""

    result: Int64s
    replayed: Bools
    seq: Int64s


@dataclass(frozen=True, slots=True)
class Writing:
    """A judged batch on its way into the journal, and where the books will stand behind it.

    It is written by one of ledger.sql's calls, with its arguments. Many rows of one shape are copied behind that:
    `copies` has them as they are sent, by table.
    """

    call: str
    values: Sequence[Any]
    head: Head
    copies: Mapping[str, tuple[list[str], bytes]] = field(default_factory=dict)


def check_batch(size: int, *, linked_on: bool) -> None:
    """Raises InvalidInput for a batch that is too large, or whose last transfer is `linked_on`, to a next one."""
    if size > BATCH_MAX:
        raise InvalidInput(field="transfers", reason=f"a batch has at most {BATCH_MAX}; this one has {size}")
    if linked_on:  # where callers' batches are joined, to the next caller's
        raise InvalidInput(field="transfers", reason="the last of a batch has no next one to be linked with")


async def load(driver: Driver, columns: Columns, *, lock: bool, now: datetime) -> tuple[Head, Books] | None:
    """The head of an asset and all that a batch touches; None where the asset has no row yet.

    With `lock` the books stay as they are until the transaction ends, and account rows are brought up to date first.
    """
    row = await ask(driver, columns.asset, columns.accounts(), columns, lock=lock, repeats=True)
    if row[0] is None:
        return None
    head = head_of(row)
    earlier = await _earlier(driver, columns) if row[5] else {}
    return head, Books(head.last_seq, accounts_of(row), holds_of(row), earlier, head.time(now))


async def ask(
    driver: Driver, asset: str, numbers: Any, columns: Columns | None, *, lock: bool, repeats: bool
) -> Sequence[Any]:
    """What ledger_load says: of these accounts, of a batch's ids (where asked), and of the holds that it names."""
    holds = None
    if columns is not None and columns.pending_id is not None:
        named = np.array(sorted({id for id in columns.pending_id.tolist() if id != bytes(16)}), "V16")
        holds = wire.uuids(named) if len(named) else None
    ids = wire.uuids(columns.id) if repeats and columns is not None else None
    return await call(driver, "load", (asset, lock, wire.int8s(numbers), ids, holds))


def head_of(row: Sequence[Any]) -> Head:
    return Head(row[0], row[1], row[2], row[3], wire.read_time(row[4]))


def accounts_of(row: Sequence[Any]) -> Accounts:
    numbers, foreign, *columns = (wire.read_int8s(column) for column in row[6:15])
    return Accounts(numbers, foreign != 0, *columns)


def holds_of(row: Sequence[Any]) -> dict[UUID, Hold]:
    ids, assets, debits, credits, amounts, are_open, deadlines = (column or [] for column in row[15:22])
    return {
        ids[i]: Hold(
            id=ids[i],
            debit=debits[i] or 0,
            credit=credits[i] or 0,
            amount_minor=amounts[i] or 0,
            asset=assets[i],
            expires_at=deadlines[i],
            open=are_open[i],
            archived=amounts[i] is None,
        )
        for i in range(len(ids))
    }


async def _earlier(driver: Driver, columns: Columns) -> dict[UUID, Recorded | Answer]:
    async with driver.cursor(row_factory=namedtuple_row) as cursor:
        ids = [UUID(bytes=id) for id in columns.id.tolist()]
        await cursor.execute(SQL["earlier"].encode(), {"ids": ids})
        rows: list[Any] = await cursor.fetchall()
        return {row.id: _recorded(row) for row in rows if row.result is not None or row.answer is not None}


def _recorded(row: Any) -> Recorded | Answer:
    """A row of the journal; where it is archived, what it has left behind to answer with."""
    if row.result is not None:
        return Recorded(_transfer(row), Result(row.result), row.seq)
    return ledger_answer.read(row.asset, row.seq, bytes(row.answer))


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


def prepare(
    columns: Columns,
    head: Head,
    verdict: Verdict,
    now: datetime,
    *,
    accounts: Changes | None,
    projected_seq: int | None = None,
) -> Writing:
    """Seal what a verdict records and make it ready to be written behind `head`.

    `accounts` are the counters that account rows get; all other rows are exact as of `projected_seq` or later, which is
    by default the new end of the journal.
    """
    where = verdict.recorded
    columns, result = columns.where(where), verdict.result[where]
    recorded_at = micros(head.time(now))
    versions = verdict.debit_version[where], verdict.credit_version[where]
    balances = verdict.debit_balance[where], verdict.credit_balance[where]
    rows = ledger_chain.rows(
        columns,
        first_seq=head.last_seq + 1,
        result=result,
        versions=versions,
        balances=balances,
        recorded_at=recorded_at,
    )
    seals, last_hash = ledger_chain.chain(head.last_hash, rows, columns.reference)
    last_seq = head.last_seq + len(columns)
    projected_seq = last_seq if projected_seq is None else projected_seq
    before = (columns.asset, head.last_seq, head.epoch, head.projected_seq)
    behind = (last_hash, moment(recorded_at), projected_seq, *_counters(accounts))
    head = Head(last_seq, head.epoch, projected_seq, last_hash, recorded_at)
    if copies := _copies(columns, rows, seals):
        return Writing("advance", (*before, len(rows), *behind), head, copies)
    return Writing("apply", (*before, *behind, *_arrays(columns, rows, seals)), head)


def prepare_one(transfer: Transfer, debit: Side, credit: Side, head: Head, now: datetime) -> Writing:
    """The same for one direct transfer that is accepted: its sides are as they are behind it. Both account rows are
    brought up to date; those of others stay as they are."""
    at = micros(now)
    seq = head.last_seq + 1
    last_hash = ledger_chain.follow_one(
        head.last_hash,
        transfer,
        seq=seq,
        versions=(debit.version, credit.version),
        balances=(debit.balance, credit.balance),
        recorded_at=at,
    )
    projected_seq = seq if head.projected_seq == head.last_seq else head.projected_seq
    values = (
        transfer.asset,
        *map(Int8, (head.last_seq, head.epoch, head.projected_seq)),
        last_hash,
        now,
        Int8(projected_seq),
        transfer.id,
        Int8(transfer.amount_minor),
        Int2(transfer.purpose),
        transfer.corrects,
        transfer.effective_at,
        Int8(int.from_bytes(last_hash[:8], signed=True)),
        transfer.reference,
        *[Int8(number) for side in (debit, credit) for number in (*side.changes(), side.balance)],
    )
    return Writing("apply_one", values, Head(seq, head.epoch, projected_seq, last_hash, at))


def _copies(columns: Columns, rows: ledger_chain.Rows, seals: Int64s) -> dict[str, tuple[list[str], bytes]]:
    """Direct transfers that name no other transfer, as COPY takes them; none where there are few, or others."""
    named = (columns.kind, columns.pending_id, columns.corrects, columns.expires_at)
    if len(rows) < COPY_FROM or any(column is not None for column in named):
        return {}
    fields: dict[str, Column] = {name: rows[name] for name in _COPIED}
    if columns.reference is not None:
        fields["reference"] = columns.reference
    return {
        "transfer_key": copy_rows(len(rows), {"id": columns.id, "asset": columns.asset, "seq": rows["seq"]}),
        "transfer": copy_rows(len(rows), {"asset": columns.asset, **fields, "seal": seals}),
    }


def _counters(to: Changes | None) -> tuple[Any, ...]:
    if to is None or not len(to.number):
        return (None,) * 6
    columns = (to.number, to.version, to.debits_pending, to.debits_posted, to.credits_pending, to.credits_posted)
    return tuple(wire.int8s(column) for column in columns)


async def write(driver: Driver, writing: Writing, *, under_way: Callable[[], None] = lambda: None) -> None:
    """Write what was prepared. Raises SerializationFailure where the books have moved on, UniqueViolation for an id
    that somebody else has recorded in another asset.

    `under_way` is called when the database is at work for a while and needs nothing from us.
    """
    async with driver.transaction() if writing.copies else contextlib.nullcontext():
        asyncio.get_running_loop().call_soon(under_way)  # which is when the call below has been sent
        await call(driver, writing.call, writing.values)
        for table, rows in writing.copies.items():
            await copy_into(driver, table, rows)


def conflict(error: UniqueViolation) -> TransferConflict:
    """Which id it was that another asset has recorded since the books were read."""
    found = _TAKEN.search(error.diag.message_detail or "")
    return TransferConflict(transfer_id=found[1] if found else "of this batch")


def _arrays(columns: Columns, rows: ledger_chain.Rows, seals: Int64s) -> tuple[Any, ...]:
    """The columns of the journal as ledger_apply takes them."""

    def some(column: Any, encode: Any) -> Any:
        return None if column is None else encode(column)

    sides = ("debit_version", "credit_version", "debit_balance", "credit_balance")
    return (
        wire.uuids(columns.id),
        wire.int8s(columns.debit),
        wire.int8s(columns.credit),
        wire.int8s(columns.amount),
        some(columns.kind, wire.int2s),
        wire.int2s(columns.purpose),
        wire.int2s(rows["result"]) if rows["result"].any() else None,
        *(wire.int8s(rows[side]) for side in sides),
        wire.int8s(seals),
        some(columns.pending_id, wire.uuids),
        some(columns.corrects, wire.uuids),
        some(columns.effective_at, wire.times),
        some(columns.expires_at, wire.times),
        some(columns.reference, wire.texts),
    )


async def call(driver: Driver, name: str, values: Sequence[Any]) -> Any:
    async with wire.cursor(driver) as cursor:
        await cursor.execute(SQL[name].encode(), values, prepare=True)
        return await cursor.fetchone()


_RESULTS = {int(result): result for result in Result}


def posted(verdict: Verdict) -> list[Posted]:
    """The answers one by one."""
    columns = verdict.result.tolist(), verdict.replayed.tolist(), verdict.seq.tolist()
    return list(map(Posted, map(_RESULTS.__getitem__, columns[0]), *columns[1:]))
