"""What is wrong with this machine and this home, each fault with what cures it. It changes nothing."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pasys import config
from pasys.config import Settings
from pasys.errors import PasysError
from pasys.stack import client, disk, identity, locate, plan, ports
from pasys.stack.home import SOCKET_NAME_MAX, SOCKET_PATH_MAX, Home, read_json
from pasys.stack.postgres import ARCHIVED

PYTHON_MIN = (3, 11)
SPACE_WANTED_BYTES = 1024 * disk.MIB
CLOCK_EARLIEST = 1_767_225_600  # 2026-01-01: a clock before this code was written is wrong


@dataclass(frozen=True, slots=True)
class Finding:
    """`says` is one sentence about what was found; `fix` is empty where it is as it should be."""

    name: str
    ok: bool
    says: str
    fix: str = ""


def doctor(home: Path) -> list[Finding]:
    """Every check, in the order in which a fault would show."""
    place = Home(home.absolute())
    findings = [_python(), *_home(place), _space(place), *_replaced(place), _clock(), _socket_length(place)]
    try:
        operator = config.load(place.root, recorded=False)
    except PasysError as error:
        return [*findings, Finding("settings", False, str(error), error.advice)]
    findings += [Finding("settings", True, "pasys.toml and the environment are valid")]
    findings += _binaries(operator)
    status = client.status(place.root)
    findings += _ports(place, operator, running=status.running)
    if not status.running:
        return [*findings, Finding("stack", True, "nothing is running; `pasys up -d` starts it")]
    findings += [_service(place, state) for state in status.services]
    findings += [] if any(not finding.ok for finding in findings) else _database(place)
    return findings if operator.database_url else [*findings, *_archive(place, operator)]


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    ok = sys.version_info >= PYTHON_MIN
    return Finding("python", ok, f"Python {found}", "" if ok else "Install Python 3.11 or newer.")


def _home(place: Home) -> Iterator[Finding]:
    above = next(folder for folder in (place.root, *place.root.parents) if folder.exists())
    if not os.access(above, os.W_OK | os.X_OK):
        fix = f"Give yourself {above}, or choose another home with --home."
        yield Finding("home", False, f"{place.root} is not writable", fix)
        return
    mode = place.root.stat().st_mode & 0o777 if place.root.exists() else 0o700
    if mode & 0o022:
        says = f"{place.root} has mode {mode:o}: others could replace what is in it"
        yield Finding("home", False, says, f"chmod 700 '{place.root}'")
    else:
        yield Finding("home", True, f"{place.root} has mode {mode:o}")
    for folder in (place.data, place.secrets, place.run, place.logs):
        if folder.exists() and folder.stat().st_mode & 0o077:
            yield Finding("home", False, f"{folder} can be read by others", f"chmod 700 '{folder}'")


def _space(place: Home) -> Finding:
    free = disk.free(place.root)
    says = f"{disk.words(free)} free at {place.root}"
    if free < SPACE_WANTED_BYTES:
        fix = f"Free some space: {disk.words(SPACE_WANTED_BYTES)} is the least for calm work."
        return Finding("disk", False, says, fix)
    return Finding("disk", True, says)


def _replaced(place: Home) -> Iterator[Finding]:
    for folder in sorted(place.data.glob("postgres.before-*")):
        yield Finding("disk", True, f"{folder} is what a restore replaced; delete it when nobody needs it any more")


def _clock() -> Finding:
    now = time.time()
    ok = now > CLOCK_EARLIEST
    says = time.strftime("the clock says %Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    return Finding("clock", ok, says, "" if ok else "Set the clock: `timedatectl set-ntp true`.")


def _socket_length(place: Home) -> Finding:
    length = len(os.fsencode(place.run)) + SOCKET_NAME_MAX
    if length <= SOCKET_PATH_MAX:
        return Finding("sockets", True, f"sockets lie in {place.run}")
    return Finding("sockets", True, f"{place.run} is too long for a socket; a short private folder is used instead")


def _binaries(operator: Settings) -> Iterator[Finding]:
    finders: dict[str, Callable[[], Path]] = {"postgres": locate.postgres, "nats": locate.nats, "redis": locate.valkey}
    for name, find in finders.items():
        if getattr(operator, plan.EXTERNAL_FIELDS[name]) is not None:
            yield Finding(f"{name} binary", True, "not needed: the address of your own is set")
            continue
        try:
            yield Finding(f"{name} binary", True, str(find()))
        except PasysError as error:
            yield Finding(f"{name} binary", False, str(error), error.advice)
    if operator.database_url is None:
        try:
            identity.accepted()
        except PasysError as error:
            fix = "Run pasys as an ordinary user, or set DATABASE_URL to a server of your own."
            yield Finding("postgres user", False, str(error), fix)


def _ports(place: Home, operator: Settings, *, running: bool) -> Iterator[Finding]:
    if running:
        return
    remembered = read_json(place.secrets / "ports.json")
    for name, port in operator.ports.items():
        if not ports.is_free(port):
            fix = f"Stop that process, or choose another port in pasys.toml: [ports] {name} = …"
            yield Finding("port", False, f"port {port} for {name} is taken by {ports.holder(port)}", fix)
    for name, port in remembered.items():
        if name not in operator.ports and not ports.is_free(port):
            says = f"the last port of {name}, {port}, is taken by {ports.holder(port)}; the next start chooses another"
            yield Finding("port", True, says)


def _service(place: Home, state: client.ServiceState) -> Finding:
    if state.healthy:
        return Finding(state.name, True, f"{state.state}")
    says = f"{state.state}" + (f": {state.last_error}" if state.last_error else "")
    said = client.tail(place.root, state.name, lines=1)
    fix = f"`pasys logs {state.name}` shows why" + (f" (its last line: {said[:120]})" if said else "") + "; "
    return Finding(state.name, False, says, f"{fix}then `pasys restart {state.name}`.")


def _database(place: Home) -> Iterator[Finding]:
    from pasys import migration

    try:
        settings = config.load(place.root)
        migration.check(settings)
    except PasysError as error:
        yield Finding("schema", False, str(error), error.advice)
        return
    yield Finding("schema", True, f"at revision {migration.HEAD}")
    try:
        yield rights(settings)
    except PasysError as error:
        yield Finding("rights", False, str(error), error.advice)


_MAY_CHANGE = """
select c.relname from pg_class c
 where exists (select from pg_trigger t where t.tgrelid = c.oid and t.tgfoid = 'refuse_change'::regproc)
   and has_table_privilege('pasys_app', c.oid, 'update, delete, truncate')
