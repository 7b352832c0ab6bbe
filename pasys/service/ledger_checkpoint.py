"""Checkpoints are made of what was verified, signed, and kept; the next verification begins at the last one."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from pasys.db import Unit, queries
from pasys.domain.ledger_audit import Audit, State
from pasys.domain.ledger_checkpoint import Checkpoint, pack, unpack, words
from pasys.errors import BooksDoNotHold
from pasys.service.ledger_verify import Progress, audited, begin

if TYPE_CHECKING:
    from pasys.adapters.signer import Signer

SQL = queries("ledger_checkpoint")


async def checkpoint(unit: Unit, signer: Signer, *, progress: Progress | None = None) -> list[Checkpoint]:
    """Verify what each asset has had since its last checkpoint, and sign where it stands; those that are new.

    An asset in which nothing has happened gets none. Raises BooksDoNotHold.
    """
    made = []
    for row in await unit.rows(SQL["behind"]):
        start = await begin(unit, row.asset, await start_of(unit, signer, row.asset))
        audit, _ = await audited(unit, row.asset, start, progress=progress)
        if audit.findings:
            raise BooksDoNotHold(finding=str(audit.findings[0]))
        made.append(await _sign(unit, signer, audit))
    return made


async def _sign(unit: Unit, signer: Signer, audit: Audit) -> Checkpoint:
    state, state_hash = pack(audit.state())
    made = _made(signer, audit, state_hash, unit.now)
    await _add(unit, made)
    await unit.rows(SQL["keep_state"], asset=made.asset, seq=made.seq, state=state)
    return made


async def sign_at(unit: Unit, signer: Signer, audit: Audit) -> Checkpoint:
    """A checkpoint at an audit's last row, wherever in the journal that is: the one that is there, or else a new one.

    Where another key has signed that row before, the new one is not kept in the books.
    """
    state_hash = pack(audit.state())[1]
    row = await unit.row(SQL["at"], asset=audit.asset, seq=audit.last_seq)
    known = row and _checkpoint(row)
    if known and signer.signed(known.words, bytes.fromhex(known.signature)):
        if (known.hash, known.state_hash) == (audit.last_hash.hex(), state_hash):
            return known
        raise BooksDoNotHold(finding=f"{audit.asset}: row {audit.last_seq} is not what was signed {known.at}")
    made = _made(signer, audit, state_hash, unit.now)
    if not known:
        await _add(unit, made)
    return made


def _made(signer: Signer, audit: Audit, state_hash: str, at: datetime) -> Checkpoint:
    said = words(audit.asset, audit.last_seq, audit.last_hash.hex(), state_hash, at, signer.key_id)
    return Checkpoint(
        asset=audit.asset,
        seq=audit.last_seq,
        hash=audit.last_hash.hex(),
        state_hash=state_hash,
        at=at,
        key_id=signer.key_id,
        signature=signer.sign(said).hex(),
    )


async def _add(unit: Unit, made: Checkpoint) -> None:
    values = {name: bytes.fromhex(getattr(made, name)) for name in ("hash", "state_hash", "signature")}
    await unit.rows(SQL["add"], asset=made.asset, seq=made.seq, key_id=made.key_id, at=made.at, **values)


async def vouched(unit: Unit, signer: Signer) -> dict[str, str]:
    """What the state behind the archived rows of each asset must hash to; "" where nobody has signed that row.

    An asset whose row another key has signed is left out: this one can say nothing of it.
    """
    found: dict[str, str] = {}
    for row in await unit.rows(SQL["behind_archives"]):
        known = None if row.seq is None else _checkpoint(row)
        if known is None:
            found[row.code] = ""
        elif known.key_id == signer.key_id:
            true = signer.signed(known.words, bytes.fromhex(known.signature))
            found[row.code] = known.state_hash if true else ""
    return found


async def starts(unit: Unit, signer: Signer) -> dict[str, State]:
    """The proven states that a verification may begin at, by asset."""
    found = {row.code: await start_of(unit, signer, row.code) for row in await unit.rows(SQL["assets"])}
    return {asset: state for asset, state in found.items() if state is not None}


async def start_of(unit: Unit, signer: Signer, asset: str) -> State | None:
    """The state at an asset's last checkpoint; None where there is none that this key has signed, or it was changed."""
    row = await unit.row(SQL["state"], asset=asset)
    if row is None:
        return None
    known = _checkpoint(row)
    if known.key_id != signer.key_id or not signer.signed(known.words, bytes.fromhex(known.signature)):
        return None
    try:
        state, state_hash = unpack(bytes(row.state))
    except ValueError:
        return None
    same = (state.seq, state.hash.hex(), state_hash) == (known.seq, known.hash, known.state_hash)
    return state if same else None


async def last_seq(unit: Unit, asset: str) -> int:
    """Where an asset's journal ends; 0 where it has none."""
    return await unit.value(SQL["last_seq"], asset=asset) or 0


async def checkpoints(unit: Unit, asset: str | None = None, *, limit: int = 50) -> list[Checkpoint]:
    """The checkpoints of an asset, or of all, the newest first."""
    return [_checkpoint(row) for row in await unit.rows(SQL["listing"], asset=asset, limit=limit)]


async def latest(unit: Unit) -> list[Checkpoint]:
    """The last checkpoint of each asset."""
    return [_checkpoint(row) for row in await unit.rows(SQL["latest"])]


async def around(unit: Unit, asset: str, first_seq: int, last_seq: int) -> tuple[Checkpoint | None, Checkpoint | None]:
    """The nearest checkpoints before and behind a range; None where there is none."""
    before = await unit.row(SQL["before"], asset=asset, seq=first_seq)
    after = await unit.row(SQL["after"], asset=asset, seq=last_seq)
    return (before and _checkpoint(before)), (after and _checkpoint(after))


def _checkpoint(row: Any) -> Checkpoint:
    return Checkpoint(
        asset=row.asset,
        seq=row.seq,
        hash=bytes(row.hash).hex(),
        state_hash=bytes(row.state_hash).hex(),
        at=row.at,
        key_id=row.key_id,
        signature=bytes(row.signature).hex(),
    )
