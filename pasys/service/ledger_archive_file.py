"""An archive is written beside its final place, read back, and moved there when it is whole and on the disk."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from pasys.domain.ledger_archive import Header, Reading, Trailer
from pasys.errors import ArchiveBroken, InvalidInput

LEVEL = 6  # gzip: ids and amounts hardly become smaller beyond it
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Archived:
    """A file that was read to its end and is whole: its two ends, and the hash of the file as it lies there."""

    path: Path
    header: Header
    trailer: Trailer
    sha256: bytes


def name_of(asset: str, first_seq: int, last_seq: int) -> str:
    """Files of one asset sort in the order of the journal."""
    return f"{asset}-{first_seq:015}-{last_seq:015}.archive.gz"


@contextmanager
def writing(path: Path) -> Iterator[tuple[Path, Callable[[bytes], object]]]:
    """A scratch file beside `path`, and what writes to it; on the disk when the block ends. Raises InvalidInput where
    there can be no such file."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        _make(path.parent)
        for left in path.parent.glob(f".{path.name}.*.new"):  # by a run that was killed: there is one at a time
            left.unlink(missing_ok=True)
        with scratch.open("wb") as file:
            with gzip.GzipFile("", "wb", LEVEL, file, mtime=0) as packed:
                yield scratch, packed.write
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        _forget(scratch)
        raise InvalidInput(field="dir", reason=f"{path.parent}: {error.strerror}") from None
    except BaseException:
        _forget(scratch)
        raise


def _forget(scratch: Path) -> None:
    with suppress(OSError):  # there may be no such folder
        scratch.unlink()


def settle(scratch: Path, path: Path) -> None:
    """Move a file to its place; the folder is on the disk when it returns."""
    scratch.replace(path)
    _sync(path.parent)


def _make(folder: Path) -> None:
    """A folder with its parents; each is on the disk in the one above it."""
    if not folder.exists():
        _make(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync(folder.parent)


def _sync(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def check(path: Path) -> Archived:
    """Read an archive to its end, each row against its hash. Raises InvalidInput, ArchiveBroken."""
    with reading(path) as archive:
        for _ in archive.blocks():
            pass
        assert archive.trailer is not None, "the rows have ended"
        return Archived(path, archive.header, archive.trailer, digest(path))


@contextmanager
def reading(path: Path) -> Iterator[Reading]:
    """An archive as it is read. Raises InvalidInput where it cannot be, ArchiveBroken where it is not whole."""
    try:
        with gzip.open(path, "rb") as packed:
            yield Reading(packed.read)
    except (gzip.BadGzipFile, EOFError, zlib.error, ValueError) as error:
        raise ArchiveBroken(file=str(path), reason=str(error)) from None
    except OSError as error:
        raise InvalidInput(field="file", reason=f"{path}: {error.strerror}") from None


def digest(path: Path) -> bytes:
    """The hash of a file as it lies on the disk."""
    sum = sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            sum.update(piece)
    return sum.digest()
