"""An archive is proven before it goes, and whatever is cut short, changed, or put in its place is found."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pytest

from pasys.db import Database
from pasys.errors import ArchiveBroken, ArchiveOutOfOrder, InvalidInput
from pasys.service import ledger, ledger_archive, ledger_archive_restore, ledger_partition
from tests.archive_kit import ROWS, archive, grown, signer
from tests.ledger_kit import direct


async def test_a_run_that_was_cut_short_goes_on(db: Database, tmp_path: Path) -> None:
    """Before the drop nothing is gone: a scratch file is swept, a whole file is taken, and a drop is done once."""
    numbers = await grown(db)
    async with db.unit() as unit:
        part = (await ledger_archive.plan(unit, "USD", to=ROWS))[0]
        scratch = tmp_path / f".{part.file}.99999.new"
        scratch.write_bytes(b"half of it")
        written = await ledger_archive.write(unit, signer(db), part, tmp_path)
        assert not scratch.exists() and len(list(tmp_path.iterdir())) == 1
    again = tmp_path / part.file
    made = again.stat().st_mtime_ns
    (once,) = await archive(db, tmp_path, to=ROWS)
    assert once.archived.path == again and again.stat().st_mtime_ns == made, "the file that was there"
    async with db.unit() as unit:
        assert not await ledger_archive.drop(unit, written), "somebody else has"
        assert (await ledger.verify(unit)).ok
        assert len(await ledger_archive.listing(unit)) == 1
    async with db.unit() as unit:
        await ledger.post(unit, [direct(numbers[0], numbers[2], 5)])


async def test_nothing_is_dropped_for_a_file_that_is_not_right(db: Database, tmp_path: Path) -> None:
    """A file with other rows, or one that changed between writing and dropping, leaves the journal as it is."""
    await grown(db)
    async with db.unit() as unit:
        part = (await ledger_archive.plan(unit, "USD", to=ROWS))[0]
        written = await ledger_archive.write(unit, signer(db), part, tmp_path)
    path = tmp_path / part.file
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    for step in (ledger_archive.drop, lambda unit, _: ledger_archive.write(unit, signer(db), part, tmp_path)):
        with pytest.raises(ArchiveBroken):
            async with db.unit() as unit:
                await step(unit, written)
    raw = bytearray(gzip.decompress(whole))
    raw[len(raw) // 2] ^= 1
    path.write_bytes(gzip.compress(bytes(raw)))
    with pytest.raises(ArchiveBroken):
        async with db.unit() as unit:
            await ledger_archive_restore.restore(unit, path)
    async with db.unit() as unit:
        assert (await ledger.verify(unit)).ok and await ledger_archive.listing(unit) == []
        assert (await ledger_partition.partitions(unit))[0].first_seq == 1


async def test_every_changed_byte_of_a_file_is_found(db: Database, tmp_path: Path) -> None:
    """A byte that is changed anywhere in the rows, or a file that is cut off anywhere, is no archive."""
    await grown(db)
    (written,) = await archive(db, tmp_path, to=ROWS)
    raw = gzip.decompress(written.archived.path.read_bytes())
    header = raw.index(b"\n", raw.index(b"\n") + 1) + 1
    draw, bad = random.Random(3), tmp_path / "bad.gz"
    trailer = raw.index(b'{"transfers"')
    for _ in range(200):
        place = draw.randrange(header, trailer)
        changed = bytearray(raw)
        changed[place] ^= 1 << draw.randrange(8)
        bad.write_bytes(gzip.compress(draw.choice([bytes(changed), raw[:place]]), 1))
        with pytest.raises(ArchiveBroken):
            async with db.unit() as unit:
                await ledger_archive_restore.restore(unit, bad)


async def test_the_last_one_comes_back_first(db: Database, tmp_path: Path) -> None:
    """The journal has no hole: a file that does not end where it begins is refused, and the right one is named."""
    await grown(db)
    first, second = await archive(db, tmp_path, to=2 * ROWS)
    with pytest.raises(ArchiveOutOfOrder, match=second.archived.path.name):
        async with db.unit() as unit:
            await ledger_archive_restore.restore(unit, first.archived.path)
    async with db.unit() as unit:
        await ledger_archive_restore.restore(unit, second.archived.path)
        await ledger_archive_restore.restore(unit, first.archived.path)
    with pytest.raises(ArchiveOutOfOrder):
        async with db.unit() as unit:
            await ledger_archive_restore.restore(unit, first.archived.path)
    with pytest.raises(InvalidInput):
        async with db.unit() as unit:
            await ledger_archive_restore.restore(unit, tmp_path / "nowhere")
