"""Transfers of one asset are held as columns; a column that none of them uses is not there at all.

Callers with a transfer or two hand over objects, and those with thousands hand over arrays: an object costs more than
everything else that happens to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from pasys.domain.ledger import Kind, Purpose, Transfer

Int64s = NDArray[np.int64]
Bools = NDArray[np.bool_]
Uuids = NDArray[np.void]  # 16 bytes each; all zero: none

NEVER = 2**63 - 1  # the time of what has none
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)  # PostgreSQL counts microseconds from here
_MICROSECOND = timedelta(microseconds=1)
_UUID = np.dtype("V16")
_NO_UUID = bytes(16)
_FIELDS = [attrgetter(name) for name in (
    "id", "debit", "credit", "amount_minor", "purpose", "kind",
    "pending_id", "corrects", "effective_at", "expires_at", "reference", "linked",
)]  # fmt: skip


def micros(at: datetime | None) -> int:
    """A time in microseconds since 2000, NEVER for none."""
    return NEVER if at is None else (at - EPOCH) // _MICROSECOND


def moment(at: int) -> datetime | None:
    return None if at == NEVER else EPOCH + timedelta(microseconds=at)


def uuid_column(ids: Sequence[UUID | None]) -> Uuids:
    return np.frombuffer(b"".join([_NO_UUID if id is None else id.int.to_bytes(16) for id in ids]), _UUID)


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Transfers in the order in which they are asked for. `purpose`, `kind` and so on are those of Transfer.

    Times are microseconds since 2000. All columns are of one length; None stands for a column of nothing: direct
    transfers, no holds named, nothing corrected, effective when recorded, no deadline, no reference, no chain.
    """

    asset: str
    id: Uuids
    debit: Int64s
    credit: Int64s
    amount: Int64s
    purpose: Int64s
    kind: Int64s | None = None
    pending_id: Uuids | None = None
    corrects: Uuids | None = None
    effective_at: Int64s | None = None
    expires_at: Int64s | None = None
    reference: Sequence[str | None] | None = None
    linked: Bools | None = None

    def __len__(self) -> int:
        return len(self.debit)

    @property
    def linked_on(self) -> bool:
        """True where the last one is chained to a next one, which is not among them."""
        return self.linked is not None and bool(self.linked[-1:].any())

    @classmethod
    def of(cls, transfers: Sequence[Transfer]) -> Columns:
        """The columns of transfers, which are all of one asset."""
        id, debit, credit, amount, purpose, kind, pending_id, corrects, effective_at, expires_at, reference, linked = (
            list(map(field, transfers)) for field in _FIELDS
        )
        return cls(
            asset=transfers[0].asset,
            id=uuid_column(id),
            debit=_numbers(debit),
            credit=_numbers(credit),
            amount=_numbers(amount),
            purpose=_numbers(purpose),
            kind=_numbers(kind) if any(kind) else None,
            pending_id=None if _nothing(pending_id) else uuid_column(pending_id),
            corrects=None if _nothing(corrects) else uuid_column(corrects),
            effective_at=None if _nothing(effective_at) else _times(effective_at),
            expires_at=None if _nothing(expires_at) else _times(expires_at),
            reference=None if _nothing(reference) else reference,
            linked=np.array(linked, np.bool_) if any(linked) else None,
        )

    @classmethod
    def joined(cls, parts: Sequence[Columns]) -> Columns:
        """Several, one behind the other; all of one asset."""
        if len(parts) == 1:
            return parts[0]

        def column(name: str, none: Any) -> Any:
            if all(getattr(part, name) is None for part in parts):
                return None
            filled = [
                np.full(len(part), none) if getattr(part, name) is None else getattr(part, name) for part in parts
            ]
            return np.concatenate(filled)

        references = None
        if any(part.reference is not None for part in parts):
            references = [text for part in parts for text in part.reference or [None] * len(part)]
        zero, no_id = np.int64(0), np.void(_NO_UUID)
        return cls(
            asset=parts[0].asset,
            id=np.concatenate([part.id for part in parts]),
            debit=np.concatenate([part.debit for part in parts]),
            credit=np.concatenate([part.credit for part in parts]),
            amount=np.concatenate([part.amount for part in parts]),
            purpose=np.concatenate([part.purpose for part in parts]),
            kind=column("kind", zero),
            pending_id=column("pending_id", no_id),
            corrects=column("corrects", no_id),
            effective_at=column("effective_at", np.int64(NEVER)),
            expires_at=column("expires_at", np.int64(NEVER)),
            reference=references,
            linked=column("linked", np.bool_(False)),
        )

    def where(self, wanted: Bools) -> Columns:
        """The rows that are marked, as columns. Chains are not kept: nothing is judged any more."""
        if wanted.all():
            return self

        def column(values: Any) -> Any:
            return None if values is None else values[wanted]

        references = self.reference
        if references is not None:
            references = [references[i] for i in np.flatnonzero(wanted).tolist()]
        return Columns(
            asset=self.asset,
            id=self.id[wanted],
            debit=self.debit[wanted],
            credit=self.credit[wanted],
            amount=self.amount[wanted],
            purpose=self.purpose[wanted],
            kind=column(self.kind),
            pending_id=column(self.pending_id),
            corrects=column(self.corrects),
            effective_at=column(self.effective_at),
            expires_at=column(self.expires_at),
            reference=references,
        )

    def __getitem__(self, i: int) -> Transfer:
        """One transfer as an object, for what is judged by itself."""
        return Transfer(
            id=UUID(bytes=self.id[i].tobytes()),
            debit=int(self.debit[i]),
            credit=int(self.credit[i]),
            amount_minor=int(self.amount[i]),
            asset=self.asset,
            purpose=Purpose(int(self.purpose[i])),
            kind=Kind.DIRECT if self.kind is None else Kind(int(self.kind[i])),
            pending_id=_id(self.pending_id, i),
            corrects=_id(self.corrects, i),
            effective_at=None if self.effective_at is None else moment(int(self.effective_at[i])),
            expires_at=None if self.expires_at is None else moment(int(self.expires_at[i])),
            reference=None if self.reference is None else self.reference[i],
            linked=self.linked is not None and bool(self.linked[i]),
        )

    def accounts(self) -> Int64s:
        """The accounts on both sides, in order of number."""
        if len(self) == 1:
            return _numbers(sorted({int(self.debit[0]), int(self.credit[0])}))
        return np.unique(np.concatenate([self.debit, self.credit]))

    def repeats_itself(self) -> bool:
        """True where an id may stand twice. Found by folding each into 64 bits, so it may err on the safe side."""
        if len(self) == 1:
            return False
        halves = np.ascontiguousarray(self.id).view(np.uint64).reshape(-1, 2)
        folded = np.sort(halves[:, 0] ^ (halves[:, 1] * np.uint64(0x9E37_79B9_7F4A_7C15)))
        return bool((folded[1:] == folded[:-1]).any())


def _numbers(values: Sequence[int]) -> Int64s:
    return np.fromiter(values, np.int64, len(values))


def _nothing(values: Sequence[object]) -> bool:
    return values.count(None) == len(values)


def _times(values: Sequence[datetime | None]) -> Int64s:
    return _numbers([micros(at) for at in values])


def _id(column: Uuids | None, i: int) -> UUID | None:
    if column is None:
        return None
    data = column[i].tobytes()
    return None if data == _NO_UUID else UUID(bytes=data)
