"""The one process that owns a running home: it starts everything in order, keeps it alive, and stops it in order.

Run as `python -m pasys.stack.supervisor --home H [--only a,b]`. It imports no driver and no daemon; what is heavy lives
in the servers and in the children of the nursery.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import os
import signal
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from pasys import __version__, config
from pasys.config import Settings
from pasys.errors import ArchiveBehind, PasysError, ServiceNotFound
from pasys.stack import control, external, plan, process, restore, wal
from pasys.stack.disk import LOW_BYTES, ROOM_BYTES, Disk, rotate
from pasys.stack.home import Home, take_lock, write_private
from pasys.stack.nats import Nats
from pasys.stack.nurse import Nurse
from pasys.stack.plan import NURSERY, Program
from pasys.stack.postgres import Postgres
from pasys.stack.recovery import words
from pasys.stack.runner import ExternalRunner, NurseryRunner, ProgramRunner, Runner, ServerRunner
from pasys.stack.server import Server
from pasys.stack.service import Service
from pasys.stack.state import Kind, StackStatus, SupervisorState, Trouble, encode
from pasys.stack.valkey import Valkey

WATCH_EVERY_S = 0.5
ROTATE_EVERY_S = 10.0
ARCHIVE_LATE_S = 30.0  # PostgreSQL tries three times, a second apart, and then once a minute
EXIT_TROUBLE = 7
RANK = {"daemon": 0, "face": 1, "program": 2, "nursery": 3, "server": 4}


class Supervisor:
    def __init__(self, home: Home, *, only: list[str] | None) -> None:
        self.home = home
        self.only = only
        self.services: dict[str, Service] = {}
        self.trouble: PasysError | None = None
        self.warning: ArchiveBehind | None = None
        self.nurse = Nurse(home, bare=plan.test_programs() is not None)
        self.disk = Disk(home)
        self.disk_was_full = False
        self.servers: dict[str, Server] = {}
        self.over, self.hurry = asyncio.Event(), asyncio.Event()
        pid = os.getpid()
        self.self_state = SupervisorState(pid, datetime.now(UTC), __version__, process.birth(pid))
        self._unpublished = False

    # What it says ----------------------------------------------------------------------------------------------------

    @property
    def status(self) -> StackStatus:
        trouble = Trouble.of(self.trouble) if self.trouble else None
        warning = Trouble.of(self.warning) if self.warning else None
        services = [service.state for service in self.services.values()]
        return StackStatus(True, self.self_state, services, trouble, warning, stopping=self.over.is_set())

    def changed(self) -> None:
        """Publish the state once per turn of the loop."""
        if not self._unpublished:
            self._unpublished = True
            asyncio.get_running_loop().call_soon(self.publish)

    def publish(self) -> None:
        self._unpublished = False
        with suppress(OSError):  # on a full disk the control socket still tells
            write_private(self.home.state, encode(self.status))

    def fatal(self, error: PasysError) -> None:
        """Give up: what is wrong will not pass by itself."""
        self.trouble = error
        self.over.set()

    # What it runs ----------------------------------------------------------------------------------------------------

    def plan_servers(self, operator: Settings, port_of: dict[str, int]) -> None:
        """The three servers, embedded or the operator's own, and the nursery."""
        probes = {"postgres": external.postgres, "nats": external.nats, "redis": external.redis}
        for name, probe in probes.items():
            if (url := getattr(operator, plan.EXTERNAL_FIELDS[name])) is not None:
                self._add(name, "server", ExternalRunner(lambda probe=probe, url=url: probe(url)), needs=())
                continue
            server = self._server(name, port_of.get(name), operator.backups_path)
            self.servers[name] = server
            before_start = self._make_room if name == "postgres" else lambda: None
            self._add(name, "server", ServerRunner(server, before_start=before_start), needs=())
        self._add(NURSERY, "program", NurseryRunner(self.nurse), needs=())

    def _server(self, name: str, port: int | None, backups: Path) -> Server:
        if name == "postgres":
            return Postgres(self.home, port=port, backups=backups)
        assert port is not None
        return Nats(self.home, port=port) if name == "nats" else Valkey(self.home, port=port)

    def add_programs(self, programs: list[Program]) -> None:
        for program in programs:
            needs = program.needs if program.early else (*program.needs, NURSERY)
            self._add(program.name, program.kind, ProgramRunner(program, self.nurse), needs=needs, once=program.once)

    def _add(self, name: str, kind: Kind, runner: Runner, *, needs: tuple[str, ...], once: bool = False) -> None:
        self.services[name] = Service(
            name,
            kind,
            runner,
            needs=[self.services[needed] for needed in needs],
            rank=RANK["nursery" if name == NURSERY else kind],
            changed=self.changed,
            fatal=self.fatal,
            once=once,
        )

    async def run(self) -> int:
        """Start everything and keep it alive until told to stop; the exit code."""
        operator = config.load(self.home.root, recorded=False)
        restore.finish(self.home, operator.backups_path)
        self.disk.check(first=not (self.home.data / "postgres").exists())
        port_of = plan.choose_ports(self.home, operator)
        self.plan_servers(operator, port_of)
        urls = {plan.EXTERNAL_FIELDS[name]: server.url for name, server in self.servers.items()}
        recorded = plan.endpoints(self.home, operator, port_of=port_of, urls=urls)
        write_private(self.home.endpoints, msgspec.json.encode(recorded))
        fixed = plan.test_programs()
        if fixed is None:
            fixed = plan.fixed_programs(self.home, config.load(self.home.root), port_of=port_of)
        self.add_programs(fixed)
        listening = await control.serve(self.home.sockets() / "control.sock", self.answer)
        self.nurse.left_out = plan.left_out(operator)
        self.nurse.on_loaded = lambda: self.hire(operator.copies)
        self.want_fixed()
        watching = asyncio.create_task(self.watch())
        await self.over.wait()
        watching.cancel()
        await self.leave()
        listening.close()
        return EXIT_TROUBLE if self.trouble else 0

    def want_fixed(self) -> None:
        """Start what is known before the nursery has named the daemons."""
        known = self._chosen(strict=False)
        unknown = self.only is not None and any(not self._knows(name) for name in self.only)
        for name, service in sorted(self.services.items(), key=lambda item: item[0] != NURSERY):  # it takes longest
            if name in known or (unknown and name in (*plan.SERVERS, NURSERY, "migrate")):
                service.want()
        self.changed()

    def _knows(self, name: str) -> bool:
        with suppress(ServiceNotFound):
            return bool(plan.named(list(self.services), name))
        return False

    def _chosen(self, *, strict: bool) -> set[str]:
        needs_of = {name: tuple(other.name for other in service.needs) for name, service in self.services.items()}
        only = self.only
        if only is not None and not strict:
            only = [name for name in only if self._knows(name)]
        return plan.selected(needs_of, only)

    def hire(self, copies: dict[str, int]) -> None:
        """The nursery has named the daemons: start them."""
        names = sorted({*self.nurse.daemons, *self.nurse.broken})
        programs = plan.daemon_programs(names, copies)
        self.add_programs([program for program in programs if program.name not in self.services])
        try:
            chosen = self._chosen(strict=True)
        except ServiceNotFound as error:
            return self.fatal(error)
        for name in chosen:
            self.services[name].want()
        self.changed()

    # How it ends -----------------------------------------------------------------------------------------------------

    def told_to_stop(self) -> None:
        """The first signal asks for an orderly stop, the second for a quick one."""
        (self.hurry if self.over.is_set() else self.over).set()

    async def leave(self) -> None:
        """Stop by rank: daemons drain first, then faces, then programs, and the servers last."""
        for rank in sorted({service.rank for service in self.services.values()}):
            stopping = [service for service in self.services.values() if service.rank == rank]
            await asyncio.gather(*(service.stop(self.hurry) for service in stopping))
        self.publish()
        self.home.endpoints.unlink(missing_ok=True)  # so that nobody knocks at a server that is not there

    # What it is asked ------------------------------------------------------------------------------------------------

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        match request["do"]:
            case "status":
                return {"state": msgspec.to_builtins(self.status)}
            case "up":
                self.want_again(request.get("only"))
            case "stop" if "name" not in request:
                self.over.set()
            case "stop":
                await asyncio.gather(*(self.services[name].stop() for name in self._named(request["name"])))
            case "start":
                for name in self._named(request["name"]):
                    self.services[name].want()
            case "restart":
                names = self._named(request["name"])
                await asyncio.gather(*(self.services[name].stop() for name in names))
                for name in names:
                    self.services[name].want()
        return {}

    def _named(self, name: str) -> list[str]:
        return plan.named(list(self.services), name)

    def want_again(self, only: list[str] | None) -> None:
        """A second `up`: start what was stopped, and retry at once what pauses."""
        needs_of = {name: tuple(other.name for other in service.needs) for name, service in self.services.items()}
        for name in plan.selected(needs_of, only if only is not None else self.only):
            self.services[name].want()

    # What it watches -------------------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Look after the disk, the logs and the archive."""
        rotate_in_s = 0.0
        while True:
            await self._watch_disk()
            if (rotate_in_s := rotate_in_s - WATCH_EVERY_S) <= 0:
                rotate_in_s = ROTATE_EVERY_S
                for log in self.home.logs.glob("*.log"):
                    rotate(log)
                self._watch_archive()
            await asyncio.sleep(WATCH_EVERY_S)

    def _make_room(self) -> None:
        """PostgreSQL needs room even to recover."""
        if self.disk.free < LOW_BYTES:
            self.disk.release()

    async def _watch_disk(self) -> None:
        complaining = [name for name in ("postgres", "nats") if name in self.servers and self.disk.complains(name)]
        if complaining or self.disk.free < LOW_BYTES:
            self._disk_is_full(complaining)
        elif self.disk_was_full and self.disk.free > ROOM_BYTES:
            await self._disk_has_room()
        elif not self.disk_was_full and self.disk.keep_ballast() and self.trouble and not self.over.is_set():
            self.trouble = None
            self.changed()

    def _watch_archive(self) -> None:
        """What PostgreSQL cannot archive it keeps: nothing is lost, until its disk is full."""
        if not isinstance(server := self.servers.get("postgres"), Postgres) or server.backups is None:
            return
        since = wal.waiting_since(server.data)
        behind = since is not None and (datetime.now(UTC) - since).total_seconds() > ARCHIVE_LATE_S
        if behind and since is not None and (self.warning is None or self.warning.facts["since"] != words(since)):
            self.warning = ArchiveBehind(folder=str(server.backups), since=words(since))
            self.changed()
        elif not behind and self.warning is not None:
            self.warning = None
            self.changed()

    def _disk_is_full(self, complaining: list[str]) -> None:
        self.disk_was_full = True
        error = self.disk.error()
        if self.trouble is None:
            self.trouble = error
            self.changed()
        for name in self.servers:
            if name != "redis":
                self.services[name].note(f"disk full: {error}")
        if "postgres" in complaining:
            self.disk.release()

    async def _disk_has_room(self) -> None:
        """NATS stays stuck on a stream whose write failed until it is started again."""
        self.disk_was_full = False
        for name in self.servers:
            self.services[name].note(None)
        if "nats" in self.servers and self.services["nats"].wanted:
            await self.services["nats"].stop()
            self.services["nats"].want()
        if "postgres" in self.servers and self.services["postgres"].wanted:
            self.services["postgres"].want()


async def _run(home: Home, only: list[str] | None) -> int:
    supervisor = Supervisor(home, only=only)
    loop = asyncio.get_running_loop()
    for caught in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(caught, supervisor.told_to_stop)
    try:
        return await supervisor.run()
    except PasysError as error:
        supervisor.trouble = error
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        supervisor.trouble = supervisor.disk.error()
    await supervisor.leave()
    print(supervisor.trouble, file=sys.stderr)
    return EXIT_TROUBLE


def main() -> None:
    parser = argparse.ArgumentParser(prog="pasys.stack.supervisor")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--only", type=lambda text: text.split(","))
    asked = parser.parse_args()
    process.rename("pasys supervisor")
    home = Home(asked.home.absolute())
    try:
        home.create()
        lock = take_lock(home.lock, home=home.root)
    except PasysError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    code = asyncio.run(_run(home, asked.only))
    os.close(lock)
    sys.exit(code)


if __name__ == "__main__":
    main()
