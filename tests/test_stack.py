"""The machine room starts in order, stops in order, and leaves nothing behind. Every server here is real."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from pasys import config, errors
from pasys.stack import client, ports
from pasys.stack.doctor import doctor
from pasys.stack.home import SOCKET_PATH_MAX, Home
from pasys.stack.logs import logs
from pasys.stack.servers import running_servers
from tests import stack_kit
from tests.stack_kit import SERVERS, STAY, STAY_ON_SERVERS, ask, pid_of, processes_of, states, supervisor_pid

home, programs = stack_kit.home, stack_kit.programs


# Starting ------------------------------------------------------------------------------------------------------------


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
    logs = [log.read_text(encoding="utf-8") for log in (home / "logs").glob("*.log")]
    wrong = [line for text in logs for line in text.splitlines() if "FATAL" in line or "ERROR" in line]
    assert len(logs) >= 3 and not wrong, "a sound start is a quiet one"


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


def test_a_descriptor_that_closes_meanwhile_hides_no_holder() -> None:
    """The listing of a process's descriptors takes the lowest free one itself, and that one is gone when it is read."""
    below = os.open(os.devnull, os.O_RDONLY)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert taken.fileno() > below
        os.close(below)
        assert ports.holder(taken.getsockname()[1]).startswith(f"process {os.getpid()} ")


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


# Stopping ------------------------------------------------------------------------------------------------------------


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


def test_an_up_while_it_stops_waits_and_starts_it_anew(home: Path) -> None:
    """Nobody has to know how long `down` takes."""
    client.up(home)
    last = supervisor_pid(home)
    os.kill(last, signal.SIGTERM)
    assert client.up(home).already_running is False
    assert client.status(home).healthy
    assert supervisor_pid(home) != last


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
