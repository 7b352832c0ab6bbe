"""Each transfer's hash covers its fields and the hash of the transfer before it in the same asset.

    hash(0) = sha256("pasys journal 1 " + asset)
    hash(n) = sha256(hash(n - 1) + row(n))

row(n) is the layout below, big-endian, with the reference behind it; ledger_row_bytes() says the same in SQL. A row of
the journal keeps the first eight bytes of its hash, its *seal*; whole hashes are kept by the asset's row (of the last
transfer) and by checkpoints. Nothing can be changed, left out, put in or exchanged without changing every hash behind.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import sha256
from typing import cast

import numpy as np
from numpy.typing import NDArray

from pasys.domain.ledger import Result, Transfer
from pasys.domain.ledger_columns import NEVER, Columns, Int64s, micros

ROW = np.dtype(
    [
        ("seq", ">i8"),
        ("id", "V16"),
        ("debit", ">i8"),
        ("credit", ">i8"),
        ("amount", ">i8"),
        ("kind", ">i2"),
        ("code", ">i2"),
        ("result", ">i2"),
        ("debit_version", ">i8"),
        ("credit_version", ">i8"),
        ("debit_balance", ">i8"),
        ("credit_balance", ">i8"),
        ("effective_at", ">i8"),  # microseconds since 2000, as PostgreSQL keeps them
        ("recorded_at", ">i8"),
        ("expires_at", ">i8"),  # 2^63 - 1: none
        ("pending_id", "V16"),  # zero: none
        ("corrects", "V16"),
        ("reference_size", ">i4"),  # bytes of UTF-8 that follow; -1: none
    ]
)
Rows = NDArray[np.void]
_PACKED = np.dtype((np.void, ROW.itemsize))
_ROW = struct.Struct(">q16sqqqhhhqqqqqqq16s16si")  # the same for one
_NO_UUID = bytes(16)


def genesis(asset: str) -> bytes:
    """What the first transfer of an asset is chained to."""
    return sha256(f"pasys journal 1 {asset}".encode()).digest()


def rows(
    columns: Columns,
    *,
    first_seq: int,
    result: Int64s,
    versions: tuple[Int64s, Int64s],
    balances: tuple[Int64s, Int64s],
    recorded_at: int,
) -> Rows:
    """Transfers as they are about to be recorded, from `first_seq` on. The sides are (debit, credit)."""
    made = np.zeros(len(columns), ROW)
    made["seq"] = np.arange(first_seq, first_seq + len(columns))
    made["id"] = columns.id
    made["debit"], made["credit"], made["amount"] = columns.debit, columns.credit, columns.amount
    made["code"], made["result"] = columns.purpose, result
    made["debit_version"], made["credit_version"] = versions
    made["debit_balance"], made["credit_balance"] = balances
    made["recorded_at"] = recorded_at
    effective = columns.effective_at
    made["effective_at"] = recorded_at if effective is None else np.where(effective == NEVER, recorded_at, effective)
    made["expires_at"] = NEVER if columns.expires_at is None else columns.expires_at
    for name, column in (("kind", columns.kind), ("pending_id", columns.pending_id), ("corrects", columns.corrects)):
        if column is not None:
            made[name] = column
    return made


def chain(before: bytes, made: Rows, references: Sequence[str | None] | None) -> tuple[Int64s, bytes]:
    """The seal of each row, and the hash of the last; `before` is the hash of the row before the first.

    Writes the references' sizes into the rows.
    """
    made["reference_size"], texts = (-1, b"") if references is None else _packed(references)
    hashes = follow(before, made, texts)
    return seals(hashes), hashes[-32:] or before


def _packed(references: Sequence[str | None]) -> tuple[list[int], bytes]:
    """How many bytes each has, -1 for none, and all of them end to end."""
    if None not in references:
        whole = cast("Sequence[str]", references)
        text = "".join(whole)
        if text.isascii():
            return [*map(len, whole)], text.encode()
    packed = [None if text is None else text.encode() for text in references]
    return [-1 if text is None else len(text) for text in packed], b"".join([text or b"" for text in packed])


def follow(before: bytes, made: Rows, texts: bytes) -> bytes:
    """The hash of each row, 32 bytes each. `texts` has the references of the rows, one behind the other."""
    hashes = []
    copy, hash, add = sha256().copy, before, hashes.append
    for row in _hashed(made, texts):
        step = copy()  # starting from a copy costs half of what a new one does
        step.update(hash)
        step.update(row)
        hash = step.digest()
        add(hash)
    return b"".join(hashes)


def _hashed(made: Rows, texts: bytes) -> list[bytes]:
    """Each row as it is hashed, its reference behind it."""
    sizes = np.maximum(made["reference_size"].astype(np.int64), 0)
    if not texts:
        return made.view(_PACKED).tolist()
    if len(texts) == sizes[0] * len(made) and (sizes == sizes[0]).all():  # as of what one kind of entity has posted
        tails = np.frombuffer(texts, np.uint8).reshape(len(made), -1)
        whole = np.hstack([made.view(np.uint8).reshape(len(made), -1), tails])
        return whole.view((np.void, whole.shape[1])).reshape(-1).tolist()
    ends = np.cumsum(sizes).tolist()
    rows = made.view(_PACKED).tolist()
    return [row + texts[text:end] for row, text, end in zip(rows, [0, *ends], ends, strict=False)]


def follow_one(
    before: bytes,
    transfer: Transfer,
    *,
    seq: int,
    versions: tuple[int, int],
    balances: tuple[int, int],
    recorded_at: int,
) -> bytes:
    """The hash of a direct transfer that was accepted and comes alone. The sides are (debit, credit)."""
    text = None if transfer.reference is None else transfer.reference.encode()
    row = _ROW.pack(
        seq,
        transfer.id.bytes,
        transfer.debit,
        transfer.credit,
        transfer.amount_minor,
        transfer.kind,
        transfer.purpose,
        Result.ACCEPTED,
        *versions,
        *balances,
        recorded_at if transfer.effective_at is None else micros(transfer.effective_at),
        recorded_at,
        NEVER,
        _NO_UUID,
        _NO_UUID if transfer.corrects is None else transfer.corrects.bytes,
        -1 if text is None else len(text),
    )
    return sha256(before + row + (text or b"")).digest()


def seals(hashes: bytes) -> Int64s:
    """What the rows keep of their hashes."""
    return np.frombuffer(hashes, ">i8").reshape(-1, 4)[:, 0].astype(np.int64)
