"""Child processes that cannot outlive their parent, and what the kernel knows about other processes."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

LINUX = sys.platform == "linux"
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent_pid: int, sent: signal.Signals) -> None:
    """Have the kernel send `sent` to this process when its parent ends. Right before exec: new credentials reset it."""
    if not LINUX:
        return
    _libc.prctl(_PR_SET_PDEATHSIG, int(sent), 0, 0, 0)
    if os.getppid() != parent_pid:  # it ended before we asked
        os._exit(1)


def rename(title: str) -> None:
    """The name that ps and top show, 15 bytes at most."""
    if LINUX:
        _libc.prctl(_PR_SET_NAME, title.encode()[:15], 0, 0, 0)


def spawn(
    argv: Sequence[str | Path],
    *,
    log: Path,
    on_parent_death: signal.Signals,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    become: Callable[[], None] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, its output appended to `log`. `become` changes identity in the child."""
    parent_pid = os.getpid()

    def before_exec() -> None:
        if become is not None:
            become()
        die_with_parent(parent_pid, on_parent_death)

    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        return subprocess.Popen(
            [str(part) for part in argv],
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            cwd=cwd,
            env=dict(env) if env is not None else None,
            pass_fds=pass_fds,
            start_new_session=True,
            preexec_fn=before_exec,
        )
    finally:
        os.close(descriptor)


async def ended(process: subprocess.Popen[bytes]) -> int:
    """Wait for a child of this process; its return code, negative for a signal."""
    if not hasattr(os, "pidfd_open"):
        while process.poll() is None:
            await asyncio.sleep(0.05)
        return process.returncode
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()
    descriptor = os.pidfd_open(process.pid)
    loop.add_reader(descriptor, lambda: over.done() or over.set_result(None))
    try:
        await over
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    return process.wait()


def how_it_ended(code: int) -> str:
    """A return code in words: `exit 1`, `killed by SIGKILL`."""
    if code >= 0:
        return f"exit {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def birth(pid: int) -> str | None:
    """A token that differs when a pid is used again; None for a process that is gone."""
    if LINUX:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else fields[19]
    answer = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None


def command(pid: int) -> str:
    """What a process runs, short enough for a sentence."""
    if LINUX:
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return "?"
        text = b" ".join(words).decode("utf-8", "replace").strip()
    else:
        asked = ["ps", "-o", "command=", "-p", str(pid)]
        text = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    return text if len(text) <= 80 else f"{text[:77]}…"


def working_in(folder: Path) -> Iterator[int]:
    """The pids of processes whose working directory is this folder; only Linux can tell."""
    if not LINUX:
        return
    try:
        wanted = folder.stat()
    except FileNotFoundError:
        return
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            found = os.stat(entry / "cwd")  # noqa: PTH116  Path.stat would resolve twice
        except OSError:
            continue
        if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino) and birth(int(entry.name)):
            yield int(entry.name)


def send(pid: int, sent: signal.Signals) -> bool:
    """Whether the process was there to be signalled."""
    try:
        os.kill(pid, sent)
    except ProcessLookupError:
        return False
    return True


def wait_gone(pids: Callable[[], list[int]], *, timeout_s: float) -> bool:
    """Poll until no such process is left."""
    deadline = time.monotonic() + timeout_s
    while pids():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
