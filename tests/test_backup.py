"""Backups of the embedded PostgreSQL and the archived WAL, on real servers: whole or not at all, and never silently."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pasys import config, errors
from pasys.cli.main import run
from pasys.stack import archive, backup, client, disk, process, restore, wal
from pasys.stack.doctor import doctor
from pasys.stack.supervisor import ARCHIVE_LATE_S
from tests import backup_kit, stack_kit
from tests.backup_kit import PASYS, cluster, pay, to_archive
from tests.stack_kit import ask, fill, until

home, programs, stack = stack_kit.home, stack_kit.programs, backup_kit.stack
small_disk = stack_kit.small_disk


def archived(home: Path) -> list[str]:
    return sorted(wal.segments(cluster(home) / "wal").values())


def test_the_archive_begins_with_the_first_backup(stack: Path) -> None:
    """Before it nothing is kept, and no disk fills; from its start on everything is, and after a restart still."""
    pay(stack, "a")
    ask(stack, "select pg_switch_wal()")
    until(lambda: ask(stack, "select archived_count from pg_stat_archiver") != 0, timeout_s=60)
    assert not (cluster(stack) / "wal").exists()
    assert "there is no backup" in said_by_the_doctor(stack)
    taken = backup.take(config.load(stack))
    begun = archived(stack)
    assert begun
    assert wal.number(begun[0]) * wal.SEGMENT_BYTES <= wal.position(taken.start_lsn)
    client.down(stack)
    client.up(stack)
    pay(stack, "b")
    to_archive(stack)
    assert not wal.gap(cluster(stack) / "wal", wal.Line.of(cluster(stack) / "wal"), behind=taken.start_lsn)
    assert "reaches the archive" in said_by_the_doctor(stack)


def said_by_the_doctor(home: Path) -> str:
    return next(found.says for found in doctor(home) if found.name == "archive")


def test_a_killed_backup_is_none(stack: Path) -> None:
    """kill -9 of the command in the middle: nothing is listed, its helper ends too, and the next one clears up."""
    settings = config.load(stack)
    command = subprocess.Popen([PASYS, "--home", stack, "backup"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: list((cluster(stack) / "base").glob("*.partial")), timeout_s=60)
    os.kill(command.pid, signal.SIGKILL)
    command.wait()
    helpers = lambda: [p for p in stack_kit.processes_of(stack) if "pg_basebackup" in process.command(p)]  # noqa: E731
    until(lambda: not helpers())
    assert not backup.listing(settings)
    assert list((cluster(stack) / "base").glob("*.partial"))
    taken = backup.take(settings)
    assert [one.id for one in backup.listing(settings)] == [taken.id]
    assert [path.name for path in (cluster(stack) / "base").iterdir()] == [taken.id]


def test_damage_is_found(stack: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A flipped byte in a backup is named by the list, and nothing is restored from it."""
    taken = backup.take(config.load(stack))
    with (Path(taken.path) / "global" / "pg_filenode.map").open("r+b") as file:
        byte = file.read(1)
        file.seek(0)
        file.write(bytes([byte[0] ^ 1]))
    assert run(["--home", str(stack), "backup", "--list", "--json"]) == 0
    assert "pg_filenode.map" in json.loads(capsys.readouterr().out)["backups"][0]["damage"]
    with pytest.raises(errors.BackupDamaged), restore.drilling(config.load(stack), None):
        pass


def test_only_the_newest_are_kept(stack: Path) -> None:
    """Older backups go, with the WAL that nobody else needs; what is left can be restored. The last one never goes."""
    settings = config.load(stack)
    taken = []
    for name in ("a", "b", "c"):
        taken.append(backup.take(settings))
        pay(stack, name)
        to_archive(stack)
    assert [one.id for one in backup.prune(settings, keep=3)] == []
    assert [one.id for one in backup.prune(settings, keep=2)] == [taken[0].id]
    first = wal.position(taken[1].start_lsn) // wal.SEGMENT_BYTES
    assert wal.number(archived(stack)[0]) == first
    (Path(taken[2].path) / "PG_VERSION").write_text("17\n", encoding="ascii")
    assert [one.id for one in backup.prune(settings, keep=2)] == []  # only one of them is any good
    assert [one.id for one in backup.prune(settings, keep=1)] == []  # and it is the older one
    with restore.drilling(settings, taken[2].started_at) as restored, backup_kit.connected(restored) as connection:
        assert restored.backup.id == taken[1].id
        assert backup_kit.names(connection) == "a b"


