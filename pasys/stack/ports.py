"""Ports are chosen free and remembered; one that the operator asked for and somebody holds names its holder."""

from __future__ import annotations

import os
import random
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pasys.errors import PortTaken
from pasys.stack.process import LINUX, command

FIRST, LAST = 20_000, 30_000
LOOPBACK = "127.0.0.1"
_LISTENING = "0A"


def is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a closing connection does not hold a port
        try:
            attempt.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def choose(service: str, *, asked: int | None, remembered: int | None, avoid: set[int]) -> int:
    """The asked port, else the remembered one, else any free one. Raises PortTaken for the asked one only."""
    if asked is not None:
        if not is_free(asked):
            raise PortTaken(port=asked, service=service, holder=holder(asked))
        return asked
    if remembered is not None and remembered not in avoid and is_free(remembered):
        return remembered
    while True:
        port = random.randint(FIRST, LAST)
        if port not in avoid and is_free(port):
            return port


def holder(port: int) -> str:
    """Who listens on a port, as `process 123 (command)`."""
    pid = next(_holders(port), None)
    return "a process of another user" if pid is None else f"process {pid} ({command(pid)})"


def _holders(port: int) -> Iterator[int]:
    if not LINUX:
        asked = ["lsof", "-nP", "-t", f"-iTCP:{port}", "-sTCP:LISTEN"]
        try:
            answer = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
        except FileNotFoundError:
            return
        yield from map(int, answer.split())
        return
    sockets = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and sockets & set(_open_files(entry)):
            yield int(entry.name)


def _listening_inodes(port: int) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/net/{table}").read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]


def _open_files(entry: Path) -> Iterator[str]:
    """What a process's descriptors point to. One that closes meanwhile (the listing's own does) hides no other."""
    try:
        descriptors = os.listdir(entry / "fd")  # noqa: PTH208  names are all that is wanted
    except OSError:
        return
    for descriptor in descriptors:
        with suppress(OSError):
            yield os.readlink(entry / "fd" / descriptor)  # noqa: PTH115  the text of the link, which is no path
