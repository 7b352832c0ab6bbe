"""What `pasys ledger archive` does: partition by partition, each proven, on the disk, and read back before it goes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pasys.cli.console import ask, ask_database
from pasys.errors import JournalBusy

if TYPE_CHECKING:
    from pasys.db import Database, Unit
    from pasys.service.ledger_archive import ArchiveRow, Part
    from pasys.service.ledger_verify import Progress

AGAIN_S, AGAIN_MAX_S = 0.5, 10.0


@dataclass(frozen=True, slots=True)
class Planned:
    """A partition that would be archived, and the file that it would be in."""

    asset: str
    first_seq: int
    last_seq: int
    transfers: int
    last_recorded_at: datetime
    file: str


def plan(folder: Path, *, asset: str | None, before: datetime | None, to: int | None) -> list[Planned]:
    """What a run would archive. Raises what the run would: HoldsOpen."""

    async def question(unit: Unit) -> list[Planned]:
        return [
            Planned(
                asset=part.asset,
                first_seq=part.first_seq,
                last_seq=part.last_seq,
                transfers=part.last_seq - part.first_seq + 1,
                last_recorded_at=part.recorded_at,
                file=str(folder.resolve().joinpath(part.file)),
            )
            for part in await _parts(unit, asset, before, to)
        ]

    return ask(question)


async def _parts(unit: Unit, asset: str | None, before: datetime | None, to: int | None) -> Sequence[Part]:
    from pasys.service import ledger_archive

    parts = await ledger_archive.plan(unit, asset, before=before, to=to)
    ledger_archive.require_no_holds(parts)
    return parts


def run(
    folder: Path,
    *,
    asset: str | None,
    before: datetime | None,
    to: int | None,
    timeout_s: float,
    progress: Progress | None,
) -> list[ArchiveRow]:
    """Archive what `plan` says, the oldest first. Nothing is, where a hold is open in any of it."""

    async def within(database: Database) -> list[ArchiveRow]:
        async with database.unit() as unit:
            parts = await _parts(unit, asset, before, to)
        return [await _archive(database, part, folder, timeout_s, progress) for part in parts]

    return ask_database(within)


async def _archive(
    database: Database, part: Part, folder: Path, timeout_s: float, progress: Progress | None
) -> ArchiveRow:
    """One partition. Whoever reads the journal in a long unit is waited for, and posters meanwhile wait for nobody."""
    from pasys.adapters.signer import open_signer
    from pasys.service import ledger_archive

    async with database.unit() as unit:
        written = await ledger_archive.write(unit, open_signer(unit.settings), part, folder, progress=progress)
    until, pause_s = time.monotonic() + timeout_s, AGAIN_S
    while True:
        try:
            async with database.unit() as unit:
                await ledger_archive.drop(unit, written)
                return await ledger_archive.latest(unit, part.asset, part.last_seq)
        except JournalBusy:
            if time.monotonic() + pause_s > until:
                raise
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, AGAIN_MAX_S)


def restore(path: Path, *, progress: Progress | None) -> list[ArchiveRow]:
    """Bring back the partition that a file has."""

    async def question(unit: Unit) -> list[ArchiveRow]:
        from pasys.service import ledger_archive_restore

        return [await ledger_archive_restore.restore(unit, path, progress=progress)]

    return ask(question)


def listing(asset: str | None, *, limit: int) -> list[ArchiveRow]:
    """What was archived and restored, the newest first."""

    async def question(unit: Unit) -> list[ArchiveRow]:
        from pasys.service import ledger_archive

        return await ledger_archive.listing(unit, asset, limit=limit)

    return ask(question)
