"""Book transactions by the thousand: what `transaction.create_many` does, a column at a time.

Rules, sentences, locks and rows are the same; only the objects between them are missing, which cost more than the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import compress
from typing import Any, TypeVar
from uuid import UUID

import msgspec
import numpy as np

from pasys import ids
from pasys.bulk import copy_pairs, one_uuid_arrays
from pasys.db import Unit, copy_into, queries
from pasys.domain import posting
from pasys.domain.ledger import Result
from pasys.domain.ledger_columns import NEVER, Columns, Int64s, micros
from pasys.domain.transaction import BOOK, Kind, Status
from pasys.errors import Rejected, TransferRefused
from pasys.events import Facts, TransactionSucceeded
from pasys.service import ledger
from pasys.service.transaction_draft import (
    DEPOSITS,
    WITHDRAWALS,
    Claims,
    Created,
    Drafts,
    Parties,
    PostMany,
    Systems,
    Turn,
    all_sides,
    answers,
    claim,
    parties,
    sides,
    systems,
)

SQL = queries("transaction")
_T = TypeVar("_T")


@dataclass(slots=True)
class _Part:
    """The drafts of one asset that have been laid out: where each stands in the batch, and its columns."""

    at: Sequence[int]
    kind: Sequence[Kind]
    debit: Sequence[int]
    credit: Sequence[int]

    def of(self, column: Sequence[_T]) -> Sequence[_T]:
        """What a column of the whole batch has for these."""
        return column if len(self.at) == len(column) else [column[at] for at in self.at]


class _Book:
    """One batch on its way."""

    def __init__(self, unit: Unit, drafts: Drafts) -> None:
        self._unit, self._drafts, self._minor = unit, drafts, drafts.minor()
        self._ids = ids.many("tx", len(drafts))
        self._claims = Claims()

    async def create(self, turn: Turn, post: PostMany) -> list[Created]:
        await turn.claim()
        async with self._unit.briefly():
            self._claims = await claim(self._unit, self._drafts, self._ids)
            known = await parties(self._unit, self._drafts, partial=True, met=turn.met)
            others = await systems(self._unit, self._drafts)
        turn.claimed.set()
        parts = self._lay_out(known, others)
        transfers = {asset: self._transfers(asset, parts[asset]) for asset in sorted(parts)}
        for asset, columns in transfers.items():  # nobody sees them before the commit; those of refused ones go again
            await self._insert(columns, parts[asset])
            if turn.kept:
                self._announce(columns, parts[asset])
        if turn.kept:
            await self._unit.write_outbox(relayed=False)
        await turn.post()  # each asset is locked from here on, for others who post
        if len(transfers) > 1 and turn.kept:
            await ledger.lock(self._unit, transfers)
        accepted = [at for asset, columns in transfers.items() for at in await self._post(columns, parts[asset], post)]
        await self._record(accepted)
        await self._take_back()
        fresh, claims = [Created(id, Status.SUCCEEDED) for id in self._ids], self._claims
        return await answers(self._unit, fresh, replays=claims.replays, refusals=claims.refusals)

    def _lay_out(self, known: Parties, others: Systems) -> dict[str, _Part]:
        """What no rule refuses that can be seen from here, by asset."""
        drafts, claims = self._drafts, self._claims
        columns = None if claims.refusals or claims.replays else all_sides(drafts, known)
        at, kinds, debits, credits = self._one_by_one(known) if columns is None else (range(len(drafts)), *columns)
        assets = [drafts.asset[place] for place in at]
        parts: dict[str, _Part] = {}
        for asset in {*assets}:
            mine = [own == asset for own in assets]
            parts[asset] = _Part(
                [*compress(at, mine)],
                [*compress(kinds, mine)],
                [number or others[DEPOSITS, asset] for number in compress(debits, mine)],
                [number or others[WITHDRAWALS, asset] for number in compress(credits, mine)],
            )
        return parts

    def _one_by_one(self, known: Parties) -> tuple[list[int], list[Kind], list[int], list[int]]:
        refusals, replays = self._claims.refusals, self._claims.replays
        places: list[int] = []
        kinds: list[Kind] = []
        numbers: list[tuple[int, int]] = []
        for at in range(len(self._drafts)):
            if at in refusals or at in replays:
                continue
            try:
                kind, debit, credit = sides(self._drafts[at], known)
            except Rejected as no:
                refusals[at] = no
            else:
                places.append(at)
                kinds.append(kind)
                numbers.append((debit.id if debit else 0, credit.id if credit else 0))
        return places, kinds, [debit for debit, _ in numbers], [credit for _, credit in numbers]

    def _transfers(self, asset: str, part: _Part) -> Columns:
        return posting.book_transfers(
            id=np.frombuffer(ids.uuid7s(len(part.at)), "V16"),
            debit=part.debit,
            credit=part.credit,
            amount_minor=part.of(self._minor),
            asset=asset,
            reference=part.of(self._ids),
            purpose=[posting.BOOK_PURPOSES[kind] for kind in part.kind],
            effective_at=_times(part.of(self._drafts.effective_at)),
        )

    async def _insert(self, columns: Columns, part: _Part) -> None:
        unit, count, made = self._unit, len(columns), part.of(self._ids)
        now, effective = micros(unit.now), columns.effective_at
        await unit.copy(
            "transaction",
            count,
            id=made,
            kind=part.kind,
            rail=BOOK,
            status=Status.SUCCEEDED,
            asset=columns.asset,
            amount_minor=columns.amount,
            debit_account=columns.debit,
            credit_account=columns.credit,
            actor=unit.actor,
            transfer_ids=one_uuid_arrays(columns.id),
            effective_at=unit.now if effective is None else np.where(effective == NEVER, now, effective),
            created_at=unit.now,
            final_at=unit.now,
            **_named(part.of(self._drafts.batch_id), part.of(self._drafts.metadata)),
        )

    def _announce(self, columns: Columns, part: _Part) -> None:
        said = {"transaction_id": part.of(self._ids), "kind": part.kind, "amount_minor": part.of(self._minor)}
        same = {"asset": columns.asset, "rail": BOOK}
        self._unit.emit_many(Facts(kind=TransactionSucceeded, same=same, columns=said))

    async def _post(self, columns: Columns, part: _Part, post: PostMany) -> list[int]:
        """Post one asset's; the places of those that no rule refuses."""
        result = (await post(self._unit, columns)).result
        for i in np.flatnonzero(result).tolist():
            id, rule = UUID(bytes=columns.id[i].tobytes()), Result(int(result[i])).rule
            self._claims.refusals[part.at[i]] = TransferRefused(transfer_id=id, rule=rule)
        return [part.at[i] for i in np.flatnonzero(result == Result.ACCEPTED).tolist()]

    async def _record(self, at: Sequence[int]) -> None:
        """The two steps of those at these places."""
        if not at:
            return
        same = {"transaction_id": [self._ids[place] for place in at], "at": self._unit.now, "actor": self._unit.actor}
        begun = {"from_status": None, "to_status": Status.INITIALIZED, **same}
        done = {"from_status": Status.INITIALIZED, "to_status": Status.SUCCEEDED, **same}
        await copy_into(self._unit.driver, "transaction_history", copy_pairs(len(at), begun, done))

    async def _take_back(self) -> None:
        """What was refused leaves no row, no announcement and no key."""
        refused = self._claims.refusals
        if refused:
            await self._unit.rows(SQL["never_was"], ids=[self._ids[at] for at in refused])
            await self._claims.give_back(self._unit, self._ids, refused)


async def create_many(unit: Unit, drafts: Drafts, *, turn: Turn, post: PostMany) -> list[Created]:
    """Create a batch of drafts that go by book, in order, in one unit; a refused one leaves the others alone."""
    return await _Book(unit, drafts).create(turn, post)


def _times(moments: Sequence[datetime | None]) -> Int64s | None:
    """When each takes effect, NEVER for when it is recorded; None where that is so for all."""
    return None if moments.count(None) == len(moments) else np.array([micros(at) for at in moments], np.int64)


def _named(batch_id: Sequence[str | None], metadata: Sequence[dict[str, Any] | None]) -> dict[str, Any]:
    """The columns that most drafts leave empty."""
    named: dict[str, Any] = {}
    if any(batch_id):
        named["batch_id"] = batch_id
    if any(metadata):
        encode = msgspec.json.encode
        named["metadata"] = [b"\1" + encode(said) if said else None for said in metadata]  # jsonb, version 1
    return named
