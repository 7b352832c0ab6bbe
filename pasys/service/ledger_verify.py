"""The books are proved from the journal: every version, balance, hold and limit is derived again and compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pasys.db import Unit, queries
from pasys.domain.ledger_audit import FINDINGS_MAX, Audit, Finding, Piece
from pasys.domain.ledger_batch import Accounts
from pasys.service import ledger_wire as wire

SQL = queries("ledger")
PIECE = 20_000
Progress = Callable[[str, int, int], None]
_COLUMNS = ("seq", "debit", "credit", "amount", "kind", "result")
_RUNNING = ("debit_version", "credit_version", "debit_balance", "credit_balance")


@dataclass(frozen=True, slots=True)
class Verification:
    """What an audit of all books found; `findings` begins with the first wrong row of each asset."""

    ok: bool
    transfers: int
    accounts: int
    findings: list[Finding]


async def verify(unit: Unit, *, progress: Progress | None = None) -> Verification:
    """Derive all books again from the journal, while others go on posting.

    `progress` is told the asset, how far it has come, and how far it is to go. Memory grows with accounts and open
    holds, not with the journal.
    """
    findings: list[Finding] = []
    transfers = accounts = 0
    for (asset,) in await unit.rows(SQL["assets"]):
        state = await _one(unit, "audit_state", asset=asset)
        audit = Audit(asset, _accounts(state))
        transfers += await _walk(unit, audit, state["last_seq"], progress)
        audit.finish(last_seq=state["last_seq"], max_seq=state["max_seq"], holds=_holds(state))
        accounts += len(audit.accounts)
        findings += audit.findings
    return Verification(not findings, transfers, accounts, findings[:FINDINGS_MAX])


async def _walk(unit: Unit, audit: Audit, last_seq: int, progress: Progress | None) -> int:
    """Take the journal up to its end piece by piece; the number of rows."""
    rows = 0
    while True:
        sent = await _one(
            unit, "audit_piece", asset=audit.asset, after_seq=audit.last_seq, last_seq=last_seq, limit=PIECE
        )
        if sent["seq"] is None:
            return rows
        numbers = {name: wire.read_int8s(sent[name]) for name in (*_COLUMNS, *_RUNNING)}
        audit.read(Piece(**numbers, begun=wire.read_uuids(sent["begun"]), finished=wire.read_uuids(sent["finished"])))
        rows += len(numbers["seq"])
        if progress is not None:
            progress(audit.asset, audit.last_seq, last_seq)


def _accounts(state: dict[str, Any]) -> Accounts:
    numbers = wire.read_int8s(state["numbers"])
    none = np.zeros(len(numbers), np.int64)
    return Accounts(
        number=numbers,
        foreign=none != 0,
        flags=wire.read_int8s(state["flags"]),
        status=none,
        version=wire.read_int8s(state["versions"]),
        debits_pending=wire.read_int8s(state["debits_pending"]),
        debits_posted=wire.read_int8s(state["debits_posted"]),
        credits_pending=wire.read_int8s(state["credits_pending"]),
        credits_posted=wire.read_int8s(state["credits_posted"]),
    )


def _holds(state: dict[str, Any]) -> dict[bytes, tuple[int, int, int]]:
    columns = (wire.read_int8s(state[name]).tolist() for name in ("hold_debits", "hold_credits", "hold_amounts"))
    return dict(zip(wire.read_uuids(state["hold_ids"]), zip(*columns, strict=True), strict=True))


async def _one(unit: Unit, name: str, **values: Any) -> dict[str, Any]:
    async with wire.cursor(unit.driver) as cursor:
        await cursor.execute(SQL[name].encode(), values)
        row = await cursor.fetchone()
        assert row is not None and cursor.description is not None
        return dict(zip([column.name for column in cursor.description], row, strict=True))
