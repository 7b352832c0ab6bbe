"""A checkpoint says which hash a row of the journal has and what the books amount to there; its words are signed.

    pasys checkpoint 1
    asset USD
    seq 1234
    hash 64 hexadecimal digits
    state 64 hexadecimal digits
    at 2026-01-31T12:00:00+00:00
    key 16 hexadecimal digits

Each line ends with a line feed, in UTF-8. `state` is the sha256 of the state below. The signature is Ed25519 (RFC
8032); the key's id is the beginning of the sha256 of the public key's 32 bytes. Kept outside the database, a checkpoint
shows any change of the rows up to its own, however well it was made.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

import msgspec
import numpy as np

from pasys.domain.ledger_audit import Open, State

_NUMBER = np.dtype("<i8")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The hashes and the signature are in hexadecimal."""

    asset: str
    seq: int
    hash: str
    state_hash: str
    at: datetime
    key_id: str
    signature: str

    @property
    def words(self) -> bytes:
        """What is signed."""
        return words(self.asset, self.seq, self.hash, self.state_hash, self.at, self.key_id)


def words(asset: str, seq: int, hash: str, state_hash: str, at: datetime, key_id: str) -> bytes:
    lines = ("pasys checkpoint 1", f"asset {asset}", f"seq {seq}", f"hash {hash}", f"state {state_hash}")
    return "".join(f"{line}\n" for line in (*lines, f"at {at.isoformat()}", f"key {key_id}")).encode()


def key_id(public_key: bytes) -> str:
    return sha256(public_key).hexdigest()[:16]


def pack(state: State) -> tuple[bytes, str]:
    """A state as it is stored, and its hash (of what was compressed)."""
    data = _encode(state)
    return zlib.compress(data, 1), sha256(data).hexdigest()


def state_hash(state: State) -> str:
    """What a checkpoint's words say of a state."""
    return sha256(_encode(state)).hexdigest()


def _encode(state: State) -> bytes:
    holds = sorted(state.holds.items())
    fields = [[hold.debit, hold.credit, hold.amount_minor, hold.expires_at] for _, hold in holds]
    return msgspec.msgpack.encode(
        (
            state.seq,
            state.hash,
            state.recorded_at,
            state.numbers.astype(_NUMBER).tobytes(),
            state.sums.astype(_NUMBER).tobytes(),
            b"".join(id for id, _ in holds),
            np.array(fields, _NUMBER).tobytes(),
        )
    )


def unpack(stored: bytes) -> tuple[State, str]:
    """The state that was stored, and its hash. Raises ValueError for what is no state."""
    try:
        data = zlib.decompress(stored)
        seq, hash, recorded_at, numbers, sums, ids, fields = msgspec.msgpack.decode(
            data, type=tuple[int, bytes, int, bytes, bytes, bytes, bytes]
        )
    except (zlib.error, msgspec.MsgspecError) as error:
        raise ValueError(f"no state: {error}") from None
    count = len(numbers) // _NUMBER.itemsize
    rows = np.frombuffer(fields, _NUMBER).reshape(-1, 4).tolist()
    holds = {ids[16 * i : 16 * i + 16]: Open(*row) for i, row in enumerate(rows)}
    table = np.frombuffer(sums, _NUMBER).reshape(5, count).astype(np.int64)
    known = np.frombuffer(numbers, _NUMBER).astype(np.int64)
    return State(seq, hash, recorded_at, known, table, holds), sha256(data).hexdigest()
