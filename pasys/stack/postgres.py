"""The embedded PostgreSQL: a cluster that is durable, private to its owner, and heals after any kind of kill."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import struct
import subprocess
import sys
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

from pasys.errors import DataTooNew, DiskFull, HomeInUse, ServiceFailed
from pasys.stack import archive, locate, pgwire, process
from pasys.stack.home import Home
from pasys.stack.identity import accepted
from pasys.stack.server import NotReady

USER = DATABASE = "pasys"
SOCKET_PORT = 5432  # a part of the socket's name; no TCP port is opened unless asked for
_ORPHAN_SIGNALS = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 3.0), (signal.SIGKILL, 2.0))  # and seconds to obey
_NO_SUCH_DATABASE, _DUPLICATE_DATABASE = "3D000", "42P04"
_FULL = "No space left on device"

# Two cores and a laptop's memory; small queue tables that turn over many times a minute must be vacuumed early. What is
# written in bulk makes 80 MB of WAL a second: with the 4 MB of the default all writers wait whenever one is synced or a
# file of it is begun. Reading ahead by processes of their own gains nothing here, and they hold as much memory.
_SETTINGS = """\
listen_addresses = '{listen}'
port = {port}
unix_socket_directories = {sockets}
unix_socket_permissions = 0700
password_encryption = 'scram-sha-256'
max_connections = 100
shared_buffers = 128MB
wal_buffers = 16MB
io_method = sync
max_logical_replication_workers = 0
wal_writer_delay = 10ms
fsync = {durable}
synchronous_commit = {durable}
full_page_writes = {durable}
wal_compression = pglz
max_wal_size = 2GB
checkpoint_timeout = 15min
jit = off
autovacuum_naptime = 10s
autovacuum_vacuum_scale_factor = 0.05
autovacuum_vacuum_insert_scale_factor = 0.1
autovacuum_analyze_scale_factor = 0.05
autovacuum_vacuum_cost_delay = 1ms
idle_in_transaction_session_timeout = 10min
log_timezone = 'UTC'
timezone = 'UTC'
log_line_prefix = '%m [%p] '
log_checkpoints = off
"""
# The first backup begins the archive: without one the WAL would only fill a disk. That needs no restart, because
# the archiver runs from the start, with a command that keeps nothing. From then on a piece of the WAL goes to the
# archive when it is full, or after this long if anything was written.
_ARCHIVING = """\
archive_mode = on
archive_timeout = {timeout_s}s
archive_command = {command}
"""
ARCHIVE_TIMEOUT_S = 60
ARCHIVED = "pasys.archived"  # in the data folder, from the first backup on


class Postgres:
    """`port` opens TCP on loopback besides the socket; `durable=False` is for tests only: a power cut loses data.

    `backups` is the folder under which the WAL is archived from the first backup on; without one it never is.
    """

    name = "postgres"
    stop_signals = ((signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))

    def __init__(
        self, home: Home, *, port: int | None = None, durable: bool = True, backups: Path | None = None
    ) -> None:
        self.home = home
        self.backups = backups
        self.port = port or SOCKET_PORT
        self.listens = port is not None
        self.durable = durable
        self.data = home.data / "postgres"
        self.sockets = home.sockets()
        self.password = home.secret("postgres")
        self._new = False  # a cluster that has no database yet
        self.identity = accepted()  # tried out by a fork, which is safe only before there are threads

    @cached_property
    def binaries(self) -> Path:
        return locate.postgres()

    @property
    def url(self) -> str:
        folder = quote(str(self.sockets), safe="")
        return f"postgresql://{USER}:{self.password}@/{DATABASE}?host={folder}&port={self.port}"

    @property
    def _socket(self) -> Path:
        return self.sockets / f".s.PGSQL.{self.port}"

    def prepare(self) -> None:
        """Raises ServerMissing, DataTooNew, HomeInUse, DiskFull, ServiceFailed."""
        if self.data.exists():
            self._check_version()
            self.heal()
        else:
            self._create()
            self._new = True
        self.identity.own(self.data)
        (self.data / "pasys.conf").write_text(self._configuration(), encoding="utf-8")

    def start(self) -> subprocess.Popen[bytes]:
        return process.spawn(
            [self.binaries / "postgres", "-D", self.data],
            log=self.home.log(self.name),
            on_parent_death=signal.SIGINT,  # a fast shutdown: sessions end, the cluster is closed cleanly
            cwd=Path("/"),
            env=_environment(),
            become=self.identity.become,
        )

    async def probe(self) -> None:
        if not self._socket.exists():
            raise NotReady("no socket yet")
        if not self._accepting():
            raise NotReady("the database system is starting up")
        if self._new:  # to ask for what is not there would be an error in the log
            await self._create_database()
            self._new = False
        try:
            await self._query("select 1", database=DATABASE)
        except pgwire.Refused as error:
            if error.sqlstate != _NO_SUCH_DATABASE:  # the first start was killed
                raise
            await self._create_database()

    def _accepting(self) -> bool:
        """As the server says it itself, in the eighth line of its pid file, which comes behind the socket; who asks
        before is an error in its log."""
        try:
            said = (self.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return False
        return len(said) > 7 and said[7].strip() in ("ready", "standby")

    async def _create_database(self) -> None:
        try:
            await self._query(f"create database {DATABASE}", database="postgres")
        except pgwire.Refused as error:
            if error.sqlstate != _DUPLICATE_DATABASE:
                raise

    async def _query(self, sql: str, *, database: str) -> list[list[str]]:
        return await pgwire.query(sql, socket=self._socket, user=USER, password=self.password, database=database)

    def _configuration(self) -> str:
        listen = "127.0.0.1" if self.listens else ""
        folder = str(self.sockets).replace('"', '""').replace("'", "''")  # a quoted item of a list in a quoted string
        durable = "on" if self.durable else "off"
        text = _SETTINGS.format(listen=listen, port=self.port, sockets=f"'\"{folder}\"'", durable=durable)
        if self.backups is None:
            return text
        return text + archiving(wal_folder(self.backups, self.data) if (self.data / ARCHIVED).exists() else None)

    def _create(self) -> None:
        """initdb beside the final place: a cluster is either whole or not there."""
        scratch = self.data.with_name("postgres.new")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(mode=0o700)
        self.identity.own(scratch)
        words = [self.binaries / "initdb", "-D", scratch, "-U", USER, "--auth=scram-sha-256", "--encoding=UTF8"]
        words += ["--no-locale", "--data-checksums", "--no-instructions", f"--pwfile={self.home.secrets / 'postgres'}"]
        if not self.durable:
            words += ["--no-sync"]
        running = process.spawn(
            words,
            log=self.home.log(self.name),
            on_parent_death=signal.SIGKILL,
            cwd=Path("/"),
            env=_environment(),
            become=self.identity.become,
        )
        if code := running.wait():
            raise self._initdb_failed(code)
        with (scratch / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.write("\ninclude 'pasys.conf'  # written by pasys at every start; ALTER SYSTEM overrides it\n")
        scratch.rename(self.data)

    def _initdb_failed(self, code: int) -> Exception:
        said = self.home.log(self.name).read_text(encoding="utf-8", errors="replace")[-2000:]
        if _FULL in said or shutil.disk_usage(self.home.data).free == 0:
            return DiskFull(path=str(self.home.data), free="0 B")
        errors = [line for line in said.splitlines() if "error" in line or "FATAL" in line]
        reason = errors[-1] if errors else process.how_it_ended(code)
        return ServiceFailed(service=self.name, reason=f"initdb: {reason}")

    def _check_version(self) -> None:
        found = int((self.data / "PG_VERSION").read_text(encoding="ascii"))
        have = locate.postgres_major(self.binaries)
        if found != have:
            raise DataTooNew(path=str(self.data), found=found, have=have)

    def heal(self) -> None:
        """End what an earlier supervisor left running in this cluster, and remove what would keep a new one out.

        Raises HomeInUse for what does not end.
        """
        pid_file = self.data / "postmaster.pid"
        if not pid_file.exists():
            return
        if not process.LINUX:
            return  # PostgreSQL's own check of the pid file has to do
        left = lambda: list(process.working_in(self.data))  # noqa: E731
        postmaster = _first_pid(pid_file)
        for sent, patience_s in _ORPHAN_SIGNALS:
            running = left()
            # Backends end by themselves once their postmaster is gone; signals go to it alone as long as it lives.
            for pid in [postmaster] if postmaster in running else running:
                process.send(pid, sent)
            if not running or process.wait_gone(left, timeout_s=patience_s):
                break
        if running := left():
            raise HomeInUse(home=str(self.home.root), pid=running[0])
        # The pid inside may belong to anybody by now, and PostgreSQL would believe it.
        for stale in (pid_file, self._socket, self._socket.with_name(f"{self._socket.name}.lock")):
            stale.unlink(missing_ok=True)


def own_backups(backups: Path, data: Path) -> Path:
    """The folder of a cluster's backups: a cluster made anew in the same home never meets those of an earlier one."""
    with (data / "global" / "pg_control").open("rb") as file:
        return backups / str(struct.unpack("=Q", file.read(8))[0])  # the system identifier


