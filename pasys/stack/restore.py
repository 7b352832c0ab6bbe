"""The embedded PostgreSQL as it was at a time: restored beside, put in the place of the old one in steps that heal.

data/postgres.restoring    being made; whoever finds one throws it away
data/postgres.restored     whole; from its rename on, the restore goes forward, at the next `up` if not before
data/postgres.before-TIME  what was replaced, until the operator deletes it
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from pasys.config import Settings
from pasys.errors import (
    ArchiveGap,
    BackupDamaged,
    DiskFull,
    InvalidInput,
    NoBackup,
    RestoreUnfinished,
    TimeLeftBehind,
    TimeOutOfReach,
)
from pasys.stack import archive, backup, disk, wal
from pasys.stack.backup import Backup
from pasys.stack.home import Home, read_json, take_lock, write_private
from pasys.stack.postgres import Postgres
from pasys.stack.recovery import STAGED, TRUSTING, Recovery, clear, words

FACTS = "pasys-restore.json"  # in the restored folder, until it is in its place


@dataclass(frozen=True, slots=True)
class Restored:
    """A server of its own on the restored books. `recovered_to` is the last commit that is in them; `seconds` is from
    the call until it answered; `whole` says that nothing that was ever committed is missing; `kept` is where the data
    that are replaced will lie, None for a drill."""

    backup: Backup
    url: str
    timeline: int
    recovered_to: datetime
    seconds: float
    whole: bool
    kept: str | None


@dataclass(frozen=True, slots=True)
class Past:
    """A restore that took place: `timeline` began `at`, with the books as of `to` (None: all there were)."""

    timeline: int
    at: datetime
    to: datetime | None
    kept: str


@contextmanager
def down(settings: Settings) -> Iterator[None]:
    """Keep the home's stack from starting for the length of the block. Raises HomeInUse while it runs."""
    home = Home(settings.home_path)
    home.create()
    lock = take_lock(home.lock, home=home.root)
    try:
        yield
    finally:
        os.close(lock)


def empty_bus(settings: Settings) -> None:
    """Forget what the embedded bus holds, while it is down. What it must still bring stands in the outbox."""
    shutil.rmtree(Home(settings.home_path).data / "nats", ignore_errors=True)


def check(settings: Settings, to: datetime | None, *, timeline: int | None) -> Backup:
    """What a restore would begin with. Raises HomeInUse while a stack runs, BackupNotOurs, and what `choose` raises."""
    backup.ours(settings, verb="restore")
    home = Home(settings.home_path)
    if home.lock.exists():
        os.close(take_lock(home.lock, home=home.root))
    return choose(settings, to, timeline=timeline)


@contextmanager
def replacing(settings: Settings, to: datetime | None, *, timeline: int | None = None) -> Iterator[Restored]:
    """Restore to `to` (None: all there is), let the block work on it, and put it in the place of the home's data.

    Nothing is replaced where the block raises. Raises what `check` and `_restored` raise.
    """
    check(settings, to, timeline=timeline)
    home = Home(settings.home_path)
    home.create()
    lock = take_lock(home.lock, home=home.root)
    scratch = home.data / "postgres.restoring"
    try:
        Postgres(home).heal()  # a killed supervisor's server may still be closing the cluster that is read here
        finish(home, settings.backups_path)
        kept = home.data / f"postgres.before-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}"
        with _restored(settings, to, scratch, timeline=timeline, kept=kept) as found:
            yield found
        past = Past(found.timeline, datetime.now(UTC), to, str(kept))
        write_private(scratch / FACTS, msgspec.json.encode(asdict(past)), durable=True)
        os.sync()  # files that recovery did not touch are only in the cache so far
        scratch.rename(home.data / "postgres.restored")  # no way back from here
        archive.sync_folder(str(home.data))
        finish(home, settings.backups_path)
    finally:
        os.close(lock)


@contextmanager
def drilling(settings: Settings, to: datetime | None, *, timeline: int | None = None) -> Iterator[Restored]:
    """Restore beside the running server, and throw the copy away after the block. Raises what `_restored` raises."""
    backup.ours(settings, verb="restore")
    choose(settings, to, timeline=timeline)
    folder = backup.cluster(settings)
    assert folder is not None, "a backup was chosen"
    Home(settings.home_path).create()
    scratch = folder / "drill"
    with _restored(settings, to, scratch, timeline=timeline, kept=None) as found:
        yield found


def finish(home: Home, backups: Path) -> None:
    """Bring a restore that passed its point of no return to its end, however often it is interrupted; clear away one
    that did not. Raises RestoreUnfinished where the archive cannot be written."""
    clear(home.data / "postgres.restoring")
    final, data = home.data / "postgres.restored", home.data / "postgres"
    if final.exists():
        past = msgspec.convert(read_json(final / FACTS), Past)
        folder = backup.own_backups(backups, final)
        try:
            _hand_over(final / STAGED, folder, past)
        except OSError as error:
            raise RestoreUnfinished(folder=str(folder), reason=str(error)) from None
        # The bus knows a future that the books have lost. What it must still bring stands in the restored outbox.
        shutil.rmtree(home.data / "nats", ignore_errors=True)
        if data.exists():
            data.rename(past.kept)
        final.rename(data)
        archive.sync_folder(str(home.data))
    if (data / FACTS).exists():
        shutil.rmtree(data / STAGED, ignore_errors=True)
        (data / TRUSTING).unlink(missing_ok=True)
        (data / FACTS).unlink()


