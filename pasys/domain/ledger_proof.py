"""A proof is a file that shows a range of the journal to somebody who has only the public key.

    pasys proof 1
    {"asset": …, "first_seq": …, "last_seq": …, "before": …, "after": …, "public_key": …}
    rows

Two lines of text, then the rows from `before` to `after` as they are hashed (ledger_chain.ROW, 146 bytes each, with the
reference's bytes behind it where it has one), each with its seal of 8 bytes, which tells where a change was made.
`before` is a signed checkpoint, or null: then the rows begin with the first of the asset. `after` is a signed
checkpoint. The asked range, first_seq to last_seq, lies between the two. The rows are right when they lead from the one
hash to the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from pasys.domain import ledger_chain
from pasys.domain.ledger_audit import Finding
from pasys.domain.ledger_checkpoint import Checkpoint, key_id

MAGIC = b"pasys proof 1\n"
HEADER_MAX = 65_536
_SIZE = ledger_chain.ROW.itemsize
Read = Callable[[int], bytes]
Signed = Callable[[bytes, bytes, bytes], bool]  # public key, words, signature


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    asset: str
    first_seq: int
    last_seq: int
    before: Checkpoint | None
    after: Checkpoint
    public_key: str

    def encode(self) -> bytes:
        return MAGIC + msgspec.json.encode(self) + b"\n"


@dataclass(frozen=True, slots=True)
class Checked:
    """What a proof shows: the asked range of an asset's journal, the rows read, and what is wrong, if anything."""

    ok: bool
    asset: str
    first_seq: int
    last_seq: int
    transfers: int
    key_id: str
    signed_at: Any
    findings: list[Finding]


def check(read: Read, signed: Signed, *, public_key: bytes | None) -> Checked:
    """Read a proof to its end. `public_key` is the one that the reader trusts; None believes the file's own.

    Raises ValueError for what is no proof at all.
    """
    header = _header(read)
    key = bytes.fromhex(header.public_key)
    findings: list[Finding] = []

    def wrong(what: str, detail: str, seq: int | None = None) -> None:
        findings.append(Finding(what, header.asset, seq, None, detail))

    if public_key is not None and public_key != key:
        wrong("key", f"the file is signed with key {key_id(key)}, and not with {key_id(public_key)}")
    for checkpoint in (header.before, header.after):
        if checkpoint is None:
            continue
        if checkpoint.asset != header.asset or checkpoint.key_id != key_id(key):
            wrong("checkpoint", "the checkpoint is of another asset or key", checkpoint.seq)
        elif not signed(key, checkpoint.words, bytes.fromhex(checkpoint.signature)):
            wrong("signature", "the checkpoint's signature is not of its words and this key", checkpoint.seq)
    start = 0 if header.before is None else header.before.seq
    if not start < header.first_seq <= header.last_seq <= header.after.seq:
        wrong("range", f"{header.first_seq} to {header.last_seq} is not between the checkpoints")
    hash = ledger_chain.genesis(header.asset) if header.before is None else bytes.fromhex(header.before.hash)
    seq, hash = _follow(read, start, hash, header.after.seq, wrong)
    if not findings and hash.hex() != header.after.hash:
        wrong("seal", "the rows do not lead to the hash that was signed: one of them was changed", seq)
    return Checked(
        not findings,
        header.asset,
        header.first_seq,
        header.last_seq,
        seq - start,
        key_id(key),
        header.after.at,
        findings,
    )


def _header(read: Read) -> Header:
    if read(len(MAGIC)) != MAGIC:
        raise ValueError("it does not begin like a proof")
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = read(1)
        if not byte or len(line) > HEADER_MAX:
            raise ValueError("its header does not end")
        line += byte
    try:
        header = msgspec.json.decode(bytes(line), type=Header)
        bytes.fromhex(header.public_key)
        for checkpoint in (header.before, header.after):
            if checkpoint is not None:
                bytes.fromhex(checkpoint.signature)
                bytes.fromhex(checkpoint.hash)
    except (msgspec.MsgspecError, ValueError) as error:
        raise ValueError(f"its header is broken: {error}") from None
    return header


def _follow(read: Read, seq: int, hash: bytes, last: int, wrong: Callable[..., None]) -> tuple[int, bytes]:
    """Take the rows one by one; where they end, and the hash there."""
    for row, data, seal in rows(read):
        if row != seq + 1:
            wrong("gap", f"row {row} follows row {seq}", seq + 1)
            return seq, hash
        made = np.frombuffer(data[:_SIZE], ledger_chain.ROW)
        hash = ledger_chain.follow(hash, made, data[_SIZE:])
        seq = row
        if hash[:8] != seal:
            wrong("seal", "the row's seal does not fit its fields and the row before it", row)
            return seq, hash
    if seq != last:
        wrong("gap", f"the rows end at {seq}, and not at {last}", seq + 1)
    return seq, hash


def rows(read: Read) -> Iterator[tuple[int, bytes, bytes]]:
    """The rows of a proof behind its header: seq, the bytes that are hashed, the seal. What is cut off fits no seal."""
    sizes = ledger_chain.ROW.fields or {}
    at = sizes["reference_size"][1]
    while fixed := read(_SIZE):
        size = int.from_bytes(fixed[at : at + 4], "big", signed=True) if len(fixed) == _SIZE else 0
        text = read(size) if 0 < size < 2**24 else b""
        yield int.from_bytes(fixed[:8], "big", signed=True), fixed.ljust(_SIZE, b"\0") + text, read(8)
