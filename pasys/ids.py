"""Typed, time-ordered ids: a prefix that says what it is, then 26 characters that sort by time.

The body of an id is a UUIDv7 (RFC 9562: 48 bits of Unix milliseconds, then random) in Crockford's base 32, lower case,
so ids sort as text in the order in which they were made. Accounts are the exception: the ledger's arrays want a
64-bit integer, so an account's number is 43 bits of milliseconds and 20 random bits, shown as 13 characters.
"""

from __future__ import annotations

import random
import time
from uuid import UUID

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_VALUE = {character: value for value, character in enumerate(_ALPHABET)}
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]
_SHIFTS = {length: range((length + 1) // 2 * 10 - 10, -1, -10) for length in (13, 26)}
_ACCOUNT_EPOCH_MS = 1_577_836_800_000  # 2020-01-01: leaves 278 years in 43 bits


def _base32(number: int, length: int) -> str:
    pairs = [_PAIRS[number >> shift & 1023] for shift in _SHIFTS[length]]
    return "".join(pairs)[-length:]


_last_stamp = 0


def _next() -> int:
    """The bits of the next UUIDv7.

    Each is greater than the one before it in this process: the twelve bits behind the milliseconds count (RFC 9562,
    section 6.2, method 1), and the last 62 are random.
    """
    global _last_stamp
    stamp = time.time_ns() // 1_000_000 << 12
    if stamp <= _last_stamp:
        stamp = _last_stamp + 1
    _last_stamp = stamp
    tail = random.getrandbits(62)  # an id is no secret; Python seeds this anew in every process, forked ones too
    return (stamp >> 12) << 80 | 0x7 << 76 | (stamp & 0xFFF) << 64 | 0b10 << 62 | tail


def uuid7() -> UUID:
    """A time-ordered UUID (version 7)."""
    return UUID(int=_next())


def uuid7s(count: int) -> bytes:
    """Many of them at once, 16 bytes each: in order, and behind every one that this process made before."""
    import numpy as np

    global _last_stamp
    first = max(time.time_ns() // 1_000_000 << 12, _last_stamp + 1)
    _last_stamp = first + count - 1
    stamps = np.arange(first, first + count, dtype=np.uint64)
    halves = np.empty((count, 2), ">u8")
    halves[:, 0] = stamps >> np.uint64(12) << np.uint64(16) | np.uint64(0x7000) | stamps & np.uint64(0xFFF)
    tails = np.frombuffer(random.randbytes(8 * count), np.uint64)
    halves[:, 1] = tails >> np.uint64(2) | np.uint64(1 << 63)
    return halves.tobytes()


def new(prefix: str) -> str:
    """A new id of a kind: new("tx") -> "tx_06f2…"."""
    return f"{prefix}_{_base32(_next(), 26)}"


def many(prefix: str, count: int) -> list[str]:
    """Many new ids of a kind, in order: a tenth of what as many calls of new() cost."""
    import numpy as np

    halves = np.frombuffer(uuid7s(count), ">u8").reshape(count, 2).astype(np.uint64)
    high, low = halves[:, 0], halves[:, 1]
    codes = np.empty((count, 26), np.uint8)
    for place in range(26):  # five bits each, the highest first; the thirteenth lies across the halves
        shift = 125 - 5 * place
        if shift == 60:
            bits = high << np.uint64(4) | low >> np.uint64(60)
        else:
            bits = high >> np.uint64(shift - 64) if shift > 64 else low >> np.uint64(shift)
        codes[:, place] = bits & np.uint64(31)
    text = np.frombuffer(_ALPHABET.encode(), np.uint8)[codes].tobytes().decode()
    return [f"{prefix}_{text[at : at + 26]}" for at in range(0, 26 * count, 26)]


def earliest(prefix: str, at_ms: int) -> str:
    """The smallest id of a kind that can be made at or after a time: a bound to compare with."""
    return f"{prefix}_{_base32(at_ms << 80, 26)}"


_last_number = 0


def new_account_number() -> int:
    """A new account number: positive, fits a signed 64-bit integer, greater than the one before it in this process."""
    global _last_number
    millis = time.time_ns() // 1_000_000 - _ACCOUNT_EPOCH_MS
    number = millis << 20 | random.getrandbits(20)
    _last_number = max(number, _last_number + 1)
    return _last_number


def account_id(number: int) -> str:
    """The public form of an account number: acc_ and 13 characters."""
    return f"acc_{_base32(number, 13)}"


def account_number(public_id: str) -> int | None:
    """The account number behind acc_…, or None when the text is no account id."""
    body = public_id.removeprefix("acc_")
    if len(body) != 13 or body == public_id or any(character not in _VALUE for character in body):
        return None
    number = 0
    for character in body:
        number = number << 5 | _VALUE[character]
    return number if number < 1 << 63 else None
