"""An archive is proven before it goes, and whatever is cut short, changed, or put in its place is found."""

from __future__ import annotations

import gzip
import random
import signal
from dataclasses import replace
from pathlib import Path

import msgspec
import psycopg
import pytest

from pasys.adapters.signer import open_signer
from pasys.cli import proof
from pasys.config import Settings
from pasys.db import Database
from pasys.domain import ledger_archive as ledger_archive_format
from pasys.domain import ledger_chain
from pasys.domain.ledger_proof import Checked
from pasys.errors import ArchiveBroken, ArchiveOutOfOrder, BooksDoNotHold, InvalidInput, JournalBusy
from pasys.service import ledger, ledger_archive, ledger_archive_restore, ledger_checkpoint, ledger_partition
from tests.archive_kit import POINTS, ROWS, archive, dying, grown, signer
from tests.ledger_kit import T0, direct, people
from tests.support import eventually


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


@pytest.mark.parametrize("change", ["amount = amount + 1", "effective_at = effective_at + interval '1 s'"])
async def test_what_does_not_hold_is_not_archived(db: Database, tmp_path: Path, change: str) -> None:
    """A row that was changed behind the ledger's back stays where it is, and no file is left."""
    await grown(db, rounds=14)
    with psycopg.connect(db.url, autocommit=True) as superuser:
        superuser.execute("alter table transfer_usd_1 disable trigger all")
        superuser.execute(f"update transfer_usd_1 set {change} where seq = 17".encode())
    with pytest.raises(BooksDoNotHold, match=r"\(row 17\)"):
        await archive(db, tmp_path, to=ROWS)
    assert list(tmp_path.iterdir()) == []


async def test_an_archive_of_other_books_is_in_the_way(db: Database, tmp_path: Path) -> None:
    """A whole file that has the name, and not the rows, is not overwritten; nor are the rows behind a gap archived, or
    brought back from a file of other books."""
    await grown(db, rounds=14)
    async with db.unit() as unit:
        _, second = await ledger_archive.plan(unit, "USD", to=2 * ROWS)
    with pytest.raises(JournalBusy):
        async with db.unit() as unit:
            await ledger_archive.write(unit, signer(db), second, tmp_path)
    (written,) = await archive(db, tmp_path, to=ROWS)
    theirs = files_of_other_books(written.archived.path)
    async with db.unit() as unit:
        await ledger_archive_restore.restore(unit, written.archived.path)
    written.archived.path.write_bytes(theirs)
    with pytest.raises(ArchiveBroken, match="with other rows"):
        await archive(db, tmp_path, to=ROWS)
    assert written.archived.path.read_bytes() == theirs
    await archive(db, tmp_path / "again", to=ROWS)
    with pytest.raises(ArchiveBroken, match="other rows than those that were archived"):
        async with db.unit() as unit:
            await ledger_archive_restore.restore(unit, written.archived.path)


async def test_the_rows_of_a_file_are_in_order(db: Database, tmp_path: Path) -> None:
    """A file whose hashes fit, and whose rows are not those that its header promises, is no archive."""
    await grown(db, rounds=14)
    (written,) = await archive(db, tmp_path, to=ROWS)
    written.archived.path.write_bytes(files_of_other_books(written.archived.path, field="seq"))
    with pytest.raises(ArchiveBroken, match="row 1 is not where it belongs"):
        async with db.unit() as unit:
            await ledger_archive_restore.restore(unit, written.archived.path)


def files_of_other_books(path: Path, *, field: str = "amount") -> bytes:
    """A file that is whole, with one field that is another and all hashes behind it made anew."""
    with gzip.open(path) as packed:
        reading = ledger_archive_format.Reading(packed.read)
        blocks = list(reading.blocks())
    assert reading.trailer is not None
    made, hash = [reading.header.encode()], bytes.fromhex(reading.header.hash_before)
    for block in blocks:
        rows = block.rows.copy()
        rows[field][5] += 1
        hash = ledger_chain.follow(hash, rows, block.texts)[-32:]
        made.append(ledger_archive_format.encode_block(rows, block.texts))
    after = replace(reading.trailer.after, hash=hash.hex())
    made.append(msgspec.structs.replace(reading.trailer, after=after).encode())
    return gzip.compress(b"".join(made))


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


