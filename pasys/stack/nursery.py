"""One process that has read every heavy module and forks a child for each program: they start in milliseconds.

Run as `python -m pasys.stack.nursery --home H --channel FD [--without MODULE]… [--discover PACKAGE] MODULE…`. It
talks to the supervisor in lines of JSON over the socket FD:

    asked     {"id", "name", "target", "args", "settings", "reports_ready", "log"}
    tells     {"tell": "loaded", "daemons": [...], "broken": {...}}     once everything is read
              {"tell": "forked"|"ready"|"error"|"ended", "id", ...}     about a child

It has no thread and no event loop, so that a fork copies nothing that is half done.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pasys.stack import process, program


@dataclass(slots=True)
class Child:
    id: int
    report: int
    unread: bytes = b""


class Nursery:
    def __init__(self, channel: socket.socket, home: Path) -> None:
        self.channel = channel
        self.home = home
        self.children: dict[int, Child] = {}
        self.unread = b""
        self.wake, wake_end = os.pipe()
        self.life, self._life_end = os.pipe()
        os.set_blocking(self.wake, False)
        os.set_blocking(wake_end, False)
        signal.set_wakeup_fd(wake_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def load(self, modules: list[str], *, without: list[str], discover: str | None) -> None:
        """Read the modules, answering between two of them, and say which daemons there are."""
        gc.disable()  # nothing that is read here is garbage
        for name in modules:
            with _absent(without):
                _import(name)
            self.turn(timeout_s=0)
        daemons, broken = _discover(discover) if discover else ([], {})
        gc.freeze()  # what is shared now stays shared: no collection writes to it
        gc.enable()
        self.tell(tell="loaded", daemons=daemons, broken=broken)

    def turn(self, *, timeout_s: float | None) -> None:
        """Serve what is waiting. Leaves the process when the supervisor has gone."""
        reports = {child.report: child for child in self.children.values()}
        channel = self.channel.fileno()
        readable, _, _ = select.select([channel, self.wake, *reports], [], [], timeout_s)
        for ready in readable:
            if ready == channel:
                self._asked()
            elif ready == self.wake:
                os.read(self.wake, 4096)
            else:
                self._pass_on(reports[ready])
        self._reap()

    def tell(self, **line: object) -> None:
        self.channel.sendall(json.dumps(line).encode() + b"\n")

    def _asked(self) -> None:
        received = self.channel.recv(65_536)
        if not received:
            self._leave()
        *lines, self.unread = (self.unread + received).split(b"\n")
        for line in lines:
            self._fork(json.loads(line))

    def _fork(self, request: dict[str, Any]) -> None:
        report, report_end = os.pipe()
        parent_pid = os.getpid()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                self._forget()
                code = program.live(request, home=self.home, report=report_end, parent_pid=parent_pid, life=self.life)
            finally:
                os._exit(code)
        os.close(report_end)
        self.children[pid] = Child(request["id"], report)
        self.tell(tell="forked", id=request["id"], pid=pid)

    def _forget(self) -> None:
        """In the child: let go of what belongs to the nursery."""
        self.channel.close()
        os.close(self._life_end)
        for child in self.children.values():
            os.close(child.report)

    def _pass_on(self, child: Child) -> bool:
        """Hand one piece of a child's report to the supervisor; whether there was any."""
        received = os.read(child.report, 65_536)
        *lines, child.unread = (child.unread + received).split(b"\n")
        for line in lines:
            said = json.loads(line)
            self.tell(tell="ready" if "ready" in said else "error", id=child.id, error=said.get("error"))
        return bool(received)

    def _reap(self) -> None:
        while self.children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            child = self.children.pop(pid, None)
            if child is None:
                continue
            os.set_blocking(child.report, False)
            try:
                while self._pass_on(child):
                    pass
            except BlockingIOError:
                pass  # a grandchild still holds the pipe
            os.close(child.report)
            self.tell(tell="ended", id=child.id, code=os.waitstatus_to_exitcode(status))

    def _leave(self) -> None:
        for pid in self.children:
            process.send(pid, signal.SIGKILL)
        os._exit(0)


@contextmanager
def _absent(names: list[str]) -> Iterator[None]:
    """Modules that are not installed for who reads them here; a child that wants one can have it."""
    hidden = [name for name in names if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def _import(name: str) -> None:
    """Reading ahead only saves time: a module that cannot be read fails the program that needs it, with the reason."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            traceback.print_exc()
    except Exception:
        traceback.print_exc()


def _discover(package: str) -> tuple[list[str], dict[str, str]]:
    """The modules of a package that hold a `daemon`, and those that cannot be read, with the reason."""
    daemons: list[str] = []
    broken: dict[str, str] = {}
    for found in pkgutil.iter_modules(importlib.import_module(package).__path__):
        try:
            module = importlib.import_module(f"{package}.{found.name}")
        except Exception as error:
            traceback.print_exc()
            broken[found.name] = f"{type(error).__name__}: {error}"
            continue
        if hasattr(module, "daemon"):
            daemons.append(found.name)
    return daemons, broken


def main() -> None:
    parser = argparse.ArgumentParser(prog="pasys.stack.nursery")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--channel", type=int, required=True)
    parser.add_argument("--without", action="append", default=[])
    parser.add_argument("--discover")
    parser.add_argument("modules", nargs="*")
    asked = parser.parse_args()
    process.rename("pasys nursery")
    nursery = Nursery(socket.socket(fileno=asked.channel), asked.home)
    try:
        nursery.load(asked.modules, without=asked.without, discover=asked.discover)
        while True:
            nursery.turn(timeout_s=None)
    except (BrokenPipeError, ConnectionResetError):
        sys.exit(0)  # the supervisor has gone


if __name__ == "__main__":
    main()
