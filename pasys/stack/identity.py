"""PostgreSQL refuses to run as root; here a child of root becomes a user that it accepts, root's files still readable.

Two ways, tried in this order:
  * a user namespace in which the caller's own uid is called `nobody`: files keep their owner, nothing is copied;
  * where namespaces are forbidden (Docker's default): setuid to nobody, keeping the one capability that lets it walk
    through folders private to root; the data folder is given to nobody first.
The same namespace serves a uid that has no name (containers), which initdb would refuse.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pasys.errors import ServerMissing
from pasys.stack.process import LINUX

_CLONE_NEWUSER = 0x10000000
_PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAP_DAC_OVERRIDE = 1
_CAP_VERSION_3 = 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a server runs as: `become` in the child before exec, and the uid and gid that must own its data."""

    become: Callable[[], None] | None
    uid: int
    gid: int

    def own(self, folder: Path) -> None:
        """Give a data folder to this identity, where another way of starting gave it to somebody else."""
        if not folder.exists() or folder.stat().st_uid == self.uid:
            return
        for root, folders, files in os.walk(folder):
            for name in (*folders, *files):
                os.chown(Path(root) / name, self.uid, self.gid, follow_symlinks=False)
        shutil.chown(folder, self.uid, self.gid)


def accepted() -> Identity:
    """The first identity that works here. Raises ServerMissing where root can become nobody else."""
    if os.geteuid() != 0 and _has_name(os.geteuid()):
        return Identity(None, os.geteuid(), os.getegid())
    nobody = _nobody()
    for candidate in (_namespace(nobody), _capability(nobody)):
        if _works(candidate):
            return candidate
    if os.geteuid() != 0:
        return Identity(None, os.geteuid(), os.getegid())
    reason = "it refuses to run as root, and neither a user namespace nor another user is allowed here"
    raise ServerMissing(server="way to start PostgreSQL", reason=reason, variable="DATABASE_URL")


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _nobody() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("nobody")
    except KeyError:
        return next(entry for entry in pwd.getpwall() if entry.pw_uid != 0)


def _namespace(nobody: pwd.struct_passwd) -> Identity:
    uid, gid = os.geteuid(), os.getegid()

    def become() -> None:
        if not LINUX:
            raise OSError("no user namespaces")
        os.setgroups([]) if uid == 0 else None
        if _libc.unshare(_CLONE_NEWUSER) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"{nobody.pw_uid} {uid} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"{nobody.pw_gid} {gid} 1", encoding="ascii")

    return Identity(become, uid, gid)


def _capability(nobody: pwd.struct_passwd) -> Identity:
    def become() -> None:
        os.setgroups([])
        if LINUX:
            _libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
        os.setresgid(nobody.pw_gid, nobody.pw_gid, nobody.pw_gid)
        os.setresuid(nobody.pw_uid, nobody.pw_uid, nobody.pw_uid)
        if LINUX:
            _keep_only_dac_override()

    return Identity(become, nobody.pw_uid, nobody.pw_gid)


def _keep_only_dac_override() -> None:
    mask = 1 << _CAP_DAC_OVERRIDE
    header = struct.pack("II", _CAP_VERSION_3, 0)
    data = struct.pack("IIIIII", mask, mask, mask, 0, 0, 0)  # effective, permitted, inheritable; then the upper halves
    if _libc.capset(header, data) == 0:
        _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_OVERRIDE, 0, 0)


def _works(candidate: Identity) -> bool:
    """Try it in a child that does nothing else."""
    assert candidate.become is not None
    pid = os.fork()
    if pid == 0:
        try:
            candidate.become()
            os._exit(0 if os.geteuid() != 0 else 1)
        except BaseException:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0
