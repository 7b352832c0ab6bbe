"""An archive is a file that has a closed partition of the journal, and says by itself whether it is whole.

    pasys archive 1
    {"asset": …, "first_seq": …, "last_seq": …, "schema": …, "hash_before": …}
    blocks
    {"transfers": …, "after": …, "public_key": …, "accounts": {…}}

Compressed with gzip. Two lines of text; then blocks, each of two big-endian numbers of four bytes (rows, and bytes of
text), that many rows as they are hashed (ledger_chain.ROW, 146 bytes each), and their references end to end; then a
block without rows, whose text is the last line. `accounts` says the name of each account that had moved by then.

The rows are right when they lead from `hash_before` to the hash of `after`, a checkpoint at the last row that is signed
with the key (ledger_checkpoint.py). An asset's first file begins with ledger_chain.genesis, and each further one with
the hash that the one before it ends with, so that all of them and the journal that is left are one chain.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import msgspec
import numpy as np

from pasys.domain import ledger_chain
from pasys.domain.ledger_audit import Finding
from pasys.domain.ledger_chain import ROW, Rows
from pasys.domain.ledger_checkpoint import Checkpoint, key_id
from pasys.domain.ledger_columns import Int64s
from pasys.domain.ledger_proof import Checked, Signed

MAGIC = b"pasys archive 1\n"
HEADER_MAX = 65_536
BLOCK_MAX = 1_000_000  # rows, of which a reader holds one block
TEXT_MAX = 2**28  # bytes
_SIZES = struct.Struct(">II")
Read = Callable[[int], bytes]


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a file is about. `schema` is the database's revision, `hash_before` that of the row before the first."""

    asset: str
    first_seq: int
    last_seq: int
    schema: str
    hash_before: str

    @property
    def transfers(self) -> int:
        return self.last_seq - self.first_seq + 1

    def encode(self) -> bytes:
        return MAGIC + msgspec.json.encode(self) + b"\n"


class Trailer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a file ends with: a signed checkpoint at its last row, the key in hexadecimal, account names by number."""

    transfers: int
    after: Checkpoint
    public_key: str
    accounts: Mapping[str, str]

    def encode(self) -> bytes:
        text = msgspec.json.encode(self) + b"\n"
        return _SIZES.pack(0, len(text)) + text


def encode_block(rows: Rows, texts: bytes) -> bytes:
    return _SIZES.pack(len(rows), len(texts)) + rows.tobytes() + texts


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive rows, their references end to end, and their hashes, 32 bytes each."""

    rows: Rows
    texts: bytes
    hashes: bytes

    @property
    def seals(self) -> Int64s:
        """What a row of the journal keeps of its hash."""
        return ledger_chain.seals(self.hashes)


class Reading:
    """A file from beginning to end, held against its own hashes on the way. Raises ValueError where they differ."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self.header = self._header()
        self.hash = bytes.fromhex(self.header.hash_before)
        self.recorded_at = 0
        self.trailer: Trailer | None = None

    def blocks(self) -> Iterator[Block]:
        """All rows in order; when they have ended, the file is whole and right, and `hash` is that of the last."""
        seq = self.header.first_seq - 1
        while True:
            count, size = _SIZES.unpack(self._exactly(_SIZES.size))
            if count > BLOCK_MAX or size > TEXT_MAX:
                raise ValueError(f"a block of {count} rows with {size} bytes of text")
            if not count:
                break
            rows = np.frombuffer(self._exactly(count * ROW.itemsize), ROW)
            texts = self._exactly(size)
            if not np.array_equal(rows["seq"], np.arange(seq + 1, seq + 1 + count)):
                raise ValueError(f"row {seq + 1} is not where it belongs")
            hashes = ledger_chain.follow(self.hash, rows, texts)
            seq, self.hash, self.recorded_at = seq + count, hashes[-32:], int(rows["recorded_at"][-1])
            yield Block(rows, texts, hashes)
        self._end(self._exactly(size), seq)

    def _end(self, text: bytes, seq: int) -> None:
        try:
            self.trailer = msgspec.json.decode(text, type=Trailer)
            bytes.fromhex(self.trailer.public_key + self.trailer.after.signature + self.trailer.after.hash)
        except (msgspec.MsgspecError, ValueError) as error:
            raise ValueError(f"its last line is broken: {error}") from None
        if seq != self.header.last_seq or self.trailer.transfers != self.header.transfers:
            raise ValueError(f"its rows end at {seq}, and not at {self.header.last_seq}")
        after = self.trailer.after
        if (after.asset, after.seq, after.hash) != (self.header.asset, seq, self.hash.hex()):
            raise ValueError("its rows do not lead to the hash that was signed: one of them was changed")
        if self._read(1):
            raise ValueError("something follows its end")

    def _header(self) -> Header:
        if self._read(len(MAGIC)) != MAGIC:
            raise ValueError("it does not begin like an archive")
        line = bytearray()
        while not line.endswith(b"\n"):
            byte = self._read(1)
            if not byte or len(line) > HEADER_MAX:
                raise ValueError("its header does not end")
            line += byte
        try:
            header = msgspec.json.decode(bytes(line), type=Header)
            if len(bytes.fromhex(header.hash_before)) != 32:
                raise ValueError("its hash is none")
        except (msgspec.MsgspecError, ValueError) as error:
            raise ValueError(f"its header is broken: {error}") from None
        return header

    def _exactly(self, size: int) -> bytes:
        data = self._read(size)
        if len(data) != size:
            raise ValueError("it is cut off")
        return data


def check(read: Read, signed: Signed, *, public_key: bytes | None) -> Checked:
    """Read an archive to its end with no more than a public key: that which the reader trusts, or the file's own.

    Raises ValueError for what is no archive at all.
    """
    reading = Reading(read)
    header, findings, rows = reading.header, list[Finding](), 0

    def wrong(what: str, detail: str, seq: int | None = None) -> None:
        findings.append(Finding(what, header.asset, seq, None, detail))

    try:
        for block in reading.blocks():
            rows += len(block.rows)
    except ValueError as error:
        wrong("archive", str(error), header.first_seq + rows)
    key, at = "", None
    if (trailer := reading.trailer) is not None:
        found, at, after = bytes.fromhex(trailer.public_key), trailer.after.at, trailer.after
        key = key_id(found)
        if public_key is not None and public_key != found:
            wrong("key", f"the file is signed with key {key}, and not with {key_id(public_key)}")
        if after.key_id != key or not signed(found, after.words, bytes.fromhex(after.signature)):
            wrong("signature", "the checkpoint's signature is not of its words and this key", after.seq)
    if header.first_seq == 1 and header.hash_before != ledger_chain.genesis(header.asset).hex():
        wrong("seal", "the first row of the asset does not follow on the beginning of its chain", 1)
    return Checked(not findings, header.asset, header.first_seq, header.last_seq, rows, key, at, findings)