def _hand_over(staged: Path, folder: Path, past: Past) -> None:
    """The archive gets what the restored server wrote before it was in its place."""
    for made in (folder / "wal", folder / "restores"):
        made.mkdir(parents=True, exist_ok=True, mode=0o700)
    for file in sorted(staged.glob("0*")):
        # A .partial is what the old timeline still held: whole, it is in the archive or among the data that are kept.
        if file.suffix != ".partial":
            archive.keep(str(file), str(folder / "wal"))
    write_private(folder / "restores" / f"{past.timeline:08X}.json", msgspec.json.encode(past), durable=True)


def choose(settings: Settings, to: datetime | None, *, timeline: int | None = None) -> Backup:
    """The newest backup that ended before `to` on the history that is followed, with no gap behind it.

    `timeline` is where that history ends, the newest one if not given. Raises NoBackup, TimeOutOfReach,
    TimeLeftBehind, ArchiveGap, InvalidInput.
    """
    folder, line, reachable = _reachable(settings, timeline)
    if to is None:
        if missing := wal.gap(folder / "wal", line, behind=reachable[-1].end_lsn):
            raise ArchiveGap(folder=str(folder / "wal"), missing=missing, backup=reachable[-1].id)
        return reachable[-1]
    now = datetime.now(UTC)
    if not reachable[0].ended_at <= to <= now:
        raise TimeOutOfReach(to=words(to), first=words(reachable[0].ended_at), last=f"now, {words(now)}")
    _not_left_behind(folder, line, to)
    return [one for one in reachable if one.ended_at <= to][-1]


def _reachable(settings: Settings, timeline: int | None) -> tuple[Path, wal.Line, list[Backup]]:
    """The folder of the backups, the history that ends in a timeline, and the backups on it, oldest first."""
    folder, found = backup.cluster(settings), backup.listing(settings, verified=False)
    if folder is None or not found:
        raise NoBackup(folder=str(folder or settings.backups_path))
    line = wal.Line.of(folder / "wal", timeline)
    reachable = [one for one in found if line.has(one.timeline, one.end_lsn)]
    if not reachable:
        raise InvalidInput(field="timeline", reason=f"no backup in {folder} leads to timeline {line.timeline}")
    return folder, line, reachable


def _not_left_behind(folder: Path, line: wal.Line, to: datetime) -> None:
    """What was done between the time that an earlier restore went back to, and that restore, is on another timeline."""
    for path in sorted((folder / "restores").glob("*.json")):
        past = msgspec.convert(read_json(path), Past)
        if past.timeline in line.ends and past.to is not None and past.to < to < past.at:
            earlier = max(number for number in line.ends if number < past.timeline)
            raise TimeLeftBehind(to=words(to), at=words(past.at), back_to=words(past.to), timeline=earlier)


@contextmanager
def _restored(
    settings: Settings, to: datetime | None, scratch: Path, *, timeline: int | None, kept: Path | None
) -> Iterator[Restored]:
    """A promoted server on a copy of the newest fitting backup, stopped after the block; the copy stays if it is going
    to replace the data, and the block ended well.

    Raises HomeInUse while a backup runs, BackupDamaged, DiskFull, RestoreFailed, TimeOutOfReach, ArchiveGap, and what
    `choose` raises.
    """
    began = time.monotonic()
    home = Home(settings.home_path)
    folder, _, reachable = _reachable(settings, timeline)
    lock = take_lock(folder / "backup.lock", home=folder)  # nobody deletes meanwhile what is needed
    try:
        chosen = choose(settings, to, timeline=timeline)
        _copied(chosen, scratch)
        replaces, earliest = kept is not None, reachable[0].ended_at
        recovery = Recovery(home, scratch, folder / "wal", replaces=replaces, earliest=earliest)
        with recovery.running(to, timeline=timeline, behind=chosen) as (new_timeline, recovered_to):
            yield Restored(
                backup=chosen,
                url=recovery.server.url,
                timeline=new_timeline,
                recovered_to=recovered_to or chosen.ended_at,
                seconds=time.monotonic() - began,
                whole=timeline is None and recovery.whole(to),
                kept=str(kept) if replaces and (home.data / "postgres").exists() else None,
            )
        if not replaces:
            clear(scratch)
    except BaseException:
        clear(scratch)
        raise
    finally:
        os.close(lock)


def _copied(chosen: Backup, scratch: Path) -> None:
    if damage := backup.verify(Path(chosen.path)):
        raise BackupDamaged(backup=chosen.id, reason=damage)
    clear(scratch)
    room = disk.free(scratch.parent)
    if room < chosen.size_bytes + disk.ROOM_BYTES:
        raise DiskFull(path=str(scratch.parent), free=disk.words(room))
    shutil.copytree(chosen.path, scratch, symlinks=True, ignore=shutil.ignore_patterns(backup.FACTS))
