"""The machine room heals after any kill, and after a disk that was full. Every server here is real."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import psycopg
import pytest

from pasys import errors
from pasys.stack import client, process
from pasys.stack.doctor import doctor
from pasys.stack.home import Home
from pasys.stack.postgres import Postgres
from pasys.stack.server import until_ready
from pasys.stack.servers import running_servers
from tests import stack_kit
from tests.stack_kit import STAY, ask, fill, pid_of, processes_of, states, supervisor_pid, until

home, programs, small_disk = stack_kit.home, stack_kit.programs, stack_kit.small_disk


# After a kill --------------------------------------------------------------------------------------------------------


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
    assert client.up(home).already_running is False
    assert ask(home, "select n from kept") == 1
    pids = {state.pid for state in states(home).values()}
    assert len([pid for pid in processes_of(home) if pid in pids]) == len(pids - {None})
    os.kill(supervisor_pid(home), signal.SIGKILL)
    until(lambda: not processes_of(home))


def test_a_supervisor_that_says_nothing_is_waited_for_until_it_ends(home: Path) -> None:
    """A killed process is there until the kernel has time for it. What it wrote down says that all is well."""
    client.up(home)
    last = supervisor_pid(home)
    os.kill(last, signal.SIGSTOP)
    with pytest.raises(errors.ServiceFailed, match=f"pid {last}"):
        client.up(home, timeout_s=1)
    with ThreadPoolExecutor() as pool:
        coming = pool.submit(client.up, home)
        assert not wait([coming], timeout=2).done
        os.kill(last, signal.SIGKILL)
        assert coming.result().already_running is False
    assert client.status(home).healthy
    assert supervisor_pid(home) != last


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


# With a full disk ----------------------------------------------------------------------------------------------------


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
