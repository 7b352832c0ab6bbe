"""A base backup of the embedded PostgreSQL is taken while it works, and counts only once it is whole and verified.

backups/<system identifier>/base/<id>/   a data folder with its manifest, and pasys.json with what it is
backups/<system identifier>/wal/         the WAL, segment by segment, archived by archive.py
backups/<system identifier>/restores/    what was restored when, by timeline
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import msgspec

from pasys import config
from pasys.config import Settings
from pasys.errors import BackupDamaged, BackupFailed, BackupNotOurs, StackNotRunning
from pasys.stack import archive, locate, process
from pasys.stack import wal as wals
from pasys.stack.home import Home, read_json, take_lock, write_private
from pasys.stack.postgres import ARCHIVED, archive_words, archiving, own_backups

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[Any]

FACTS = "pasys.json"
ARCHIVED_WITHIN_S = 60.0
# Whether the archiver has yet to do a segment, and when it failed last.
_ARCHIVER = """
select coalesce(last_archived_wal, '') < %(name)s,
       case when last_failed_time >= %(began)s then last_failed_time end
  from pg_stat_archiver
"""
_PARTIAL = ".partial"


@dataclass(frozen=True, slots=True)
class Backup:
    """`ended_at` is the earliest time that it can be restored to; `damage` is empty where its manifest holds.

    `start_lsn` is where the WAL that it needs begins.
    """

    id: str
    started_at: datetime
    ended_at: datetime
    timeline: int
    start_lsn: str
    end_lsn: str
    size_bytes: int
    path: str
    damage: str = ""


def ours(settings: Settings, *, verb: str) -> None:
    """Raises BackupNotOurs where the operator runs PostgreSQL himself."""
    if config.load(settings.home_path, recorded=False).database_url is not None:
        raise BackupNotOurs(verb=verb)


def cluster(settings: Settings) -> Path | None:
    """The folder of this home's backups: of its data, or where these are lost, of the latest that were backed up."""
    data = settings.home_path / "data" / "postgres"
    if (data / "global" / "pg_control").exists():
        return own_backups(settings.backups_path, data)
    taken = sorted(settings.backups_path.glob(f"*/base/*/{FACTS}"), key=lambda path: path.parent.name)
    return taken[-1].parents[2] if taken else None


def take(settings: Settings) -> Backup:
    """Copy the running cluster, verify the copy, and only then give it its name. The first one begins the archive.

    Raises BackupNotOurs, StackNotRunning, HomeInUse (another backup runs), BackupFailed, BackupDamaged.
    """
    ours(settings, verb="back up")
    url, folder = settings.database_url, cluster(settings)
    if url is None or folder is None:
        raise StackNotRunning(home=settings.home)
    bases, wal = folder / "base", folder / "wal"
    if (settings.home_path / "data" / "postgres" / ARCHIVED).exists() and not wal.exists():
        raise BackupFailed(reason=f"the archive in {wal} is gone; mount its disk, or make that folder to begin it anew")
    try:
        for made in (bases, wal):
            made.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = take_lock(folder / "backup.lock", home=folder)
        try:
            for stale in bases.glob(f"*{_PARTIAL}"):
                shutil.rmtree(stale)
            _archive_from_here(settings, url, wal)
            return _take(settings, url, bases)
        finally:
            os.close(lock)
    except OSError as error:
        raise BackupFailed(reason=str(error)) from None


def _take(settings: Settings, url: str, bases: Path) -> Backup:
    started_at = datetime.now(UTC)
    final = bases / started_at.strftime("%Y%m%dT%H%M%S%fZ")
    scratch = final.with_name(final.name + _PARTIAL)
    _copy(Home(settings.home_path), url, scratch)
    facts = _facts(final, scratch, started_at)
    if damage := verify(scratch):
        raise BackupDamaged(backup=final.name, reason=damage)
    write_private(scratch / FACTS, msgspec.json.encode(asdict(facts)), durable=True)
    archive.sync_folder(str(scratch))
    scratch.rename(final)  # from here on it counts
    archive.sync_folder(str(bases))
    return facts


def _archive_from_here(settings: Settings, url: str, wal: Path) -> None:
    """Begin the archive, where this is its first backup, and see that the WAL reaches it. Raises BackupFailed."""
    import psycopg

    data, command = settings.home_path / "data" / "postgres", archive_words("keep", "%p", wal)
    try:
        with psycopg.connect(url, connect_timeout=10, autocommit=True) as connection:
            row = connection.execute("select current_setting('archive_command')").fetchone()
            if not (data / ARCHIVED).exists() or row != (command,):
                with (data / "pasys.conf").open("a", encoding="utf-8") as file:
                    file.write(archiving(wal))
                write_private(data / ARCHIVED, b"", durable=True)
                connection.execute("select pg_reload_conf()")
            # The archiver may throw one more segment away before it hears of its new command.
            if not _arrives(connection, wal) and not _arrives(connection, wal):
                raise BackupFailed(reason=f"the WAL does not reach {wal}")
    except psycopg.OperationalError as error:
        raise BackupFailed(reason=" ".join(str(error).split())[:300]) from None


def _arrives(connection: Connection, wal: Path) -> bool:
    """Whether the segment that the server writes at this moment is closed and reaches the archive; False at once where
    the archiver fails."""
    began = connection.execute("select clock_timestamp()").fetchone()
    connection.execute("select pg_logical_emit_message(false, 'pasys', 'backup')")  # an empty segment is never closed
    row = connection.execute("select pg_walfile_name(pg_switch_wal())").fetchone()
    assert row is not None and began is not None
    deadline = time.monotonic() + ARCHIVED_WITHIN_S
    while not (wal / str(row[0])).exists():
        archiver = connection.execute(_ARCHIVER, {"name": row[0], "began": began[0]}).fetchone()
        if time.monotonic() > deadline or archiver != (True, None):
            return (wal / str(row[0])).exists()
        time.sleep(0.05)
    return True


def listing(settings: Settings, *, verified: bool = True) -> list[Backup]:
    """The whole backups, oldest first, each held against its manifest unless not `verified`."""
    folder = cluster(settings)
    found = []
    for path in sorted(folder.glob(f"base/*/{FACTS}")) if folder else []:
        if path.parent.name.endswith(_PARTIAL):
            continue
        facts = read_json(path)
        facts |= {"path": str(path.parent), "damage": verify(path.parent) if verified else ""}
        found.append(msgspec.convert(facts, Backup))
    return found


def prune(settings: Settings, *, keep: int) -> list[Backup]:
    """Remove the backups that are older than the newest `keep`, and the WAL that only they need; what is gone.

    Counted are those that lie on the history that the database follows and are undamaged, so that one of them always
    stays, and none is removed where there are fewer.
    """
    assert keep >= 1, "the last backup stays"
    folder = cluster(settings)
    if folder is None:
        return []
    lock = take_lock(folder / "backup.lock", home=folder)
    try:
        found, oldest = listing(settings, verified=False), None
        line = wals.Line.of(folder / "wal")
        for one in reversed(found):  # only as many are read as have to be good
            if keep and line.has(one.timeline, one.end_lsn) and not verify(Path(one.path)):
                oldest, keep = one, keep - 1
        if keep or oldest is None:
            return []
        gone = [one for one in found if one.id < oldest.id]
        for one in gone:
            leaving = Path(one.path).with_name(one.id + _PARTIAL)
            Path(one.path).rename(leaving)  # from here on it is none
            shutil.rmtree(leaving)
        needed = [one.start_lsn for one in found if one.id >= oldest.id]
        wals.forget_before(folder / "wal", min(needed, key=wals.position))
        return gone
    finally:
        os.close(lock)


def verify(folder: Path) -> str:
    """What pg_verifybackup finds wrong, in one line; empty where every file is as the manifest says."""
    words = [locate.postgres() / "pg_verifybackup", "--exit-on-error", "--quiet", f"--ignore={FACTS}", folder]
    done = _run(words)
    return _telling(done.stderr) or "pg_verifybackup failed" if done.returncode else ""


def _copy(home: Home, url: str, scratch: Path) -> None:
    parts = urlsplit(url.replace("postgresql+psycopg://", "postgresql://", 1))
    asked = parse_qs(parts.query)
    words: list[str | Path] = [locate.postgres() / "pg_basebackup", "-D", scratch, "-X", "stream", "-c", "fast"]
    words += ["--manifest-checksums=SHA256", "-U", parts.username or "", "-w"]
    words += ["-h", asked["host"][0], "-p", asked["port"][0]]
    environment = {name: text for name, text in os.environ.items() if not name.startswith("PG")}
    environment |= {"PGPASSWORD": home.secret("postgres"), "LC_ALL": "C"}
    done = _run(words, environment)
    if done.returncode:
        shutil.rmtree(scratch, ignore_errors=True)
        raise BackupFailed(reason=_telling(done.stderr))


def _run(words: list[str | Path], environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program of PostgreSQL's that ends when we do: an orphan would go on writing into what the next clears."""
    ours = os.getpid()
    return subprocess.run(
        words,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: process.die_with_parent(ours, signal.SIGKILL),
    )


def _facts(final: Path, scratch: Path, started_at: datetime) -> Backup:
    ended_at = datetime.now(UTC)
    manifest = json.loads((scratch / "backup_manifest").read_bytes())
    needed = manifest["WAL-Ranges"]
    return Backup(
        id=final.name,
        started_at=started_at,
        ended_at=ended_at,
        timeline=needed[-1]["Timeline"],
        start_lsn=needed[0]["Start-LSN"],
        end_lsn=needed[-1]["End-LSN"],
        size_bytes=sum(file["Size"] for file in manifest["Files"]),
        path=str(final),
    )


def _telling(said: str) -> str:
    """The line that says what is wrong: the first error, else the last line."""
    lines = said.strip().splitlines() or [""]
    return next((line for line in lines if "error:" in line or "FATAL" in line), lines[-1])
