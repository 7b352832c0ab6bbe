"""The journal alone says what every balance, version and hold must be; an audit walks it and names what differs.

It keeps one set of counters for each account and the open holds in memory, and takes the journal in pieces.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pasys.domain.ledger import CREDITS_MUST_NOT_EXCEED_DEBITS, DEBITS_MUST_NOT_EXCEED_CREDITS, Kind
from pasys.domain.ledger_batch import Accounts
from pasys.domain.ledger_columns import Bools, Int64s
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


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive rows of one asset's journal. `begun` has the ids of the accepted holds among them, `finished` the
    holds that the accepted posts and voids name, both in the order of their rows."""

    seq: Int64s
    debit: Int64s
    credit: Int64s
    amount: Int64s
    kind: Int64s
    result: Int64s
    debit_version: Int64s
    credit_version: Int64s
    debit_balance: Int64s
    credit_balance: Int64s
    begun: list[bytes]
    finished: list[bytes]


class Audit:
    """One asset's journal, from its first row to its last, against its accounts as they stand."""

    def __init__(self, asset: str, accounts: Accounts) -> None:
        self.asset, self.accounts = asset, accounts
        self.findings: list[Finding] = []
        self.last_seq = 0
        self.open: dict[bytes, tuple[int, int, int]] = {}
        n = len(accounts)
        # What the last row said (versions and balances), and what the amounts add up to.
        self.version, self.balance = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self.debits = np.zeros((2, n), np.int64)
        self.credits = np.zeros((2, n), np.int64)

    def found(self, what: str, detail: str, *, seq: int | None = None, number: int | None = None) -> None:
        if len(self.findings) < FINDINGS_MAX:
            account = None if number is None else account_id(number)
            self.findings.append(Finding(what, self.asset, seq, account, detail))

    def read(self, piece: Piece) -> None:
        """Take the next rows. Each row is compared with the one before it, so that one wrong row is found once."""
        self._read_seq(piece)
        debit, debit_known = self.accounts.position(piece.debit)
        credit, credit_known = self.accounts.position(piece.credit)
        accepted = piece.result == 0
        known = debit_known & credit_known
        for i in np.flatnonzero(accepted & ~known).tolist():
            self.found("account", "the row moves an account that is not there", seq=int(piece.seq[i]))
        pending = self._read_holds(piece)
        rows = np.flatnonzero(accepted & known)
        posted = np.where((piece.kind == Kind.DIRECT) | (piece.kind == Kind.POST), piece.amount, 0)
        for sums, at in ((self.debits, debit), (self.credits, credit)):
            np.add.at(sums[0], at[rows], pending[rows])
            np.add.at(sums[1], at[rows], posted[rows])
        self._read_running(piece, rows, debit[rows], credit[rows], posted[rows])

    def finish(self, *, last_seq: int, max_seq: int, holds: dict[bytes, tuple[int, int, int]]) -> None:
        """Compare what the journal amounts to with the asset's row, its accounts and its open holds."""
        if not self.last_seq == last_seq == max_seq:
            detail = f"the journal ends at {max(self.last_seq, max_seq)}, the asset says {last_seq}"
            self.found("last seq", detail)
        self._finish_accounts()
        for hold_id in self.open.keys() | holds.keys():
            if self.open.get(hold_id) != holds.get(hold_id):
                self.found(
                    "hold", f"hold {hold_id.hex()} is {_hold(holds, hold_id)}, should be {_hold(self.open, hold_id)}"
                )

    def _read_seq(self, piece: Piece) -> None:
        before = np.r_[self.last_seq, piece.seq[:-1]]
        for i in np.flatnonzero(piece.seq != before + 1).tolist():
            self.found(
                "gap", f"row {before[i] + 1} is missing: {piece.seq[i]} follows {before[i]}", seq=int(before[i]) + 1
            )
        self.last_seq = int(piece.seq[-1])

    def _read_holds(self, piece: Piece) -> Int64s:
        """What each row does to the pending sums; holds are begun and finished on the way."""
        pending = np.zeros(len(piece.seq), np.int64)
        begun, finished = iter(piece.begun), iter(piece.finished)
        for i in np.flatnonzero((piece.kind != Kind.DIRECT) & (piece.result == 0)).tolist():
            sides, amount = (int(piece.debit[i]), int(piece.credit[i])), int(piece.amount[i])
            if piece.kind[i] == Kind.PENDING:
                self.open[next(begun)] = (*sides, amount)
                pending[i] = amount
                continue
            hold_id = next(finished)
            hold = self.open.pop(hold_id, None)
            if hold is None:
                self.found("hold", f"hold {hold_id.hex()} was not open", seq=int(piece.seq[i]))
                continue
            pending[i] = -hold[2]
            if hold[:2] != sides or amount > hold[2]:
                self.found("hold", f"the row does not fit hold {hold_id.hex()}", seq=int(piece.seq[i]))
        return pending

    def _read_running(self, piece: Piece, rows: Int64s, debit: Int64s, credit: Int64s, posted: Int64s) -> None:
        """Versions and running balances of both sides, each against the row before it on the same account."""
        k = len(rows)
        if not k:
            return
        at = np.concatenate([debit, credit])
        order = np.argsort(at * k + np.arange(2 * k) % k)
        at, row = at[order], rows[order % k]
        is_debit = order < k
        version = np.where(is_debit, piece.debit_version[row], piece.credit_version[row])
        balance = np.where(is_debit, piece.debit_balance[row], piece.credit_balance[row])
        change = np.where(is_debit, -posted[order % k], posted[order % k])
        first = np.r_[True, at[1:] != at[:-1]]
        version_before = np.where(first, self.version[at], np.roll(version, 1))
        balance_before = np.where(first, self.balance[at], np.roll(balance, 1))
        last = np.r_[first[1:], True]
        self.version[at[last]], self.balance[at[last]] = version[last], balance[last]
        self._compare("version", piece, row, at, version, version_before + 1)
        self._compare("running balance", piece, row, at, balance, balance_before + change)

    def _compare(self, what: str, piece: Piece, row: Int64s, at: Int64s, found: Int64s, wanted: Int64s) -> None:
        wrong = np.flatnonzero(found != wanted)
        for i in wrong[np.argsort(row[wrong], kind="stable")][:FINDINGS_MAX].tolist():
            number = int(self.accounts.number[at[i]])
            self.found(what, f"{what} is {found[i]}, should be {wanted[i]}", seq=int(piece.seq[row[i]]), number=number)

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


def _hold(holds: dict[bytes, tuple[int, int, int]], hold_id: bytes) -> str:
    hold = holds.get(hold_id)
    return "not open" if hold is None else f"open with {hold[2]} from {account_id(hold[0])} to {account_id(hold[1])}"