@pytest.mark.parametrize("point", POINTS)
async def test_a_run_that_is_killed_loses_nothing(db: Database, tmp_path: Path, point: str) -> None:
    """kill -9 at any step: the books hold, nothing left the journal that is not in a whole file, and the next run goes
    on to the same end."""
    await grown(db, rounds=14)
    killed = dying(db.settings, tmp_path, point)
    assert killed.exitcode == -signal.SIGKILL
    async with db.unit() as unit:
        found = await ledger.verify(unit)
        assert found.ok and found.archived == ({"USD": ROWS} if point == "half" else {})
        assert (await ledger.verify(unit, archives=tmp_path)).ok
    await eventually(lambda: no_archiver(db))
    await archive(db, tmp_path, to=2 * ROWS)
    async with db.unit() as unit:
        found = await ledger.verify(unit, archives=tmp_path)
        assert found.ok and found.since == {"USD": 0}
        assert found.transfers == await unit.value("select last_seq from asset where code = 'USD'")
        rows = await ledger_archive.listing(unit)
        assert sorted(row.last_seq for row in rows) == [ROWS, 2 * ROWS]
    assert len(list(tmp_path.iterdir())) == 2, "no scratch is left"


async def no_archiver(db: Database) -> bool:
    """The database has noticed that the process is gone."""
    async with db.unit() as unit:
        return not await unit.value("select count(*) from pg_locks where locktype = 'advisory' and classid = 7082504")


async def test_a_verification_goes_across_the_files(db: Database, tmp_path: Path) -> None:
    """From the first transfer to the last every row is read, and a checkpoint that was kept before the archive is held
    against the row, wherever it lies."""
    await grown(db)
    async with db.unit() as unit:
        (made,) = await ledger_checkpoint.checkpoint(unit, signer(db))
        whole = await ledger.verify(unit)
    first, second = await archive(db, tmp_path, to=2 * ROWS)
    marks = {seq: bytes.fromhex(one.archived.trailer.after.hash) for seq, one in ((60, first), (120, second))}
    known = {"USD": marks | {made.seq: bytes.fromhex(made.hash)}}
    async with db.unit() as unit:
        found = await ledger.verify(unit, archives=tmp_path, known=known)
        assert found.ok and (found.transfers, found.accounts) == (whole.transfers, whole.accounts)
        assert (found.since, found.archived) == ({"USD": 0}, {})
        assert (await ledger.verify(unit, known=known)).ok
        for seq in (60, 120):
            wrong = {"USD": known["USD"] | {seq: bytes(32)}}
            told = await ledger.verify(unit, archives=tmp_path, known=wrong)
            assert [(one.what, one.seq) for one in told.findings] == [("checkpoint", seq)]
        told = await ledger.verify(unit, known={"USD": {120: bytes(32)}})
        assert [(one.what, one.seq) for one in told.findings] == [("checkpoint", 120)]
    second.archived.path.rename(tmp_path / "elsewhere")
    with pytest.raises(InvalidInput, match=second.archived.path.name):
        async with db.unit() as unit:
            await ledger.verify(unit, archives=tmp_path)
    second.archived.path.write_bytes(first.archived.path.read_bytes())
    with pytest.raises(ArchiveBroken):
        async with db.unit() as unit:
            await ledger.verify(unit, archives=tmp_path)


KEPT = {
    "archive_account": "update archive_account set credits_posted = credits_posted + 5, debits_posted = debits_posted"
    " + 5 where seq = 120 and account = (select max(account) from archive_account where seq = 120)",
    "archive_transfer": "update archive_transfer set amount = amount + 1 where id = any (select unnest(holds)"
    " from archive where last_seq = 120)",
    "archive_answer": "update archive_answer set answers = set_byte(answers, 7, get_byte(answers, 7) # 1)",
    "transfer_key": "update transfer_key set seq = 3 where seq = 4",
    "archive": "update archive set hash_after = sha256(hash_after) where last_seq = 120",
}


@pytest.mark.parametrize("table", KEPT)
async def test_what_is_kept_of_archived_rows_is_proven(db: Database, tmp_path: Path, table: str) -> None:
    """What the books keep of rows that are in files is proven from the files, and where money hangs on it by what was
    signed, too: a change behind the ledger's back is found. Ids are compared with the files alone."""
    await grown(db)
    await archive(db, tmp_path, to=2 * ROWS)
    async with db.unit() as unit:
        vouched = await ledger_checkpoint.vouched(unit, signer(db))
        assert set(vouched) == {"USD"} and (await ledger.verify(unit, vouched=vouched)).ok
    with psycopg.connect(db.url, autocommit=True) as superuser:
        superuser.execute(f"alter table {table} disable trigger all".encode())
        assert superuser.execute(KEPT[table].encode()).rowcount > 0
        superuser.execute(f"alter table {table} enable trigger all".encode())
    async with db.unit() as unit:
        assert not (await ledger.verify(unit, archives=tmp_path)).ok
        found = await ledger.verify(unit, vouched=await ledger_checkpoint.vouched(unit, signer(db)))
        assert found.ok == (table in ("archive_answer", "transfer_key"))


