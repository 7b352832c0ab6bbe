"""What an archived transfer still answers when its id is asked for again: its row is in a file, its answer is here.

Each row leaves 26 bytes (ANSWER, big-endian): its kind and its result, when it counts, and the first 16 bytes of the
sha256 of what a repetition must repeat: FIELDS, big-endian, with the reference's UTF-8 behind. The time is apart,
because a caller may leave it open. They stand end to end in the order of the journal.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from pasys.domain.ledger import Kind, Result, Transfer
from pasys.domain.ledger_chain import Rows
from pasys.domain.ledger_columns import Int64s, micros

ANSWER = np.dtype([("kind", "u1"), ("result", "u1"), ("effective_at", ">i8"), ("fingerprint", "V16")])
FIELDS = np.dtype(
    [
        ("debit", ">i8"),
        ("credit", ">i8"),
        ("amount", ">i8"),
        ("kind", ">i2"),
        ("code", ">i2"),
        ("pending_id", "V16"),  # zero: none
        ("corrects", "V16"),
        ("reference_size", ">i4"),  # -1: none
    ]
)


@dataclass(frozen=True, slots=True)
class Answer:
    """A transfer that the journal had. `effective_at` is in microseconds since 2000."""

    asset: str
    seq: int
    kind: Kind
    result: Result
    effective_at: int
    fingerprint: bytes

    def repeated_by(self, asked: Transfer) -> bool:
        """True where a repeated id asks for what was recorded, as far as domain.ledger.same compares it."""
        at = asked.effective_at
        return (
            asked.asset == self.asset
            and (at is None or micros(at) == self.effective_at)
            and fingerprint(asked) == self.fingerprint
        )


def fingerprint(transfer: Transfer) -> bytes:
    text = None if transfer.reference is None else transfer.reference.encode()
    none = bytes(16)
    made = np.zeros(1, FIELDS)
    made["debit"], made["credit"], made["amount"] = transfer.debit, transfer.credit, transfer.amount_minor
    made["kind"], made["code"] = transfer.kind, transfer.purpose
    made["pending_id"] = none if transfer.pending_id is None else transfer.pending_id.bytes
    made["corrects"] = none if transfer.corrects is None else transfer.corrects.bytes
    made["reference_size"] = -1 if text is None else len(text)
    return sha256(made.tobytes() + (text or b"")).digest()[:16]


def answers(rows: Rows, ends: Int64s, texts: bytes) -> bytes:
    """What consecutive rows leave behind. Their references lie end to end in `texts`, each up to its `ends`."""
    fields = np.zeros(len(rows), FIELDS)
    for name in FIELDS.names or ():
        fields[name] = rows[name]
    data, size = fields.tobytes(), FIELDS.itemsize
    starts = zip(range(0, len(data), size), [0, *ends.tolist()], ends.tolist(), strict=False)
    prints = b"".join([sha256(data[at : at + size] + texts[text:end]).digest()[:16] for at, text, end in starts])
    made = np.zeros(len(rows), ANSWER)
    made["kind"], made["result"], made["effective_at"] = rows["kind"], rows["result"], rows["effective_at"]
    made["fingerprint"] = np.frombuffer(prints, ANSWER["fingerprint"])
    return made.tobytes()


def read(asset: str, seq: int, stored: bytes) -> Answer:
    """One row's 26 bytes."""
    made = np.frombuffer(stored, ANSWER)[0]
    return Answer(
        asset,
        seq,
        Kind(int(made["kind"])),
        Result(int(made["result"])),
        int(made["effective_at"]),
        made["fingerprint"].tobytes(),
    )
