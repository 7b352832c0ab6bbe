"""The books are proved from the journal: every version, balance, hold, limit, seal and id is derived and compared."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pasys.db import Unit, queries
from pasys.domain import ledger_chain
from pasys.domain.ledger_audit import FINDINGS_MAX, Audit, Finding, Open, Piece, State, beginning
from pasys.domain.ledger_batch import Accounts
from pasys.domain.ledger_checkpoint import state_hash
from pasys.service import ledger_across, ledger_opening
from pasys.service import ledger_wire as wire

SQL = queries("ledger")
PIECE = 20_000
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Verification:
    """What an audit found. `transfers` are those that were read, `since` says behind which row of each asset it began,
    `archived` up to which row one is in archives that were not read; `findings` begins with the first wrong row of each
    asset."""

    ok: bool
    transfers: int
    accounts: int
    since: Mapping[str, int]
    archived: Mapping[str, int]
    findings: list[Finding]


async def verify(
    unit: Unit,
    *,
    progress: Progress | None = None,
    starts: Mapping[str, State] | None = None,
    known: Mapping[str, Mapping[int, bytes]] | None = None,
    vouched: Mapping[str, str] | None = None,
    archives: Path | None = None,
) -> Verification:
    """Derive all books again from the journal, while others go on posting.

    `progress` is told the asset, how far it has come, and how far it is to go. `starts` are proven states to begin at,
    by asset; `known` are hashes that rows must have, by asset and seq, from a checkpoint that is kept elsewhere;
    `vouched` are the hashes that were signed of the states which follow what is archived. `archives` is a folder that
    has what is archived: it is then read from the first transfer. Memory grows with accounts and open holds, not with
    the journal. Raises InvalidInput and ArchiveBroken for what is missing or broken in the folder.
    """
    findings: list[list[Finding]] = []
    transfers = accounts = 0
    since: dict[str, int] = {}
    archived: dict[str, int] = {}
    for (asset,) in await unit.rows(SQL["assets"]):
        opening = await ledger_opening.state(unit, asset)
        start = _later((starts or {}).get(asset), opening) or beginning(asset)
        how: dict[str, Any] = {"progress": progress, "known": (known or {}).get(asset)}
        if opening is not None and archives is not None:
            audit, rows = await audited(unit, asset, beginning(asset), archives=archives, opening=opening, **how)
        else:
            audit, rows = await audited(unit, asset, start, **how)
            if opening is not None:
                archived[asset] = opening.seq
        if start is opening:
            _vouch(audit, start, vouched)
        transfers, accounts = transfers + rows, accounts + len(audit.accounts)
        since[asset] = 0 if archives is not None else start.seq
        findings.append(audit.findings)
    findings.append(_missing(known or {}, since))
    firsts, rest = [some[0] for some in findings if some], [one for some in findings for one in some[1:]]
    return Verification(not firsts, transfers, accounts, since, archived, [*firsts, *rest][:FINDINGS_MAX])


def _missing(known: Mapping[str, Mapping[int, bytes]], assets: Container[str]) -> list[Finding]:
    """Of what checkpoints know, the assets that are gone with all of their rows."""
    detail = "a checkpoint knows this row, and these books do not have the asset"
    gone = [asset for asset in known if known[asset] and asset not in assets]
    return [Finding("checkpoint", asset, max(known[asset]), None, detail) for asset in gone]


def _later(proven: State | None, opening: State | None) -> State | None:
    if proven is None or (opening is not None and proven.seq < opening.seq):
        return opening
    return proven


def _vouch(audit: Audit, opening: State, vouched: Mapping[str, str] | None) -> None:
    """What the journal begins with is what was signed when the rows before it were archived."""
    wanted = (vouched or {}).get(audit.asset)
    if wanted is not None and state_hash(opening) != wanted:
        audit.found("archive", "what follows from the archived rows is not what was signed", seq=opening.seq)


async def begin(unit: Unit, asset: str, proven: State | None) -> State:
    """Where an audit begins: at a proven state, else behind what is archived, else with the first row."""
    return _later(proven, await ledger_opening.state(unit, asset)) or beginning(asset)


async def audited(
    unit: Unit,
    asset: str,
    start: State,
    *,
    progress: Progress | None = None,
    known: Mapping[int, bytes] | None = None,
    archives: Path | None = None,
    opening: State | None = None,
) -> tuple[Audit, int]:
    """One asset's books, derived from a state up to now; the audit behind its last row, and the rows that it read.

    With `archives`, from the asset's first row, through the files in that folder up to `opening`.
    """
    state = await _one(unit, "audit_state", asset=asset)
    last_seq = state["last_seq"]
    audit = Audit(asset, _accounts(state), start)
    rows, marks = 0, known or {}
    if marks.get(start.seq, start.hash) != start.hash:
        audit.found("checkpoint", f"row {start.seq} does not have the hash that the checkpoint knows", seq=start.seq)
    if archives is not None and opening is not None:
        rows = await ledger_across.read(unit, audit, archives, opening, known=marks, progress=progress)
    behind = audit.last_seq
    rows += await _walk(unit, audit, last_seq, progress, {seq: marks[seq] for seq in marks if seq > behind})
    audit.finish(last_seq=last_seq, max_seq=state["max_seq"], last_hash=bytes(state["last_hash"]), holds=_holds(state))
    await _keys(unit, audit, behind, last_seq)
    return audit, rows


async def _walk(unit: Unit, audit: Audit, last_seq: int, progress: Progress | None, known: Mapping[int, bytes]) -> int:
    """Take the journal up to its end piece by piece; the number of rows."""
    for seq in sorted(known):
        if seq > last_seq:
            audit.found("checkpoint", f"the journal ends at {last_seq}; a checkpoint knows row {seq}", seq=seq)
    rows = 0
    async for piece in pieces(unit, audit.asset, audit.last_seq, last_seq, marks=sorted(known)):
        audit.read(piece)
        rows += len(piece.rows)
        wanted = known.get(audit.last_seq)
        if wanted is not None and audit.chained and audit.last_hash != wanted:
            detail = f"row {audit.last_seq} does not have the hash that the checkpoint knows"
            audit.found("checkpoint", detail, seq=audit.last_seq)
        if progress is not None:
            progress(audit.asset, audit.last_seq, last_seq)
    return rows


async def pieces(
    unit: Unit, asset: str, after_seq: int, last_seq: int, *, marks: Sequence[int] = ()
) -> AsyncIterator[Piece]:
    """The rows behind `after_seq` up to `last_seq`, some thousands at a time; a piece ends with each row in `marks`.

    The database works on the next piece while the caller is on one.
    """

    def ask(after: int) -> asyncio.Task[dict[str, Any]]:
        until = next((seq for seq in marks if after < seq <= last_seq), last_seq)
        return asyncio.create_task(_one(unit, "audit_piece", asset=asset, after_seq=after, last_seq=until, limit=PIECE))

    coming = ask(after_seq)
    try:
        while (sent := await coming)["rows"] is not None:
            piece = _piece(sent)
            coming = ask(int(piece.rows["seq"][-1]))
            await asyncio.sleep(0)  # so that the question is sent
            yield piece
    finally:
        if not coming.done():  # the caller has gone: the connection must not stay in the middle of an answer
            await coming


def _piece(sent: dict[str, Any]) -> Piece:
    rows, seals = np.frombuffer(sent["rows"], ledger_chain.ROW), np.frombuffer(sent["seals"], ">i8")
    return Piece(rows, bytes(sent["texts"] or b""), seals.astype(np.int64), wire.read_int8s(sent["disguised"]).tolist())


async def _keys(unit: Unit, audit: Audit, after_seq: int, last_seq: int) -> None:
    """Every row's id stands for it, and no id stands for a row that there is not."""
    asked: dict[str, Any] = {"asset": audit.asset, "after_seq": after_seq, "last_seq": last_seq}
    if await unit.value(SQL["audit_keys_wrong"], **asked):
        for row in await unit.rows(SQL["audit_keys"], **asked):
            audit.found("id", "the row's id does not stand for it: it could be posted again", seq=row.seq)
    ((up_to, behind),) = await unit.rows(SQL["audit_key_count"], asset=audit.asset, last_seq=last_seq)
    if up_to != last_seq:
        audit.found("id", f"{up_to} ids stand for {last_seq} rows")
    if behind:
        audit.found("id", f"{behind} ids stand for rows behind the last")


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


def _holds(state: dict[str, Any]) -> dict[bytes, Open]:
    names = ("hold_debits", "hold_credits", "hold_amounts", "hold_expires")
    columns = [wire.read_int8s(state[name]).tolist() for name in names]
    ids = wire.read(state["hold_ids"], ledger_chain.ROW["id"]).tolist()
    return {id: Open(*fields) for id, *fields in zip(ids, *columns, strict=True)}


async def _one(unit: Unit, name: str, **values: Any) -> dict[str, Any]:
    async with wire.cursor(unit.driver) as cursor:
        await cursor.execute(SQL[name].encode(), values)
        row = await cursor.fetchone()
        assert row is not None and cursor.description is not None
        return dict(zip([column.name for column in cursor.description], row, strict=True))
