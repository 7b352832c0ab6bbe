"""An archived partition comes back from its file: the rows are proven on the way, and posting goes on meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from psycopg.errors import LockNotAvailable

from pasys.db import Unit, queries
from pasys.domain.ledger_archive import Block
from pasys.driver import as_owner
from pasys.errors import ArchiveBroken, ArchiveOutOfOrder, JournalBusy
from pasys.service import ledger_archive
from pasys.service import ledger_archive_file as files
from pasys.service import ledger_wire as wire
from pasys.service.ledger_archive import ArchiveRow
from pasys.service.ledger_archive_file import Archived
from pasys.service.ledger_verify import Progress

SQL = queries("ledger_archive")
LEDGER = queries("ledger")


async def restore(unit: Unit, path: Path, *, progress: Progress | None = None) -> ArchiveRow:
    """Bring a partition back from its file; posting goes on meanwhile. The last one archived comes back first.

    Raises InvalidInput where the file cannot be read, ArchiveBroken where it is not whole or not what was archived,
    ArchiveOutOfOrder where it does not end where the journal begins, and JournalBusy.
    """
    archived = files.check(path)
    header = archived.header
    range_ = {"asset": header.asset, "first_seq": header.first_seq, "last_seq": header.last_seq}
    if not (await unit.value(SQL["restorer"]) and await unit.value(SQL["archiver"], asset=header.asset)):
        raise JournalBusy(asset=header.asset)
    last = await _last(unit, archived)
    async with as_owner(unit.driver):
        await unit.rows(SQL["stage"], **range_)
        await _fill(unit, archived, bytes(last.hash_after), progress)
    await ledger_archive.record(unit, "restored", archived, last.last_recorded_at, last.holds)
    await unit.rows(LEDGER["lock"], code=header.asset)
    try:
        async with as_owner(unit.driver):
            await unit.rows(SQL["attach"], **range_)
    except LockNotAvailable:
        raise JournalBusy(asset=header.asset) from None
    return await ledger_archive.latest(unit, header.asset, header.last_seq)


async def _last(unit: Unit, archived: Archived) -> Any:
    """What was archived last, if a file is that: else it cannot come back now."""
    header, file = archived.header, str(archived.path)
    last = await unit.row(SQL["last"], asset=header.asset)
    if last is None:
        raise ArchiveOutOfOrder(file=file, reason=f"nothing of {header.asset} is archived")
    if (last.first_seq, last.last_seq) != (header.first_seq, header.last_seq):
        reason = f"it ends at row {header.last_seq}; {last.file} is next, which ends at row {last.last_seq}"
        raise ArchiveOutOfOrder(file=file, reason=reason)
    hashes = bytes(last.hash_before).hex(), bytes(last.hash_after).hex()
    if hashes != (header.hash_before, archived.trailer.after.hash):
        raise ArchiveBroken(file=file, reason="it has other rows than those that were archived")
    return last


async def _fill(unit: Unit, archived: Archived, hash_after: bytes, progress: Progress | None) -> None:
    header = archived.header
    with files.reading(archived.path) as reading:
        for block in reading.blocks():
            await _insert(unit, header.asset, block)
            if progress is not None:
                progress(header.asset, int(block.rows["seq"][-1]), header.last_seq)
        if reading.hash != hash_after:
            raise ArchiveBroken(file=str(archived.path), reason="it was changed while it was read")


async def _insert(unit: Unit, asset: str, block: Block) -> None:
    rows = block.rows
    ids = ("id", "pending_id", "corrects")
    short = ("kind", "code", "result")
    times = ("effective_at", "recorded_at", "expires_at")
    order = ("seq", "id", "debit", "credit", "amount", *short, "pending_id", "corrects", "debit_version",
             "credit_version", "debit_balance", "credit_balance", *times)  # fmt: skip

    def encoded(name: str) -> Any:
        if name in ids:
            return wire.uuids(rows[name])
        encode = wire.int2s if name in short else wire.times if name in times else wire.int8s
        return encode(rows[name].astype(np.int64))

    sizes = rows["reference_size"].astype(np.int64)
    ends = np.cumsum(np.maximum(sizes, 0)).tolist()
    texts = [
        None if size < 0 else block.texts[end - size : end].decode()
        for size, end in zip(sizes.tolist(), ends, strict=True)
    ]
    values = (asset, *map(encoded, order), wire.int8s(block.seals), wire.texts(texts))
    async with wire.cursor(unit.driver) as cursor:
        await cursor.execute(SQL["fill"].encode(), values)
