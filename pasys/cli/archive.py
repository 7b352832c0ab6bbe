"""What `pasys ledger archive` does: partition by partition, each proven, on the disk, and read back before it goes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pasys.cli.console import ask, ask_database
from pasys.errors import JournalBusy

if TYPE_CHECKING:
    from pasys.db import Database, Unit
    from pasys.service.ledger_archive import ArchiveRow, Part, Written
    from pasys.service.ledger_verify import Progress

T = TypeVar("T")
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
    from pasys.adapters.signer import open_signer
    from pasys.service import ledger_archive

    async def write(unit: Unit) -> Written:
        return await ledger_archive.write(unit, open_signer(unit.settings), part, folder, progress=progress)

    written = await _patiently(database, write, timeout_s)

    async def drop(unit: Unit) -> ArchiveRow:
        await ledger_archive.drop(unit, written)
        return await ledger_archive.latest(unit, part.asset, part.last_seq)

    return await _patiently(database, drop, timeout_s)


async def _patiently(database: Database, step: Callable[[Unit], Awaitable[T]], timeout_s: float) -> T:
    """Whoever reads the journal in a long unit is waited for; those who post meanwhile wait for nobody."""
    until, pause_s = time.monotonic() + timeout_s, AGAIN_S
    while True:
        try:
            async with database.unit() as unit:
                return await step(unit)
        except JournalBusy:
            if time.monotonic() + pause_s > until:
                raise
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, AGAIN_MAX_S)


def restore(path: Path, *, timeout_s: float, progress: Progress | None) -> list[ArchiveRow]:
    """Bring back the partition that a file has."""

    async def step(unit: Unit) -> ArchiveRow:
        from pasys.service import ledger_archive_restore

        return await ledger_archive_restore.restore(unit, path, progress=progress)

    async def within(database: Database) -> list[ArchiveRow]:
        return [await _patiently(database, step, timeout_s)]

    return ask_database(within)


def listing(asset: str | None, *, limit: int) -> list[ArchiveRow]:
    """What was archived and restored, the newest first."""

    async def question(unit: Unit) -> list[ArchiveRow]:
        from pasys.service import ledger_archive

        return await ledger_archive.listing(unit, asset, limit=limit)

    return ask(question)
