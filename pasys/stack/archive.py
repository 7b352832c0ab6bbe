"""One finished piece of PostgreSQL's WAL goes to the archive or comes back from it: whole, on disk, or not at all.

PostgreSQL runs this file by itself (`python -I -S archive.py keep|fetch …`, its archive_command and restore_command),
once a segment, so it loads nothing but the interpreter. A command and not pg_receivewal: the server keeps what was not
archived yet, tries again for ever, and says in pg_stat_archiver how it goes; and no further process has to be watched.
"""

from __future__ import annotations

import errno
import os
import sys

UNREADABLE = 126  # PostgreSQL ends a recovery whose restore_command says more than 125; 1 would be the end of the WAL


def keep(source: str, folder: str) -> None:
    """Archive a file under its own name. Raises FileExistsError where other contents have that name; OSError.

    The rest of a segment that was closed early is zeros, which take no room: they are a hole in the file.
    """
    name = os.path.basename(source)  # noqa: PTH119  pathlib takes longer to load than the copy takes
    target, scratch = f"{folder}/{name}", f"{folder}/.{name}.part"
    with open(source, "rb") as file:  # noqa: PTH123
        content = file.read()
    if os.path.exists(target):  # noqa: PTH110
        with open(target, "rb") as file:  # noqa: PTH123
            if file.read() != content:
                raise FileExistsError(f"{target} is archived already, with other contents")
    else:
        with open(scratch, "wb") as file:  # noqa: PTH123
            file.write(content.rstrip(b"\0"))
            file.truncate(len(content))
            file.flush()
            os.fsync(file.fileno())
        os.rename(scratch, target)  # noqa: PTH104
    sync_folder(folder)


def fetch(name: str, target: str, folders: list[str]) -> bool:
    """Bring a file back from the first folder that has it; whether any has. Raises OSError where one has it and
    cannot be read: that is not the end of the WAL."""
    for folder in folders:
        try:
            with open(f"{folder}/{name}", "rb") as found:  # noqa: PTH123
                content = found.read()
        except FileNotFoundError:
            continue
        with open(target, "wb") as file:  # noqa: PTH123
            file.write(content)
        return True
    return False


def sync_folder(folder: str) -> None:
    """Have the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _main(words: list[str]) -> int:
    try:
        if words[0] == "fetch":
            return 0 if fetch(words[1], words[2], words[3:]) else 1
        keep(words[1], words[2])
    except OSError as error:
        # Not the system's own words: whoever reads the log for a full disk means the one that holds the data.
        says = "its disk is full" if error.errno == errno.ENOSPC else str(error)
        os.write(2, f"pasys archive: {says}\n".encode())  # into the server's log
        return UNREADABLE if words[0] == "fetch" else 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
