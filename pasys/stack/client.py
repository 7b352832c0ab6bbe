"""What the faces ask of the machine room: up, down, status, restart. Light: no driver, no event loop."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pasys.errors import DiskFull, HomeInUse, PasysError, ServiceFailed, StackNotRunning
from pasys.stack import control, disk, process
from pasys.stack.home import Home, read_json
from pasys.stack.state import ServiceState, StackStatus, decode

POLL_EVERY_S = 0.02
CONTROL_TIMEOUT_S = 0.5
KILL_AFTER_S = 5.0
TAIL_LINES = 20
Progress = Callable[[list[ServiceState]], None]


@dataclass(frozen=True, slots=True)
class UpResult:
    """`endpoints` are fields of Settings. `already_running` says that a supervisor was there before."""

    already_running: bool
    seconds: float
    services: list[ServiceState]
    endpoints: dict[str, str]


def up(
    home: Path, *, only: list[str] | None = None, timeout_s: float = 60, progress: Progress | None = None
) -> UpResult:
    """Have the stack running and ready, started by this call or before. Raises the error that keeps it from that.

    What already works is left alone; what is stopped or pauses after a crash is started.
    """
    place = Home(home.absolute())
    began = time.monotonic()
    deadline = began + timeout_s
    starting: subprocess.Popen[bytes] | None = None
    already_running = _answers(place, deadline=deadline)
    if already_running:
        control.ask(place.control, {"do": "up", "only": only}, timeout_s=timeout_s)
    else:
        starting = _start(place, only, on_parent_death=None)
    services = _until_ready(place, starting, deadline=deadline, progress=progress)
    return UpResult(already_running, time.monotonic() - began, services, read_json(place.endpoints))


def run_foreground(
    home: Path,
    *,
    only: list[str] | None = None,
    timeout_s: float = 60,
    progress: Progress | None = None,
    ready: Callable[[UpResult], None] | None = None,
) -> None:
    """Run the stack as long as this process lives; Ctrl-C stops it in order, a second one quickly.

    `ready` is called once with what `up` would return, `progress` on every change before and after. Returns at once
    where a stack runs already. Raises what `up` raises, with everything stopped again.
    """
    place = Home(home.absolute())
    began = time.monotonic()
    if _answers(place, deadline=began + timeout_s):
        found = up(home, only=only, timeout_s=timeout_s, progress=progress)
        return ready(found) if ready else None
    starting = _start(place, only, on_parent_death=signal.SIGTERM)
    try:
        services = _until_ready(place, starting, deadline=began + timeout_s, progress=progress)
        if ready:
            ready(UpResult(False, time.monotonic() - began, services, read_json(place.endpoints)))
        while starting.poll() is None:
            if progress:
                progress(status(home).services)
            time.sleep(0.2)
    finally:
        _stop_patiently(starting)


def down(home: Path, *, destroy: bool = False, timeout_s: float = 30) -> bool:
    """Stop in order; whether anything ran. With `destroy`, delete data, logs, secrets and run files.

    pasys.toml stays, and so do backups.
    """
    place = Home(home.absolute())
    found = status(home)
    if found.running and found.supervisor is not None:
        pid = found.supervisor.pid
        process.send(pid, signal.SIGTERM)
        gone = lambda: [pid] if process.birth(pid) == _birth(found) else []  # noqa: E731
        if not process.wait_gone(gone, timeout_s=timeout_s):
            process.send(pid, signal.SIGTERM)
            if not process.wait_gone(gone, timeout_s=KILL_AFTER_S):
                process.send(pid, signal.SIGKILL)
                process.wait_gone(gone, timeout_s=KILL_AFTER_S)
    if destroy:
        _destroy(place)
    return found.running


def status(home: Path) -> StackStatus:
    """What runs now, in a few milliseconds; a supervisor that died makes everything stopped."""
    place = Home(home.absolute())
    return _answered(place) or _recorded(place)


def restart(home: Path, name: str, *, timeout_s: float = 60) -> list[ServiceState]:
    """Restart a service and its copies; their states once ready. Raises ServiceNotFound, ServiceFailed."""
    _ask(home, {"do": "restart", "name": name}, timeout_s=timeout_s)
    return _until_named_ready(home, name, timeout_s=timeout_s)


def start(home: Path, name: str, *, timeout_s: float = 60) -> list[ServiceState]:
    """Start a stopped service and its copies; their states once ready. Raises ServiceNotFound, ServiceFailed."""
    _ask(home, {"do": "start", "name": name}, timeout_s=timeout_s)
    return _until_named_ready(home, name, timeout_s=timeout_s)


def stop(home: Path, name: str, *, timeout_s: float = 30) -> None:
    """Stop one service and its copies, and keep it stopped. Raises ServiceNotFound."""
    _ask(home, {"do": "stop", "name": name}, timeout_s=timeout_s)


def tail(home: Path, name: str, *, lines: int = TAIL_LINES) -> str:
    """The last lines of a service's log."""
    try:
        with Home(home.absolute()).log(name).open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 16_384))
            return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-lines:])
    except OSError:
        return ""


def _ask(home: Path, request: dict[str, str], *, timeout_s: float) -> None:
    place = Home(home.absolute())
    if control.ask(place.control, request, timeout_s=timeout_s) is None:
        raise StackNotRunning(home=str(place.root))


def _answered(place: Home) -> StackStatus | None:
    answer = control.ask(place.control, {"do": "status"}, timeout_s=CONTROL_TIMEOUT_S)
    return msgspec.convert(answer["state"], StackStatus) if answer is not None else None