def wal_folder(backups: Path, data: Path) -> Path:
    return own_backups(backups, data) / "wal"


def archiving(folder: Path | None) -> str:
    """The settings that archive the WAL into a folder, or nowhere yet. A folder that is missing is not made: on a
    disk that is not mounted the WAL would go where nobody looks for it."""
    if folder is None:
        return _ARCHIVING.format(timeout_s=0, command=setting("true"))
    return _ARCHIVING.format(timeout_s=ARCHIVE_TIMEOUT_S, command=setting(archive_words("keep", "%p", folder)))


def archive_words(do: str, *words: str | Path) -> str:
    """A command for the shell: archive.py run by this interpreter, `%p` and `%f` left for PostgreSQL to fill in."""

    def quoted(word: str | Path) -> str:
        return f'"{word}"' if word in ("%p", "%f") else shlex.quote(str(word)).replace("%", "%%")

    return " ".join(map(quoted, (sys.executable, "-I", "-S", Path(archive.__file__), do, *words)))


def setting(value: str) -> str:
    """A value as postgresql.conf wants it."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def _first_pid(pid_file: Path) -> int:
    try:
        return int(pid_file.read_text(encoding="utf-8").split("\n", 1)[0])
    except (ValueError, FileNotFoundError):
        return 0


# The C library (glibc; others do not look) gives the memory of a statement back to the system, and the next one begins
# with asking for it again and with empty pages: a sixth of what a short statement costs. So a backend keeps a little;
# with much more than this, large ones take longer.
_KEPT_MEMORY = {
    "MALLOC_TOP_PAD_": str(256 * 1024),
    "MALLOC_TRIM_THRESHOLD_": str(2 * 1024**2),
    "MALLOC_MMAP_THRESHOLD_": str(4 * 1024**2),
}


def _environment() -> dict[str, str]:
    """The caller's environment without what would steer PostgreSQL: PGDATA, PGPORT, a locale of its own."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    return _KEPT_MEMORY | kept | {"LC_ALL": "C"}
