"""Restores of the embedded PostgreSQL, on real servers: what was acknowledged comes back, and only that."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from pasys import config, errors
from pasys.cli.main import run
from pasys.stack import backup, client, restore
from tests import backup_kit, stack_kit
from tests.backup_kit import PASYS, cluster, connected, names, paid, pay, to_archive
from tests.stack_kit import ask, until

home, programs, stack = stack_kit.home, stack_kit.programs, backup_kit.stack


def restored_to(home: Path, to: datetime | None, *, timeline: int | None = None) -> restore.Restored:
    with restore.replacing(config.load(home), to, timeline=timeline) as restored:
        pass
    return restored


def test_a_time_between_two_payments_gives_exactly_the_first(stack: Path) -> None:
    """And again from the new timeline, with a backup taken on it: the archive goes on where the books do."""
    backup.take(config.load(stack))
    between = pay(stack, "a")
    pay(stack, "b")
    client.down(stack)
    bus = stack / "data" / "nats"
    assert any(bus.iterdir())
    restored = restored_to(stack, between)
    assert not bus.exists()  # what the bus knew of the lost future is gone
    assert restored.kept is not None and (Path(restored.kept) / "PG_VERSION").exists()
    client.up(stack)
    assert paid(stack) == "a"
    second = backup.take(config.load(stack))
    between = pay(stack, "c")
    pay(stack, "d")
    client.down(stack)
    restored = restored_to(stack, between)
    assert (restored.backup.id, second.timeline, restored.timeline) == (second.id, 2, 3)
    client.up(stack)
    assert paid(stack) == "a c"
    assert client.status(stack).healthy


def is_free(home: Path) -> bool:
    """Whether every process that held the home's lock is gone; its PostgreSQL is not among them."""
    with contextlib.suppress(errors.HomeInUse), restore.down(config.load(home)):
        return True
    return False


def test_without_a_time_everything_comes_back(stack: Path) -> None:
    """The last commit too, though the stack was killed before it was archived, and its server may still be closing.

    The same for a time behind it.
    """
    backup.take(config.load(stack))
    pay(stack, "a")
    os.kill(stack_kit.supervisor_pid(stack), signal.SIGKILL)
    until(lambda: is_free(stack))
    later = datetime.now(UTC)
    restored_to(stack, later)
    client.up(stack)
    assert paid(stack) == "a"
    pay(stack, "b")
    client.down(stack)
    restored_to(stack, None)
    client.up(stack)
    assert paid(stack) == "a b"


def test_what_an_earlier_restore_left_behind_is_reached_by_its_timeline(stack: Path) -> None:
    """Gone back too far: a time after that is refused with the timeline that has it, and restored from there."""
    backup.take(config.load(stack))
    first = pay(stack, "a")
    second = pay(stack, "b")
    pay(stack, "c")
    client.down(stack)
    restored_to(stack, first)
    client.up(stack)
    pay(stack, "d")
    client.down(stack)
    with pytest.raises(errors.TimeLeftBehind) as refused:
        restored_to(stack, second)
    assert "--timeline 1" in refused.value.advice
    assert restored_to(stack, second, timeline=1).timeline == 3
    client.up(stack)
    assert paid(stack) == "a b"
    client.down(stack)
    restored_to(stack, None, timeline=2)
    client.up(stack)
    assert paid(stack) == "a d"
    with pytest.raises(errors.InvalidInput):
        restore.choose(config.load(stack), None, timeline=9)


def test_a_drill_changes_nothing(stack: Path) -> None:
    """The copy holds what was archived, beside a server that goes on; nothing of it is left."""
    backup.take(config.load(stack))
    pay(stack, "a")
    to_archive(stack)
    with restore.drilling(config.load(stack), None) as restored, connected(restored) as connection:
        assert names(connection) == "a"
        pay(stack, "b")
    assert paid(stack) == "a b"
    assert not list((stack / "backups").glob("*/drill"))
    assert not list((stack / "backups").glob("*/wal/00000002*"))


def test_a_time_out_of_reach_is_refused_with_the_range(stack: Path) -> None:
    """Without a backup, before the first, in the future, and for a drill behind what was archived."""
    settings = config.load(stack)
    before = datetime.now(UTC)
    with pytest.raises(errors.NoBackup):
        restore.choose(settings, None)
    taken = backup.take(settings)
    for to in (before, datetime.now(UTC) + timedelta(hours=1)):
        with pytest.raises(errors.TimeOutOfReach) as refused:
            restore.choose(settings, to)
        assert refused.value.facts["first"] == restore.words(taken.ended_at)
    pay(stack, "a")
    to_archive(stack)
    last = pay(stack, "not archived")
    with pytest.raises(errors.TimeOutOfReach) as refused, restore.drilling(settings, last):
        pass
    assert restore.words(taken.ended_at) < refused.value.facts["last"] < restore.words(last)