def _recorded(place: Home) -> StackStatus:
    """What the supervisor wrote down last, as far as it can still be true."""
    try:
        recorded = decode(place.state.read_bytes())
    except OSError:
        return StackStatus()
    if recorded is None or recorded.supervisor is None:
        return StackStatus()
    if process.birth(recorded.supervisor.pid) == _birth(recorded):
        return recorded
    services = [_stopped(service) for service in recorded.services]
    return StackStatus(False, None, services, recorded.trouble)


def _answers(place: Home, *, deadline: float) -> bool:
    """Whether a supervisor runs that stays. One that stops is waited for, and so is one that is there and says nothing:
    for a while after kill -9 a process is. Raises ServiceFailed where it does neither answer nor end."""
    while (answered := _answered(place)) is None or answered.stopping:
        found = answered or _recorded(place)
        if not found.running or found.supervisor is None:
            return False
        if time.monotonic() > deadline:
            does = "is still stopping" if answered else "does not answer"
            raise ServiceFailed(service="supervisor", reason=f"the one that runs (pid {found.supervisor.pid}) {does}")
        time.sleep(POLL_EVERY_S)
    return True


def _until_named_ready(home: Path, name: str, *, timeout_s: float) -> list[ServiceState]:
    deadline = time.monotonic() + timeout_s
    while True:
        found = status(home)
        named = [state for state in found.services if state.name == name or state.name.startswith(f"{name}-")]
        if named and all(state.healthy for state in named):
            return named
        _raise_failure(home, found, named, late=time.monotonic() > deadline)
        time.sleep(POLL_EVERY_S)


def _start(place: Home, only: list[str] | None, *, on_parent_death: signal.Signals | None) -> subprocess.Popen[bytes]:
    if disk.free(place.root) < disk.MIB and not place.ballast.exists():
        raise DiskFull(path=str(place.root), free=disk.words(disk.free(place.root)))
    place.create()
    words: list[str | Path] = [sys.executable, "-P", "-m", "pasys.stack.supervisor", "--home", place.root]
    words += ["--only", ",".join(only)] if only else []
    log = place.log("supervisor")
    if on_parent_death is not None:
        return process.spawn(words, log=log, on_parent_death=on_parent_death)
    with log.open("ab") as file:
        return subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd="/", start_new_session=True
        )


def _until_ready(
    place: Home, starting: subprocess.Popen[bytes] | None, *, deadline: float, progress: Progress | None
) -> list[ServiceState]:
    """The services, all of them ready. Raises what keeps one from it."""
    shown: list[ServiceState] = []
    while True:
        found = status(place.root)
        if progress and found.services != shown:
            shown = found.services
            progress(shown)
        wanted = [state for state in found.services if state.state != "stopped"]
        if found.running and not found.trouble and wanted and all(state.healthy for state in wanted):
            return found.services
        if starting is None and not found.running:
            raise StackNotRunning(home=str(place.root))  # somebody stopped it meanwhile
        # One that lost the race for the home's lock ends too; then we wait for the winner.
        code = starting.poll() if starting else None
        if starting and code is not None and code != HomeInUse.exit_code and not found.running:
            raise _why_it_ended(place, starting.pid)
        if starting and found.running and found.trouble and found.trouble.name != DiskFull.__name__:
            starting.wait()  # it gives up by itself; a full disk it sits out
        _raise_failure(place.root, found, wanted, late=time.monotonic() > deadline)
        time.sleep(POLL_EVERY_S)


def _raise_failure(home: Path, found: StackStatus, wanted: list[ServiceState], *, late: bool) -> None:
    """Raises the stack's own trouble, or ServiceFailed for a service that does not come up."""
    if found.running and found.trouble is not None:
        raise found.trouble.error()
    for state in wanted:
        if found.running and (state.state in ("crash_loop", "failed") or (late and not state.healthy)):
            raise _failed(home, state)
    if late:
        raise ServiceFailed(service="supervisor", reason="it did not report in time")


def _failed(home: Path, state: ServiceState) -> ServiceFailed:
    reason = state.last_error or f"it is still {state.state}"
    return ServiceFailed(service=state.name, reason=reason, log=tail(home, state.name))


def _why_it_ended(place: Home, pid: int) -> PasysError:
    try:
        left = decode(place.state.read_bytes())
    except OSError:
        left = None
    if left is not None and left.trouble is not None and left.supervisor is not None and left.supervisor.pid == pid:
        return left.trouble.error()
    said = tail(place.root, "supervisor")
    reason = said.splitlines()[-1] if said else "it said nothing"
    return ServiceFailed(service="supervisor", reason=reason, log=said)


def _stop_patiently(running: subprocess.Popen[bytes]) -> None:
    """Ask for an orderly stop and wait; an impatient Ctrl-C asks for a quick one."""
    while running.poll() is None:
        try:
            running.send_signal(signal.SIGTERM)
            running.wait()
        except KeyboardInterrupt:
            continue


def _stopped(state: ServiceState) -> ServiceState:
    kept = {"restarts": state.restarts, "last_exit": state.last_exit, "last_error": state.last_error}
    return ServiceState(state.name, state.kind, "stopped", **kept)


def _birth(found: StackStatus) -> str | None:
    return found.supervisor.birth if found.supervisor else None


def _destroy(place: Home) -> None:
    sockets = place.control.parent if place.control else None
    left = lambda: list(process.working_in(place.data / "postgres"))  # noqa: E731
    if not process.wait_gone(left, timeout_s=KILL_AFTER_S):
        for pid in left():
            process.send(pid, signal.SIGKILL)
    for folder in (place.data, place.logs, place.secrets, sockets, place.run):
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