def test_keeping_none_is_refused(stack: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--keep 0 is a mistake, and so is --keep with --list; neither takes a backup."""
    assert run(["--home", str(stack), "backup", "--keep", "0", "--json"]) == 2
    assert run(["--home", str(stack), "backup", "--list", "--keep", "3", "--json"]) == 2
    assert not (cluster(stack) / "base").exists()
    capsys.readouterr()


def test_an_archive_that_refuses_is_seen(stack: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With its folder gone, status and doctor say so, payments go on, no WAL is lost; back again, all is well."""
    taken = backup.take(config.load(stack))
    folder = cluster(stack)
    (folder / "wal").rename(folder / "aside")
    pay(stack, "a")
    held = str(ask(stack, "select pg_walfile_name(pg_switch_wal())"))
    until(lambda: any(found.name == "archive" and not found.ok for found in doctor(stack)), timeout_s=60)
    waits = stack / "data" / "postgres" / "pg_wal" / "archive_status" / f"{held}.ready"
    os.utime(waits, (closed := waits.stat().st_mtime - ARCHIVE_LATE_S, closed))  # as if it had waited for so long
    until(lambda: client.status(stack).warning is not None, timeout_s=60)
    assert run(["--home", str(stack), "status", "--json"]) == 7
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "archive_behind"
    assert client.up(stack).already_running  # it is no reason not to work
    with pytest.raises(errors.BackupFailed, match="is gone"):  # and nobody begins another one on the wrong disk
        backup.take(config.load(stack))
    pay(stack, "b")
    (folder / "aside").rename(folder / "wal")
    to_archive(stack)  # a new segment wakes the archiver, which else tries once a minute
    assert (folder / "wal" / held).exists()
    until(lambda: client.status(stack).healthy, timeout_s=60)
    assert not wal.gap(folder / "wal", wal.Line.of(folder / "wal"), behind=taken.start_lsn)


@pytest.mark.slow
def test_a_full_archive_stops_nothing(home: Path, small_disk: Path) -> None:
    """Its disk is full: the state says so, the home's disk is not blamed, payments go on; with room nothing is lost."""
    home.mkdir()
    (home / "pasys.toml").write_text(f"backup_dir = {json.dumps(str(small_disk))}\n", encoding="utf-8")
    client.up(home)
    ask(home, "create table paid (name text)")
    taken = backup.take(config.load(home))
    fill(small_disk / "filler")
    until(lambda: disk.free(small_disk) == 0)
    pay(home, "a")
    bus = stack_kit.pid_of(home, "nats")
    held = str(ask(home, "select pg_walfile_name(pg_switch_wal())"))
    until(
        lambda: (warning := client.status(home).warning) is not None and warning.name == "ArchiveBehind", timeout_s=120
    )
    assert client.status(home).trouble is None
    with pytest.raises(errors.BackupFailed, match="does not reach"):
        backup.take(config.load(home))
    pay(home, "b")
    (small_disk / "filler").unlink()
    to_archive(home)
    assert (cluster(home) / "wal" / held).exists()
    until(lambda: client.status(home).healthy, timeout_s=60)
    assert stack_kit.pid_of(home, "nats") == bus  # nobody took it for the home's disk
    folder = cluster(home) / "wal"
    assert not wal.gap(folder, wal.Line.of(folder), behind=taken.start_lsn)
    client.down(home)


def test_a_full_archive_is_not_taken_for_a_full_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What it says of its own disk into PostgreSQL's log is no sign that the data's disk is full; it leaves nothing."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    segment, folder = tmp_path / "0001", tmp_path / "wal"
    folder.mkdir()
    segment.write_bytes(b"WAL")
    monkeypatch.setattr(os, "fsync", full)
    assert archive._main(["keep", str(segment), str(folder)]) == 1
    said = capfd.readouterr().err
    assert "full" in said
    assert not any(sign.decode() in said for sign in disk.SIGNS)
    assert not (folder / "0001").exists()


def test_a_segment_is_archived_once(tmp_path: Path) -> None:
    """The same contents again are fine; others under the same name are refused and change nothing."""
    segment, folder = tmp_path / "0001", tmp_path / "wal"
    folder.mkdir()
    segment.write_bytes(b"WAL" + bytes(4096))
    for _ in range(2):
        archive.keep(str(segment), str(folder))
    assert (folder / "0001").read_bytes() == segment.read_bytes()
    segment.write_bytes(b"another")
    with pytest.raises(FileExistsError):
        archive.keep(str(segment), str(folder))
    assert (folder / "0001").read_bytes().startswith(b"WAL")
    assert [path.name for path in folder.iterdir()] == ["0001"]


def test_a_segment_that_cannot_be_read_is_not_the_end(tmp_path: Path) -> None:
    """Fetching what is there and cannot be read ends a recovery; only what nobody has is the end of the WAL."""
    (tmp_path / "0001").mkdir()  # to read it fails, for root too
    words = ["fetch", "0001", str(tmp_path / "target"), str(tmp_path)]
    assert archive._main(words) > 125
    assert archive._main(["fetch", "0002", *words[2:]]) == 1


@pytest.mark.parametrize("words", [["backup"], ["backup", "--list"], ["restore", "--drill"], ["restore", "--yes"]])
def test_a_server_of_ones_own_is_left_alone(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With DATABASE_URL set each command refuses, and names what to use."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert run(["--home", str(tmp_path), *words, "--json"]) == 6
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "backup_not_ours" and "pgBackRest" in error["fix"]
