"""The journal alone says what every balance, version and hold must be; an audit walks it and names what differs.

It keeps one set of counters for each account and the open holds in memory, and takes the journal in pieces.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pasys.domain import ledger_chain
from pasys.domain.ledger import CREDITS_MUST_NOT_EXCEED_DEBITS, DEBITS_MUST_NOT_EXCEED_CREDITS, Kind
from pasys.domain.ledger_batch import Accounts
from pasys.domain.ledger_chain import Rows
from pasys.domain.ledger_columns import Bools, Int64s, moment
from pasys.ids import account_id

FINDINGS_MAX = 100


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that does not hold. `seq` is the journal row, `account` the account (acc_…), where there is one."""

    what: str
    asset: str
    seq: int | None
    account: str | None
    detail: str

    def __str__(self) -> str:
        where = [f"row {self.seq}"] if self.seq is not None else []
        where += [self.account] if self.account is not None else []
        return f"{self.asset}: {self.what}: {self.detail}" + (f" ({', '.join(where)})" if where else "")


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive rows of one asset's journal as they are hashed, their references end to end, and their seals.

    `disguised` are those that name the zero id, or infinity as a deadline: they are hashed as if they named none.
    """

    rows: Rows
    texts: bytes
    seal: Int64s
    disguised: Sequence[int] = ()

    def column(self, name: str) -> Int64s:
        return self.rows[name].astype(np.int64)

    def sides(self, debit: str, credit: str) -> Int64s:
        """Two columns as one: the debit side of row i stands at 2 * i, its credit side behind it."""
        return _both_sides(self.rows[debit], self.rows[credit])

    def interleaved(self) -> bytes:
        """Each row with its reference and its seal behind it, as a proof has them."""
        data, size, seals = self.rows.tobytes(), ledger_chain.ROW.itemsize, self.seal.astype(">i8").tobytes()
        ends = np.cumsum(np.maximum(self.column("reference_size"), 0)).tolist()
        starts = zip(range(0, len(data), size), range(0, len(seals), 8), [0, *ends], ends, strict=False)
        parts = [data[at : at + size] + self.texts[text:end] + seals[seal : seal + 8] for at, seal, text, end in starts]
        return b"".join(parts)


class Open(NamedTuple):
    """A hold that is open. `expires_at` is in microseconds since 2000."""

    debit: int
    credit: int
    amount_minor: int
    expires_at: int


@dataclass(frozen=True, slots=True)
class State:
    """What an asset's journal amounts to behind its row `seq`: where an audit begins, and where it ended.

    `sums` has a row for each of version, debits pending, debits posted, credits pending, credits posted, and a column
    for each of `numbers`, in order.
    """

    seq: int
    hash: bytes
    recorded_at: int
    numbers: Int64s
    sums: Int64s
    holds: dict[bytes, Open]


def beginning(asset: str) -> State:
    """The state of an asset without a transfer."""
    return State(0, ledger_chain.genesis(asset), -(2**63), np.zeros(0, np.int64), np.zeros((5, 0), np.int64), {})


class Audit:
    """One asset's journal, from its first row or a proven state to its last, against its accounts as they stand."""

    def __init__(self, asset: str, accounts: Accounts, start: State) -> None:
        self.asset, self.accounts = asset, accounts
        self.findings: list[Finding] = []
        self.last_seq, self.last_hash, self.recorded_at = start.seq, start.hash, start.recorded_at
        self.open: dict[bytes, tuple[int, int, int, int]] = dict(start.holds)  # as Open says, at half of its cost
        self.chained = True  # until the first seal that is wrong: behind it, all are
        n = len(accounts)
        at, known = accounts.position(start.numbers)
        for number in start.numbers[~known].tolist():
            self.found("account", "it had transfers, and is gone", number=number)
        # What the last row said (versions and balances), and what the amounts add up to.
        self.version, self.debits, self.credits = (
            np.zeros(n, np.int64),
            np.zeros((2, n), np.int64),
            np.zeros((2, n), np.int64),
        )
        self.version[at[known]] = start.sums[0, known]
        self.debits[:, at[known]], self.credits[:, at[known]] = start.sums[1:3, known], start.sums[3:5, known]
        self.balance = self.credits[1] - self.debits[1]

    def state(self) -> State:
        """Where the audit stands: a later one may begin here."""
        moved = self.version > 0
        sums = np.stack([self.version[moved], *self.debits[:, moved], *self.credits[:, moved]])
        holds = {id: Open(*hold) for id, hold in self.open.items()}
        return State(self.last_seq, self.last_hash, self.recorded_at, self.accounts.number[moved], sums, holds)

    def found(self, what: str, detail: str, *, seq: int | None = None, number: int | None = None) -> None:
        """Of all that is found, what the first rows have is kept; behind it, what belongs to no row."""
        account = None if number is None else account_id(number)
        insort(self.findings, Finding(what, self.asset, seq, account, detail), key=_place)
        del self.findings[FINDINGS_MAX:]

    def read(self, piece: Piece) -> None:
        """Take the next rows. Each row is compared with the one before it, so that one wrong row is found once."""
        seq, result = piece.column("seq"), piece.rows["result"]
        self._read_seq(seq)
        at, there = self.accounts.position(piece.sides("debit", "credit"))
        accepted, known = result == 0, there[0::2] & there[1::2]
        for i in np.flatnonzero(accepted & ~known).tolist():
            self.found("account", "the row moves an account that is not there", seq=int(seq[i]))
        amount, kind = piece.column("amount"), piece.rows["kind"]
        pending = self._read_holds(piece, seq, amount)
        rows = np.flatnonzero(accepted & known)
        posted = np.where((kind == Kind.DIRECT) | (kind == Kind.POST), amount, 0)
        for sums, accounts in ((self.debits, at[0::2][rows]), (self.credits, at[1::2][rows])):
            np.add.at(sums[0], accounts, pending[rows])
            np.add.at(sums[1], accounts, posted[rows])
        self._read_running(piece, rows, at, posted)
        self._read_times(piece, seq)
        self._read_seals(piece, seq)
        for row in piece.disguised:
            self.found("seal", "the row names what its seal says is not there", seq=row)

    def finish(self, *, last_seq: int, max_seq: int, last_hash: bytes, holds: dict[bytes, Open]) -> None:
        """Compare what the journal amounts to with the asset's row, its accounts and its open holds."""
        if not self.last_seq == last_seq == max_seq:
            detail = f"the journal ends at {max(self.last_seq, max_seq)}, the asset says {last_seq}"
            self.found("last seq", detail)
        if self.chained and self.last_hash != last_hash:
            self.found("seal", f"the last hash is {self.last_hash.hex()}, the asset says {last_hash.hex()}")
        self._finish_accounts()
        for hold_id in self.open.keys() | holds.keys():
            found, wanted = holds.get(hold_id), self.open.get(hold_id)
            if found != wanted:
                self.found("hold", f"hold {hold_id.hex()} is {_hold(found)}, should be {_hold(wanted)}")

    def _read_times(self, piece: Piece, seq: Int64s) -> None:
        times = piece.column("recorded_at")
        before = np.r_[self.recorded_at, times[:-1]]
        for i in np.flatnonzero(times < before)[:FINDINGS_MAX].tolist():
            self.found("time", "the row is recorded before the one that it follows", seq=int(seq[i]))
        self.recorded_at = int(times[-1])

    def _read_seals(self, piece: Piece, seq: Int64s) -> None:
        """The first seal that does not fit is where the chain was broken: nothing behind it can be compared."""
        if not self.chained:
            return
        hashes = ledger_chain.follow(self.last_hash, piece.rows, piece.texts)
        wrong = np.flatnonzero(ledger_chain.seals(hashes) != piece.seal)
        if len(wrong):
            self.chained = False
            self.found("seal", "the row's seal does not fit its fields and the row before it", seq=int(seq[wrong[0]]))
        self.last_hash = hashes[-32:]

    def _read_seq(self, seq: Int64s) -> None:
        before = np.r_[self.last_seq, seq[:-1]]
        for i in np.flatnonzero(seq != before + 1)[:FINDINGS_MAX].tolist():
            self.found("gap", f"row {before[i] + 1} is missing: {seq[i]} follows {before[i]}", seq=int(before[i]) + 1)
        self.last_seq = int(seq[-1])

    def _read_holds(self, piece: Piece, seq: Int64s, amounts: Int64s) -> Int64s:
        """What each row does to the pending sums; holds are begun and finished on the way."""
        pending = np.zeros(len(seq), np.int64)
        where = np.flatnonzero((piece.rows["kind"] != Kind.DIRECT) & (piece.rows["result"] == 0))
        rows, changes = piece.rows[where], amounts[where].tolist()
        begins = rows["kind"] == Kind.PENDING
        ids = np.where(begins, rows["id"], rows["pending_id"]).tolist()
        debits, credits, deadlines = (rows[name].tolist() for name in ("debit", "credit", "expires_at"))
        terms = zip(debits, credits, changes[:], deadlines, strict=True)
        for i, (begun, id, said) in enumerate(zip(begins.tolist(), ids, terms, strict=True)):
            if begun:
                self.open[id] = said
                continue
            hold = self.open.pop(id, None)
            if hold is None:
                changes[i] = 0
                self.found("hold", f"hold {id.hex()} was not open", seq=int(seq[where[i]]))
                continue
            changes[i] = -hold[2]
            if hold[0] != said[0] or hold[1] != said[1] or said[2] > hold[2]:
                self.found("hold", f"the row does not fit hold {id.hex()}", seq=int(seq[where[i]]))
        pending[where] = changes
        return pending

    def _read_running(self, piece: Piece, rows: Int64s, accounts: Int64s, posted: Int64s) -> None:
        """Versions and running balances of both sides, each against the row before it on the same account."""
        if not len(rows):
            return
        bits = len(accounts).bit_length()
        sides = (2 * rows[:, None] + [0, 1]).reshape(-1)
        places = np.sort(accounts[sides] << bits | sides)  # by account, and then as the journal has them
        at, side = places >> bits, places & ((1 << bits) - 1)
        version = piece.sides("debit_version", "credit_version")[side]
        balance = piece.sides("debit_balance", "credit_balance")[side]
        change = _both_sides(-posted, posted)[side]
        first = np.r_[True, at[1:] != at[:-1]]
        version_before = np.where(first, self.version[at], np.roll(version, 1))
        balance_before = np.where(first, self.balance[at], np.roll(balance, 1))
        last = np.r_[first[1:], True]
        self.version[at[last]], self.balance[at[last]] = version[last], balance[last]
        self._compare("version", piece, side >> 1, at, version, version_before + 1)
        self._compare("running balance", piece, side >> 1, at, balance, balance_before + change)

    def _compare(self, what: str, piece: Piece, row: Int64s, at: Int64s, found: Int64s, wanted: Int64s) -> None:
        wrong = np.flatnonzero(found != wanted)
        for i in wrong[np.argsort(row[wrong], kind="stable")][:FINDINGS_MAX].tolist():
            number = int(self.accounts.number[at[i]])
            self.found(
                what, f"{what} is {found[i]}, should be {wanted[i]}", seq=int(piece.rows["seq"][row[i]]), number=number
            )

    def _finish_accounts(self) -> None:
        accounts = self.accounts
        self._differs("version", accounts.version, self.version)
        self._differs("debits pending", accounts.debits_pending, self.debits[0])
        self._differs("debits posted", accounts.debits_posted, self.debits[1])
        self._differs("credits pending", accounts.credits_pending, self.credits[0])
        self._differs("credits posted", accounts.credits_posted, self.credits[1])
        debits, credits = accounts.debits_posted, accounts.credits_posted
        self._broken(
            DEBITS_MUST_NOT_EXCEED_CREDITS, "debits exceed credits", debits + accounts.debits_pending > credits
        )
        self._broken(
            CREDITS_MUST_NOT_EXCEED_DEBITS, "credits exceed debits", credits + accounts.credits_pending > debits
        )
        sums = sum(debits.tolist()), sum(credits.tolist())
        if sums[0] != sums[1]:
            self.found("sum", f"all debits are {sums[0]}, all credits {sums[1]}")

    def _differs(self, what: str, found: Int64s, wanted: Int64s) -> None:
        for i in np.flatnonzero(found != wanted)[:FINDINGS_MAX].tolist():
            detail = f"{what}: the account says {found[i]}, the journal {wanted[i]}"
            self.found("account", detail, number=int(self.accounts.number[i]))

    def _broken(self, flag: int, detail: str, broken: Bools) -> None:
        for i in np.flatnonzero(broken & (self.accounts.flags & flag != 0))[:FINDINGS_MAX].tolist():
            self.found("limit", detail, number=int(self.accounts.number[i]))


def _place(finding: Finding) -> tuple[bool, int]:
    return finding.seq is None, finding.seq or 0


def _both_sides(debit: Int64s, credit: Int64s) -> Int64s:
    both = np.empty(2 * len(debit), np.int64)
    both[0::2], both[1::2] = debit, credit
    return both


def _hold(hold: tuple[int, int, int, int] | None) -> str:
    if hold is None:
        return "not open"
    debit, credit, amount_minor, expires_at = hold
    sides = f"from {account_id(debit)} to {account_id(credit)}"
    return f"open with {amount_minor} {sides} until {moment(expires_at) or 'ever'}"
