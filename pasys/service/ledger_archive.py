"""The oldest partitions of a journal go into files: what is still asked for stays in the books.

Three steps, each in a unit of its own: `plan` says which partitions, `write` proves one, has it on the disk and keeps
what follows from it, `drop` takes it out of the journal. Whatever is cut short, nothing was dropped that is not on the
disk, and the next run goes on from there. ledger_archive_restore.py brings them back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np
from psycopg.errors import LockNotAvailable

from pasys import migration
from pasys.db import Unit, queries
from pasys.domain import ledger_answer, ledger_archive
from pasys.domain.account import clearing
from pasys.domain.ledger_archive import Header, Trailer
from pasys.domain.ledger_audit import Audit, Piece, State, beginning
from pasys.domain.ledger_batch import Accounts
from pasys.domain.ledger_checkpoint import Checkpoint
from pasys.domain.ledger_columns import moment
from pasys.driver import as_owner
from pasys.errors import ArchiveBroken, BooksDoNotHold, HoldsOpen, InvalidInput, JournalBusy
from pasys.money import asset_of
from pasys.service import ledger_archive_file as files
from pasys.service import ledger_checkpoint, ledger_opening, ledger_partition
from pasys.service import ledger_wire as wire
from pasys.service.ledger_archive_file import Archived
from pasys.service.ledger_partition import Partition
from pasys.service.ledger_verify import Progress, pieces

if TYPE_CHECKING:
    from pasys.adapters.signer import Signer

SQL = queries("ledger_archive")
LEDGER = queries("ledger")
HISTORY = queries("ledger_history")
_LAST = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Part:
    """A closed partition: its range, and when its last row was recorded. With a hold in it that is open it must stay;
    `hold_id` and `reference` are those of the first one."""

    asset: str
    first_seq: int
    last_seq: int
    recorded_at: datetime
    open_holds: int = 0
    hold_id: UUID | None = None
    reference: str | None = None

    @property
    def file(self) -> str:
        return files.name_of(self.asset, self.first_seq, self.last_seq)


@dataclass(frozen=True, slots=True)
class Written:
    """A partition that is proven and on the disk, and what the books amount to behind its last row."""

    part: Part
    archived: Archived
    state: State


@dataclass(frozen=True, slots=True)
class ArchiveRow:
    """What happened to a range of a journal: archived or restored, with the file (its hash in hexadecimal)."""

    asset: str
    first_seq: int
    last_seq: int
    action: str
    file: str
    sha256: str
    last_recorded_at: datetime
    at: datetime
    actor: str


async def listing(unit: Unit, asset: str | None = None, *, limit: int = 100) -> list[ArchiveRow]:
    """What was archived and brought back, the newest first."""
    code = None if asset is None else asset_of(asset).code
    return [_archive_row(row) for row in await unit.rows(SQL["listing"], asset=code, limit=limit)]


async def latest(unit: Unit, asset: str, last_seq: int) -> ArchiveRow:
    """What happened last to the range that ends with a row."""
    return _archive_row(await unit.row(SQL["latest"], asset=asset, last_seq=last_seq))


def _archive_row(row: Any) -> ArchiveRow:
    return ArchiveRow(**row._asdict() | {"sha256": bytes(row.sha256).hex()})


async def plan(
    unit: Unit, asset: str | None = None, *, before: datetime | None = None, to: int | None = None
) -> list[Part]:
    """The partitions that are asked for, of an asset or of all: closed, the oldest first, recorded before a time, or up
    to a seq of the asset.

    Raises UnknownAsset, and InvalidInput where it is not said how far.
    """
    code = None if asset is None else asset_of(asset).code
    if (before is None) == (to is None) or (to is not None and code is None):
        raise InvalidInput(field="before", reason="say how far: before a time, or to a seq of an asset")
    found, ended = [], set[str]()
    for one in await ledger_partition.partitions(unit):
        if code not in (None, one.asset) or one.asset in ended:
            continue
        recorded_at = await unit.value(SQL["recorded_at"], asset=one.asset, seq=one.last_seq) if one.closed else None
        if recorded_at is None or one.last_seq > (to or one.last_seq) or recorded_at >= (before or _LAST):
            ended.add(one.asset)
        else:
            found.append(await _part(unit, one, recorded_at))
    return found


async def _part(unit: Unit, one: Partition, recorded_at: datetime) -> Part:
    place = {"asset": one.asset, "first_seq": one.first_seq, "last_seq": one.last_seq}
    held = await unit.row(SQL["open_holds"], **place)
    assert held is not None, "a count always answers"
    return Part(one.asset, one.first_seq, one.last_seq, recorded_at, held.holds, held.hold_id, held.reference)


def require_no_holds(parts: Sequence[Part]) -> None:
    """Raises HoldsOpen for the first partition that must stay because a hold in it is open."""
    for part in parts:
        if part.open_holds:
            raise HoldsOpen(
                asset=part.asset,
                first_seq=part.first_seq,
                last_seq=part.last_seq,
                holds=part.open_holds,
                hold_id=part.hold_id,
                reference=part.reference or "without a reference",
            )


async def write(unit: Unit, signer: Signer, part: Part, folder: Path, *, progress: Progress | None = None) -> Written:
    """Prove a partition, write it to a file in `folder`, read the file back, and keep what later questions need of it.

    The journal is only read, and nobody waits. A whole file of the same rows, left by a run that was cut short, is in
    nobody's way. Raises BooksDoNotHold where the rows are not what was sealed, HoldsOpen, InvalidInput where the file
    cannot be written, ArchiveBroken where it cannot be read back, JournalBusy where somebody else archives this asset.
    """
    require_no_holds([part])
    if not await unit.value(SQL["archiver"], asset=part.asset):
        raise JournalBusy(asset=part.asset)
    start = await ledger_opening.state(unit, part.asset) or beginning(part.asset)
    if start.seq != part.first_seq - 1:
        raise JournalBusy(asset=part.asset)
    path = folder.joinpath(part.file)
    header = Header(
        asset=part.asset,
        first_seq=part.first_seq,
        last_seq=part.last_seq,
        schema=migration.HEAD,
        hash_before=start.hash.hex(),
    )
    with files.writing(path) as (scratch, put):
        put(header.encode())
        audit = await _walk(unit, part, start, put, progress)
        signed = await ledger_checkpoint.sign_at(unit, signer, audit)
        names, key = await _names(unit, part.asset, audit), signer.public_key.hex()
        put(Trailer(transfers=header.transfers, after=signed, public_key=key, accounts=names).encode())
    archived = _settled(scratch, path, header, signed)
    await _keep(unit, part, audit.state(), archived_seq=start.seq)
    # No account row lags behind what is about to go; that is committed before, so that nobody reads in between.
    await unit.rows(LEDGER["lock"], code=part.asset)
    await unit.rows(LEDGER["project"], code=part.asset)
    return Written(part, archived, audit.state())


async def _walk(
    unit: Unit, part: Part, start: State, put: Callable[[bytes], object], progress: Progress | None
) -> Audit:
    """Every row of a partition against the one before it, and into the file; what it answers stays here."""
    audit = Audit(part.asset, await _numbers(unit, part.asset), start)
    async for piece in pieces(unit, part.asset, start.seq, part.last_seq):
        audit.read(piece)
        if audit.findings:
            raise BooksDoNotHold(finding=str(audit.findings[0]))
        put(ledger_archive.encode_block(piece.rows, piece.texts))
        await _keep_answers(unit, part.asset, piece)
        if progress is not None:
            progress(part.asset, audit.last_seq, part.last_seq)
    if audit.last_seq != part.last_seq:
        raise BooksDoNotHold(finding=f"{part.asset}: gap: row {audit.last_seq + 1} is missing")
    return audit


async def _keep_answers(unit: Unit, asset: str, piece: Piece) -> None:
    ends = np.cumsum(np.maximum(piece.column("reference_size"), 0))
    kept = ledger_answer.answers(piece.rows, ends, piece.texts)
    await unit.rows(SQL["keep_answers"], asset=asset, first_seq=int(piece.rows["seq"][0]), answers=kept)


def _settled(scratch: Path, path: Path, header: Header, signed: Checkpoint) -> Archived:
    """The file in its place, once it was read back; one that is there already must be of the same rows."""
    try:
        written = files.check(scratch)
        if path.exists():
            there = files.check(path)
            if not _same(there, header, signed):
                raise ArchiveBroken(file=str(path), reason="it is there already, with other rows")
            if there.trailer == written.trailer:
                return there
        files.settle(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
    return replace(written, path=path)


def _same(archived: Archived, header: Header, signed: Checkpoint) -> bool:
    """Two files of the same rows may differ in when, and with which key, they were signed."""
    found, after = archived.header, archived.trailer.after
    ends = (found.asset, found.first_seq, found.hash_before, after.seq, after.hash)
    return ends == (header.asset, header.first_seq, header.hash_before, signed.seq, signed.hash)


async def drop(unit: Unit, written: Written) -> bool:
    """Take a written partition out of the journal; False where somebody else has.

    Posters wait for no more than the change of a catalogue: the file is read again before, and while somebody reads the
    journal in a long unit it is not even tried. Raises JournalBusy then: nothing has happened.
    """
    part, asset = written.part, written.part.asset
    if (await _head(unit, asset)).archived_seq >= part.last_seq:
        return False
    if files.digest(written.archived.path) != written.archived.sha256:
        raise ArchiveBroken(file=str(written.archived.path), reason="it is not what was written a moment ago")
    async with as_owner(unit.driver):
        busy = await unit.value(SQL["busy"])
    if busy:
        raise JournalBusy(asset=asset)
    await record(unit, "archived", written.archived, moment(written.state.recorded_at), holds_of(written.state))
    await unit.rows(LEDGER["lock"], code=asset)
    row = await _head(unit, asset)
    if row.archived_seq != part.first_seq - 1:
        raise JournalBusy(asset=asset)
    try:
        async with as_owner(unit.driver):
            # The point of no return: when this unit commits, the rows are in the file alone.
            await unit.rows(SQL["drop"], asset=asset, first_seq=part.first_seq, last_seq=part.last_seq)
    except LockNotAvailable:
        raise JournalBusy(asset=asset) from None
    return True


async def _head(unit: Unit, asset: str) -> Any:
    row = await unit.row(SQL["head"], asset=asset)
    assert row is not None, "an asset with a journal has a row"
    return row


async def _keep(unit: Unit, part: Part, state: State, *, archived_seq: int) -> None:
    """What later questions need of the rows that go: sums, open holds, and what counts only later."""
    place: dict[str, Any] = {"asset": part.asset, "seq": part.last_seq}
    where = {int(number): i for i, number in enumerate(state.numbers.tolist())}
    for row in await unit.rows(SQL["system"], asset=part.asset):
        if row.id not in where or not clearing(row.name, "system"):
            continue
        sums = dict(zip(ledger_opening.SUMS, state.sums[:, where[row.id]].tolist(), strict=True))
        since = None
        if sums["debits_posted"] != sums["credits_posted"]:
            since = await unit.value(HISTORY["open_since"], account=row.id, archived_seq=archived_seq, **place)
        await unit.rows(SQL["keep_account"], account=row.id, open_since=since, **sums, **place)
    columns = [wire.int8s(column) for column in (state.numbers, *state.sums)]
    async with wire.cursor(unit.driver) as cursor:
        await cursor.execute(SQL["keep_accounts"].encode(), (part.asset, part.last_seq, *columns))
    values = {"asset": part.asset, "first_seq": part.first_seq, "last_seq": part.last_seq}
    await unit.rows(SQL["keep_transfers"], holds=holds_of(state), last_recorded_at=moment(state.recorded_at), **values)


async def record(
    unit: Unit, action: str, archived: Archived, last_recorded_at: datetime | None, holds: list[UUID]
) -> None:
    """Write down that a range was archived or restored, and which file has it."""
    header = archived.header
    await unit.rows(
        SQL["add"],
        asset=header.asset,
        first_seq=header.first_seq,
        last_seq=header.last_seq,
        action=action,
        hash_before=bytes.fromhex(header.hash_before),
        hash_after=bytes.fromhex(archived.trailer.after.hash),
        last_recorded_at=last_recorded_at,
        holds=holds,
        file=str(archived.path.resolve()),
        sha256=archived.sha256,
        at=unit.now,
        actor=unit.actor,
    )


def holds_of(state: State) -> list[UUID]:
    return [UUID(bytes=id) for id in sorted(state.holds)]


async def _numbers(unit: Unit, asset: str) -> Accounts:
    """All accounts of an asset by number; an audit compares nothing else of them on the way."""
    async with wire.cursor(unit.driver) as cursor:
        await cursor.execute(SQL["numbers"].encode(), {"asset": asset})
        row = await cursor.fetchone()
    numbers = wire.read_int8s(row[0] if row else None)
    none = np.zeros(len(numbers), np.int64)
    return Accounts(numbers, none != 0, none, none, none, none, none, none, none)


async def _names(unit: Unit, asset: str, audit: Audit) -> dict[str, str]:
    """The names of the accounts that have moved so far."""
    numbers = audit.state().numbers.tolist()
    return {str(row.id): row.name for row in await unit.rows(SQL["names"], asset=asset, numbers=numbers)}
