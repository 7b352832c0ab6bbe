"""A home's folders, private files, locks and sockets: where everything lies and who may read it.

pasys.toml          the operator's settings
data/               postgres, nats, valkey, psp, and the ballast that is given up when the disk is full
secrets/            passwords of the embedded servers and the ports they were given
run/                endpoints.json, state.json, locks, sockets, generated configuration
logs/               one file per service, rotated
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pasys.errors import HomeInUse

SOCKET_PATH_MAX = 103  # bytes; macOS allows 103, Linux 107
SOCKET_NAME_MAX = len("/.s.PGSQL.5432.lock")
PRIVATE_FOLDER = 0o700
PRIVATE_FILE = 0o600
_SHORT_FOLDERS = ("/tmp", "/var/tmp")


@dataclass(frozen=True, slots=True)
class Home:
    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def endpoints(self) -> Path:
        return self.run / "endpoints.json"

    @property
    def state(self) -> Path:
        return self.run / "state.json"

    @property
    def lock(self) -> Path:
        return self.run / "supervisor.lock"

    @property
    def ballast(self) -> Path:
        return self.data / "ballast"

    @property
    def control(self) -> Path | None:
        """The supervisor's socket, or None where no home was ever made here."""
        folder = self._recorded_sockets() or self.run
        return folder / "control.sock" if folder.is_dir() else None

    def log(self, service: str) -> Path:
        return self.logs / f"{service}.log"

    def create(self) -> None:
        """Make the folders, private to their owner. An existing home keeps its own mode (`pasys doctor` looks)."""
        self.root.mkdir(parents=True, exist_ok=True, mode=PRIVATE_FOLDER)
        for folder in (self.data, self.run, self.logs, self.secrets):
            folder.mkdir(exist_ok=True, mode=PRIVATE_FOLDER)
            folder.chmod(PRIVATE_FOLDER)

    def sockets(self) -> Path:
        """The folder for Unix sockets: run/, or a short private one, recorded, where that path is too long."""
        if len(os.fsencode(self.run)) + SOCKET_NAME_MAX <= SOCKET_PATH_MAX:
            return self.run
        if (recorded := self._recorded_sockets()) and _is_private(recorded):
            return recorded
        made = Path(tempfile.mkdtemp(prefix="pasys-", dir=_short_folder()))
        write_private(self.run / "sockets", str(made).encode())
        return made

    def _recorded_sockets(self) -> Path | None:
        try:
            return Path((self.run / "sockets").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def secret(self, name: str) -> str:
        """A random word that stays the same for the life of this home."""
        path = self.secrets / name
        try:
            return path.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            word = secrets.token_hex(24)
            write_private(path, f"{word}\n".encode(), durable=True)
            return word


def _short_folder() -> str:
    candidates = (tempfile.gettempdir(), *_SHORT_FOLDERS)
    return min(candidates, key=len) if len(candidates[0]) > 40 else candidates[0]


def _is_private(folder: Path) -> bool:
    try:
        found = os.lstat(folder)
    except FileNotFoundError:
        return False
    return folder.is_dir() and not folder.is_symlink() and found.st_uid == os.geteuid() and not found.st_mode & 0o077


def write_private(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Replace a file in one step, readable by its owner only."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        scratch.replace(path)
    except OSError:
        scratch.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none or it was cut short."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def take_lock(path: Path, *, home: Path) -> int:
    """The descriptor that holds the lock, and the holder's pid inside the file. Raises HomeInUse with that pid."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        os.close(descriptor)
        raise HomeInUse(home=str(home), pid=holder or "unknown") from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor
