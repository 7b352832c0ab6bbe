"""What tests of the machine room share: a home of its own, the programs in it, and what runs there."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from pasys import config
from pasys.stack import client, process
from pasys.stack.state import ServiceState

HERE = Path(__file__).parent


SERVERS = ("postgres", "nats", "redis")


STAY = {"name": "stay", "kind": "daemon", "target": "stack_programs:stay", "reports_ready": True}


STAY_ON_SERVERS = STAY | {"needs": SERVERS}


@pytest.fixture(autouse=True)
def programs(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Says which programs a stack of this test consists of: one that stays, unless told otherwise."""
    for name in ("DATABASE_URL", "NATS_URL", "REDIS_URL", "STRIPE_API_KEY", "STRIPE_API_BASE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(HERE))

    def set_programs(*chosen: dict[str, object]) -> None:
        monkeypatch.setenv("PASYS_TEST_PROGRAMS", json.dumps(chosen))

    set_programs(STAY_ON_SERVERS)
    return set_programs


@pytest.fixture
def home() -> Iterator[Path]:
    """A home of its own, that nothing survives in. Short: pytest's own folders are too long for a socket."""
    with tempfile.TemporaryDirectory(prefix="pasys-t-", ignore_cleanup_errors=True) as folder:
        yield Path(folder) / "home"
        client.down(Path(folder) / "home", timeout_s=10)


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A disk of 300 MB; what runs in a home there is stopped."""
    with tempfile.TemporaryDirectory(prefix="pasys-d-") as folder:
        command = ["mount", "-t", "tmpfs", "-o", "size=300m", "tmpfs", folder]
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("only root may mount a small disk")
        try:
            yield Path(folder)
            client.down(Path(folder) / "home", timeout_s=10)
        finally:
            subprocess.run(["umount", "-l", folder], check=True)


def fill(path: Path) -> None:
    with path.open("ab", buffering=0) as file:
        while True:
            try:
                file.write(b"x" * 65_536)
            except OSError:
                return


def until(condition: Callable[[], object], *, timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def states(home: Path) -> dict[str, ServiceState]:
    return {state.name: state for state in client.status(home).services}


def pid_of(home: Path, name: str) -> int:
    pid = states(home)[name].pid
    assert pid is not None
    return pid


def supervisor_pid(home: Path) -> int:
    supervisor = client.status(home).supervisor
    assert supervisor is not None
    return supervisor.pid


def processes_of(home: Path) -> list[int]:
    """Every live process that speaks of this home or works in it."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid() or process.birth(int(entry.name)) is None:
            continue
        try:
            told = (entry / "cmdline").read_bytes() + bytes((entry / "cwd").readlink())
        except OSError:
            continue
        if str(home).encode() in told:
            found.append(int(entry.name))
    return found


def ask(home: Path, sql: str) -> object:
    url = config.load(home).require("database_url")
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(sql.encode())
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None
