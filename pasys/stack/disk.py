"""Room on the home's disk: a ballast that is given up so that PostgreSQL can recover, and the signs of a full disk."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from pasys.errors import DiskFull
from pasys.stack.home import Home

MIB = 1024 * 1024
BALLAST_BYTES = 64 * MIB
LOW_BYTES = 8 * MIB  # below this a server is likely to have failed to write, even if it could not log it
ROOM_BYTES = 32 * MIB  # above this a stuck server is worth a restart
FIRST_START_BYTES = 160 * MIB
SIGNS = (b"No space left on device", b"no space left on device", b"critical write error")


class Disk:
    def __init__(self, home: Home) -> None:
        self.home = home
        self._read_to: dict[Path, int] = {}

    @property
    def free(self) -> int:
        """Bytes that the servers may still write."""
        return free(self.home.data)

    def error(self) -> DiskFull:
        return DiskFull(path=str(self.home.root), free=words(self.free))

    def check(self, *, first: bool) -> None:
        """Raises DiskFull where a start would fail for lack of room."""
        if self.free < (FIRST_START_BYTES if first else LOW_BYTES):
            if self.home.ballast.exists() and not first:
                return self.release()
            raise self.error()

    def release(self) -> None:
        """Give up the ballast. It comes back by `keep_ballast`."""
        self.home.ballast.unlink(missing_ok=True)

    def keep_ballast(self) -> bool:
        """Whether the ballast is there, made if there is room for it and as much again."""
        path = self.home.ballast
        if path.exists():
            return True
        if self.free < 2 * BALLAST_BYTES or not hasattr(os, "posix_fallocate"):
            return False
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, BALLAST_BYTES)
        except OSError:
            path.unlink(missing_ok=True)
            return False
        finally:
            os.close(descriptor)
        return True

    def complains(self, service: str) -> bool:
        """Whether a server's log has spoken of a full disk since this was asked last."""
        path = self.home.log(service)
        with suppress(OSError), path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            before = self._read_to.setdefault(path, size)  # what an earlier run wrote is history
            if size < before:  # rotated
                before = 0
            self._read_to[path] = size
            file.seek(max(before, size - MIB))
            news = file.read()
            return any(sign in news for sign in SIGNS)
        return False


def free(folder: Path) -> int:
    """Bytes left on the disk of a folder, or of the nearest one above it that exists, its reserve apart."""
    while not folder.exists():
        folder = folder.parent
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def words(size: int) -> str:
    return f"{size // MIB} MiB" if size >= MIB else f"{size} B"


def rotate(path: Path, *, above_bytes: int = 10 * MIB, kept: int = 3) -> None:
    """Copy a large log aside and empty it: its writers append, and go on at the new end."""
    with suppress(OSError):
        if path.stat().st_size < above_bytes:
            return
        for number in range(kept - 1, 0, -1):
            older = path.with_name(f"{path.name}.{number}")
            if older.exists():
                older.replace(path.with_name(f"{path.name}.{number + 1}"))
        shutil.copyfile(path, path.with_name(f"{path.name}.1"))
        os.truncate(path, 0)
