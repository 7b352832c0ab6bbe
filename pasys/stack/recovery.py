"""A PostgreSQL on a copy of a backup replays the archived WAL up to a time, and is promoted; or says why it cannot."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pasys.errors import ArchiveGap, RestoreFailed, TimeOutOfReach
from pasys.stack import process, wal
from pasys.stack.backup import Backup
from pasys.stack.home import Home
from pasys.stack.postgres import USER, Postgres, archive_words, archiving, own_backups, setting

if TYPE_CHECKING:
    import psycopg

START_TIMEOUT_S = 24 * 3_600.0
STAGED = "pasys-wal"  # what a restored server archives before it is in its place
TRUSTING = "pasys-trust.conf"  # lets us in whatever password the backup knows: only we reach its socket
_SOCKETS = {True: ("restoring", 5431), False: ("drill", 5430)}  # a name for the log, and a part of the socket's name
_NOT_REACHED = "recovery ended before configured recovery target was reached"
_REDO_DONE = re.compile(r"redo done at (\S+)")
_LAST_COMMIT = re.compile(r"last completed transaction was at log time (\S+ \S+?)(?: UTC|\+00)?$", re.MULTILINE)


class Recovery:
    """`replaces` says that the copy is going to replace the home's data, and not only to be looked at; `earliest` is
    the first time that could be asked for."""

    def __init__(self, home: Home, scratch: Path, archived: Path, *, replaces: bool, earliest: datetime) -> None:
        self.home, self.archived, self.replaces, self.earliest = home, archived, replaces, earliest
        self.server = Postgres(home)
        self.server.data = scratch
        self.server.name, self.server.port = _SOCKETS[replaces]
        self._log_began = 0

    @contextmanager
    def running(
        self, to: datetime | None, *, timeline: int | None, behind: Backup
    ) -> Iterator[tuple[int, datetime | None]]:
        """The new timeline, and the last commit that is in it, None where none followed the backup.

        Raises RestoreFailed, TimeOutOfReach, ArchiveGap.
        """
        log = self.home.log(self.server.name)
        self._log_began = log.stat().st_size if log.exists() else 0
        running = self._start(to, timeline)
        try:
            if not self._promoted(running):
                self._past_the_end(to, timeline, behind)
                running = self._start(None, timeline)
                if not self._promoted(running):
                    raise RestoreFailed(reason=self._why())
            yield self._taken_over(to, timeline, behind), self._last_commit()
        finally:
            _stop(self.server, running)

    def _start(self, to: datetime | None, timeline: int | None) -> subprocess.Popen[bytes]:
        server, folders = self.server, [self.archived, *self._left()]
        server.prepare()
        lines = [
            f"hba_file = {setting(str(server.data / TRUSTING))}",
            f"recovery_target_timeline = '{timeline or 'latest'}'",
            "recovery_target_action = 'promote'",
            f"restore_command = {setting(archive_words('fetch', '%f', '%p', *folders))}",
        ]
        if self.replaces:
            (server.data / STAGED).mkdir(mode=0o700, exist_ok=True)
            lines += [archiving(server.data / STAGED)]
        if to is not None:
            lines += [f"recovery_target_time = '{to.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}+00'"]
        with (server.data / "pasys.conf").open("a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
        (server.data / TRUSTING).write_text("local all all trust\n", encoding="ascii")
        (server.data / "recovery.signal").touch(mode=0o600)
        server.identity.own(server.data)
        return server.start()

    def _left(self) -> list[Path]:
        """Where the WAL lies that a stopped server of this home had not archived yet, the latest first."""
        if not self.replaces:
            return []
        data = self.home.data / "postgres"
        earlier = sorted(self.home.data.glob("postgres.before-*"), reverse=True)
        clusters = [folder for folder in (data, *earlier) if (folder / "global" / "pg_control").exists()]
        return [folder / "pg_wal" for folder in clusters if own_backups(self.archived.parents[1], folder) == self.mine]

    @property
    def mine(self) -> Path:
        return self.archived.parent

    def _promoted(self, running: subprocess.Popen[bytes]) -> bool:
        """Wait until the server takes writes; False where the WAL ended before the time that was asked for."""
        import psycopg

        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if running.poll() is not None:
                if _NOT_REACHED in self._said():
                    return False
                raise RestoreFailed(reason=self._why())
            try:
                with self._connected() as connection:
                    row = connection.execute("select pg_is_in_recovery()").fetchone()
                    if row == (False,):
                        return True
            except psycopg.OperationalError:
                pass
            time.sleep(0.05)
        raise RestoreFailed(reason=f"no answer in {START_TIMEOUT_S:g} s")

    def _past_the_end(self, to: datetime | None, timeline: int | None, behind: Backup) -> None:
        """Nothing was committed between the WAL's end and the time that was asked for, if all of the WAL is here.

        Raises TimeOutOfReach where it may not be, ArchiveGap where it is not.
        """
        assert to is not None
        line = wal.Line.of(self.archived, timeline)
        if missing := wal.gap(self.archived, line, behind=behind.end_lsn):
            raise ArchiveGap(folder=str(self.archived), missing=missing, backup=behind.id)
        if self._left():
            return
        read = _REDO_DONE.findall(self._said())
        if read and wal.position(read[-1]) // wal.SEGMENT_BYTES < max(wal.segments(self.archived, line), default=0):
            raise self._damaged(wal.position(read[-1]), behind)
        last = self._last_commit() or behind.ended_at
        raise TimeOutOfReach(to=words(to), first=words(self.earliest), last=words(last))

    def _taken_over(self, to: datetime | None, timeline: int | None, behind: Backup) -> int:
        """The new timeline, once it is sure that no damaged piece ended the replay early. Raises ArchiveGap."""
        from psycopg import sql

        with self._connected() as connection:
            row = connection.execute("select pg_walfile_name(pg_current_wal_lsn())").fetchone()
            assert row is not None
            name = str(row[0])
            if self.replaces:  # the backup may know the password of a home that is lost
                secret = sql.Literal(self.server.password)
                connection.execute(sql.SQL("alter role {} password {}").format(sql.Identifier(USER), secret))
        new_timeline = int(name[:8], 16)
        if to is None or _NOT_REACHED in self._said():
            forks = wal.Line.of(self.server.data / "pg_wal", new_timeline).ends
            reached = max((end for number, end in forks.items() if number != new_timeline), default=0)
            if reached < wal.reach(self.archived, wal.Line.of(self.archived, timeline)):
                raise self._damaged(reached, behind)
        return new_timeline

    def whole(self, to: datetime | None) -> bool:
        """Whether nothing that was ever committed is missing: all of the WAL was replayed, and all of it is here."""
        return bool(self._left()) and (to is None or _NOT_REACHED in self._said())

    def _damaged(self, reached: int, behind: Backup) -> ArchiveGap:
        missing = f"a readable segment {wal.label(reached // wal.SEGMENT_BYTES)}"
        return ArchiveGap(folder=str(self.archived), missing=missing, backup=behind.id)

    def _connected(self) -> psycopg.Connection[Any]:
        import psycopg

        return psycopg.connect(self.server.url, connect_timeout=5, autocommit=True)

    def _said(self) -> str:
        with self.home.log(self.server.name).open("rb") as file:
            file.seek(self._log_began)
            return file.read().decode("utf-8", "replace")

    def _last_commit(self) -> datetime | None:
        found = _LAST_COMMIT.findall(self._said())
        return datetime.fromisoformat(found[-1]).replace(tzinfo=UTC) if found else None

    def _why(self) -> str:
        telling = [line.partition("] ")[2] for line in self._said().splitlines() if "FATAL" in line or "PANIC" in line]
        return "; ".join(telling[-2:]) or "the server ended"


def words(moment: datetime) -> str:
    """A time as a person reads it, in the local zone, which is named."""
    return moment.astimezone().isoformat(sep=" ", timespec="milliseconds")


def clear(scratch: Path) -> None:
    """Remove an unfinished copy, and end the server that may still work on it."""
    left = lambda: list(process.working_in(scratch))  # noqa: E731
    for sent in (signal.SIGQUIT, signal.SIGKILL):
        for pid in left():
            process.send(pid, sent)
        if process.wait_gone(left, timeout_s=5.0):
            break
    shutil.rmtree(scratch, ignore_errors=True)


def _stop(server: Postgres, running: subprocess.Popen[bytes]) -> None:
    for sent, patience_s in server.stop_signals:
        if running.poll() is None:
            running.send_signal(sent)
            try:
                running.wait(patience_s)
            except subprocess.TimeoutExpired:
                continue