async def test_money_that_is_moved_behind_an_archive_is_found(db: Database, tmp_path: Path) -> None:
    """Sums that are changed in what was kept and in the accounts alike contradict no row that is left: what was signed
    contradicts them, and so do the files."""
    async with db.unit(now=T0) as unit:
        await unit.rows("select set_config('pasys.partition_rows', '10', false)")
        alice, bob, carol, dave = await people(unit, "alice", "bob", "carol", "dave", funds=100)
        await ledger.post(unit, [direct(alice, bob, 1) for _ in range(6)])
        await ledger.post(unit, [direct(bob, carol, 1) for _ in range(3)])
    await archive(db, tmp_path, to=10)
    with psycopg.connect(db.url, autocommit=True) as superuser:
        for table, column in (("archive_account", "account"), ("account", "id")):
            superuser.execute(f"alter table {table} disable trigger all".encode())
            for number, change in ((alice, 50), (dave, -50)):
                moved = f"update {table} set credits_posted = credits_posted + %s where {column} = %s"
                assert superuser.execute(moved.encode(), (change, number)).rowcount == 1
    async with db.unit() as unit:
        assert (await ledger.verify(unit)).ok, "what is left is whole"
        for how in ({"vouched": await ledger_checkpoint.vouched(unit, signer(db))}, {"archives": tmp_path}):
            found = await ledger.verify(unit, **how)  # type: ignore[arg-type]
            assert "archive" in {one.what for one in found.findings}


async def test_a_journal_must_begin_with_what_was_signed(db: Database, tmp_path: Path) -> None:
    """Without the signature on what follows from the archived rows nothing vouches for them; another home's key cannot,
    and says nothing."""
    await grown(db, rounds=14)
    await archive(db, tmp_path, to=ROWS)
    other = open_signer(Settings(home=str(tmp_path / "other")))
    async with db.unit() as unit:
        assert await ledger_checkpoint.vouched(unit, other) == {}
    with psycopg.connect(db.url, autocommit=True) as superuser:
        superuser.execute("alter table checkpoint disable trigger all")
        superuser.execute("delete from checkpoint")
    async with db.unit() as unit:
        found = await ledger.verify(unit, vouched=await ledger_checkpoint.vouched(unit, signer(db)))
        assert [(one.what, one.seq) for one in found.findings] == [("archive", ROWS)]


async def test_an_outsider_checks_a_file_with_the_public_key(db: Database, tmp_path: Path) -> None:
    """Each file is proven by itself and leads to the next; another key, a forged end, and a changed row are found."""
    await grown(db)
    first, second = await archive(db, tmp_path, to=2 * ROWS)
    key = signer(db).public_key
    for one in (first, second):
        found = checked(one.archived.path, key)
        assert found.ok and found.transfers == ROWS and found.key_id == signer(db).key_id
        assert (found.first_seq, found.last_seq) == (one.part.first_seq, one.part.last_seq)
    assert first.archived.trailer.after.hash == second.archived.header.hash_before
    assert [one.what for one in checked(first.archived.path, bytes(32)).findings] == ["key"]
    raw = gzip.decompress(second.archived.path.read_bytes())
    bad = tmp_path / "bad.gz"
    changed = bytearray(raw)
    changed[raw.index(b"\n", 20) + 200] ^= 1
    bad.write_bytes(gzip.compress(bytes(changed)))
    assert [one.what for one in checked(bad, key).findings] == ["archive"]
    forged = raw.replace(second.archived.trailer.after.signature.encode(), b"00" * 64)
    bad.write_bytes(gzip.compress(forged))
    assert [one.what for one in checked(bad, key).findings] == ["signature"]
    bad.write_bytes(gzip.compress(b"anything else"))
    with pytest.raises(InvalidInput, match="no proof"):
        checked(bad, key)


def checked(path: Path, key: bytes) -> Checked:
    return proof.check(path, key.hex())


async def test_what_comes_back_is_not_read_again_under_the_lock(db: Database, tmp_path: Path) -> None:
    """PostgreSQL attaches a partition without reading it: posters wait for the change of a catalogue, and no longer."""
    await grown(db, rounds=14)
    (written,) = await archive(db, tmp_path, to=ROWS)
    said: list[str] = []
    async with db.unit() as unit:
        unit.driver.add_notice_handler(lambda notice: said.append(notice.message_primary or ""))
        await unit.rows("set local client_min_messages = debug1")
        await ledger_archive_restore.restore(unit, written.archived.path)
    wanted = 'partition constraint for table "transfer_usd_1" is implied by existing constraints'
    assert wanted in said
    async with db.unit() as unit:
        constraints = (
            "select conname from pg_constraint where conrelid = 'transfer_usd_1'::regclass and conname = 'bounds'"
        )
        assert await unit.rows(constraints) == []