def test_a_gap_in_the_archive_is_named(stack: Path) -> None:
    """A segment that is missing, and one that cannot be read to its end: neither passes for the end of the WAL."""
    settings = config.load(stack)
    backup.take(settings)
    closed = []
    for name in ("a", "b", "c"):
        pay(stack, name)
        closed.append(to_archive(stack))
    folder = cluster(stack) / "wal"
    (folder / closed[1]).rename(folder / "aside")
    with pytest.raises(errors.ArchiveGap, match=closed[1][8:]):
        restore.choose(settings, None)
    (folder / "aside").rename(folder / closed[1])
    with (folder / closed[2]).open("r+b") as file:  # the last one: behind it there is nothing that could be missed
        file.seek(40)
        file.write(bytes(64))
    with pytest.raises(errors.ArchiveGap, match=closed[2][8:]), restore.drilling(settings, None):
        pass


def test_a_lost_home_comes_back(stack: Path) -> None:
    """With nothing but the backups on another disk, a new home with other passwords has the books again."""
    backup.take(config.load(stack))
    pay(stack, "a")
    client.down(stack)  # what a stop has archived is all there is
    for lost in ("data", "secrets", "run", "logs"):
        shutil.rmtree(stack / lost)
    restored_to(stack, None)
    client.up(stack)
    assert paid(stack) == "a"
    backup.take(config.load(stack))  # and the archive goes on


def test_a_killed_restore_leaves_the_data_as_they_were(stack: Path) -> None:
    """kill -9 in the middle: `up` finds the old data, and clears the half-made copy away; the next restore works."""
    backup.take(config.load(stack))
    between = pay(stack, "a")
    pay(stack, "b")
    client.down(stack)
    words = [PASYS, "--home", stack, "restore", "--to", between.isoformat(), "--yes"]
    command = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    scratch = stack / "data" / "postgres.restoring"
    until(lambda: (scratch / "postmaster.pid").exists(), timeout_s=60)
    os.kill(command.pid, signal.SIGKILL)
    command.wait()
    client.up(stack)
    assert paid(stack) == "a b"
    assert not scratch.exists()
    client.down(stack)
    restored_to(stack, between)
    client.up(stack)
    assert paid(stack) == "a"


@pytest.mark.parametrize("old", ["still in its place", "moved aside"])
def test_a_restore_past_its_point_of_no_return_ends_at_the_next_start(stack: Path, old: str) -> None:
    """Killed between two renames, with a data folder in its place or without: `up` ends it; there is no new cluster."""
    pay(stack, "a")
    client.down(stack)
    data, restored = stack / "data" / "postgres", stack / "data" / "postgres.restored"
    past = restore.Past(2, datetime.now(UTC), None, str(stack / "data" / "postgres.before-1"))
    shutil.copytree(data, restored)
    (restored / restore.FACTS).write_bytes(msgspec.json.encode(past))
    (restored / restore.STAGED).mkdir()
    (restored / restore.STAGED / "00000002.history").write_text("1\t0/1\tfor a test\n", encoding="ascii")
    (restored / "mine").touch()
    if old == "moved aside":
        data.rename(past.kept)
    folder = backup.own_backups(stack / "backups", restored)
    folder.mkdir(parents=True)
    (folder / "wal").touch()  # in the way
    with pytest.raises(errors.RestoreUnfinished):
        client.up(stack)
    (folder / "wal").unlink()
    client.up(stack)
    assert paid(stack) == "a"
    assert (data / "mine").exists() and not (Path(past.kept) / "mine").exists()
    assert (cluster(stack) / "wal" / "00000002.history").exists()
    assert not (data / restore.FACTS).exists() and not (data / restore.STAGED).exists()


def test_a_restore_waits_for_the_stack_to_be_down(stack: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A running stack is named before anything is asked, and nothing is touched."""
    backup.take(config.load(stack))
    assert run(["--home", str(stack), "restore", "--yes", "--json"]) == 4
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["code"], error["facts"]["pid"]) == ("home_in_use", str(stack_kit.supervisor_pid(stack)))
    assert not list(stack.glob("data/postgres.*"))


def test_a_time_names_its_zone(stack: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same moment in another zone is the same restore; what is refused is said with a zone."""
    backup.take(config.load(stack))
    between = pay(stack, "a")
    pay(stack, "b")
    client.down(stack)
    words = between.astimezone(datetime.strptime("+0930", "%z").tzinfo).isoformat()
    assert run(["--home", str(stack), "restore", "--to", words, "--yes", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert datetime.fromisoformat(report["to"]) == between
    assert datetime.fromisoformat(report["recovered_to"]) < between
    client.up(stack)
    assert ask(stack, "select to_regclass('paid') is not null") is True
    assert paid(stack) == "a"