"""
_OPEN_TO_ALL = """
select proname from pg_proc, aclexplode(coalesce(proacl, acldefault('f', proowner))) a
 where prosecdef and grantee = 0 and proname like 'ledger\\_partition\\_%'
"""


def rights(settings: Settings) -> Finding:
    """Whether those who work on the books have a right to change what is append-only. Raises DatabaseUnavailable."""
    from pasys import migration
    from pasys.driver import AS_APP

    fix = "Have the owner of pasys's tables run `select grant_app()`."
    with migration.asking(settings) as connection:
        if connection.execute(_OPEN_TO_ALL.encode()).fetchone():
            return Finding("rights", False, "anybody may begin partitions of the journal", fix)
        if not connection.execute(AS_APP.encode()).fetchone():
            says = "what is append-only is kept so by triggers alone; the README says how by grant"
            return Finding("rights", True, says)
        if connection.execute(_MAY_CHANGE.encode()).fetchone():
            return Finding("rights", False, "pasys_app has a right to change what is append-only", fix)
    return Finding("rights", True, "daemons and commands work as pasys_app, which has no right to change the books")


def _archive(place: Home, operator: Settings) -> Iterator[Finding]:
    """Whether the WAL reaches the archive. While it does not, PostgreSQL keeps it, and its disk fills."""
    import psycopg

    if not (place.data / "postgres" / ARCHIVED).exists():
        yield Finding("archive", True, "there is no backup; `pasys backup` takes the first, and begins the archive")
        return
    asked = """select last_failed_wal from pg_stat_archiver
                where last_failed_time > coalesce(last_archived_time, '-infinity')"""
    try:
        url = config.load(place.root).require("database_url")
        with psycopg.connect(url, connect_timeout=5, autocommit=True) as connection:
            failed = connection.execute(asked).fetchone()
    except (psycopg.OperationalError, PasysError):
        return  # that PostgreSQL is down has been said
    folder = operator.backups_path
    if failed is None:
        says = f"the WAL reaches the archive in {folder}"
        yield Finding("archive", True, f"{says}, {disk.words(disk.free(folder))} free")
        return
    fix = f"Make room in {folder}, and make it writable; `pasys logs postgres` says what failed ({failed[0]})."
    yield Finding("archive", False, "the WAL does not reach the archive, and is kept beside the data meanwhile", fix)
