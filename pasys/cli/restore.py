"""A restore from the command line: the home's books as they were at a time, or a drill that changes nothing."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pasys.cli.console import Noun, confirm, say, settings, show, show_refused
from pasys.cli.options import TABLE, Output, Yes, moment
from pasys.errors import BooksDoNotHold, DaemonsAtWork, DatabaseUnavailable, InvalidInput, SchemaOutdated

if TYPE_CHECKING:
    from pasys.config import Settings
    from pasys.db import Unit

app = Noun("restore", "The embedded database as it was at a time.")


@dataclass(frozen=True, slots=True)
class Seq:
    """How far an asset's journal goes in the restored copy, and in the running server (None where none runs)."""

    asset: str
    restored_seq: int
    live_seq: int | None


@dataclass(frozen=True, slots=True)
class Report:
    """`recovered_to` is the last commit in the copy. `recovery_point_s` is how much time is lost: since the first thing
    that the running server has and the copy has not, 0 where there is none; where no server runs, since that commit.

    `announced` events are handled again, by those that have not had them. `perhaps_asked` payments and refunds may have
    been at their PSP in the time that is lost. `kept` is where replaced data lie.
    """

    ok: bool
    drill: bool
    backup: str
    to: datetime | None
    timeline: int
    recovered_to: datetime
    recovery_point_s: float
    recovery_time_s: float
    verify_time_s: float
    transfers: int
    assets: list[Seq]
    announced: int
    perhaps_asked: int
    kept: str | None
    findings: list[Any]


@app.command(
    "restore",
    examples="pasys restore --drill\npasys restore --to 2026-01-31T12:00:00+01:00\npasys restore --to 10m --drill\n"
    "pasys restore --yes\npasys restore --elsewhere",
)
def restore(
    to: Annotated[str | None, typer.Option("--to", metavar="TIME", help="A time, or an age; else the end.")] = None,
    drill: Annotated[bool, typer.Option("--drill", help="Restore beside, verify, report; change nothing.")] = False,
    timeline: Annotated[
        int | None,
        typer.Option("--timeline", min=1, metavar="N", help="From what an earlier restore left behind; else the last."),
    ] = None,
    elsewhere: Annotated[
        bool, typer.Option("--elsewhere", help="DATABASE_URL was restored by other means: verify it, go on from there.")
    ] = False,
    yes: Yes = False,
    output: Output = TABLE,
) -> None:
    """Bring the embedded database back to a time, with its books verified. Exits 9 when they do not hold.

    The stack must be down, but for --drill. The old data stay beside, until you delete them. The bus is emptied, and
    gets again what was not handled yet; what the PSP may have done since is asked for, under the same keys.
    """
    import msgspec

    from pasys.stack import backup as backups
    from pasys.stack import restore as restores

    known = settings()
    if elsewhere:
        if drill or to or timeline:
            raise InvalidInput(field="elsewhere", reason="that restore is done; leave the other options out")
        return _elsewhere(known, yes=yes, output=output)
    backups.ours(known, verb="restore")
    until = moment(to, field="to") if to else None
    live = None
    if drill:
        live = _reach(known)
    else:
        chosen = restores.check(known, until, timeline=timeline)
        aim = until.astimezone().isoformat(sep=" ", timespec="seconds") if until else "the end of its WAL"
        confirm(f"Replace the database of {known.home} by backup {chosen.id}, brought up to {aim}?", yes)
    if output is TABLE:
        say("Restoring, then verifying the books. Nothing is replaced before.")
    began = datetime.now(UTC)
    doing = restores.drilling if drill else restores.replacing
    with doing(known, until, timeline=timeline) as restored:
        copy = msgspec.structs.replace(known, database_url=restored.url)
        report = _examined(copy, restored, to=until, drill=drill, began=began, live=live, origin=known)
        if not report.ok:
            show_refused(report, output, BooksDoNotHold(finding=str(report.findings[0])))
        if not drill:
            _let_go(known)
    show(report, output)
    if output is TABLE:
        say("The books hold in the copy." if drill else "The books hold, and are in their place.")
    if output is TABLE and report.kept:
        say(f"The old data lie in {report.kept}, until you delete them.")
    if output is TABLE and not drill:
        say("Next: `pasys up -d`; then `pasys reconcile run` names what the PSP did and these books do not know.")


@dataclass(frozen=True, slots=True)
class Adopted:
    """Books that were restored by other means: whether they hold, what is announced again and perhaps asked before."""

    ok: bool
    verify_time_s: float
    transfers: int
    announced: int
    perhaps_asked: int
    findings: list[Any]


def _elsewhere(known: Settings, *, yes: bool, output: Output) -> None:
    from pasys import config
    from pasys.cli import health
    from pasys.service import backup
    from pasys.stack import restore as restores

    if config.load(known.home_path, recorded=False).database_url is None:
        raise InvalidInput(
            field="elsewhere", reason="DATABASE_URL is not set, and pasys restores the embedded database"
        )
    with restores.down(known):
        if found := sorted({beat["name"] for beat in health.pulses(known)}):
            raise DaemonsAtWork(daemons=", ".join(found))
        confirm("Empty the bus, and go on from the database as it is?", yes)
        started = time.monotonic()
        _bring_up_to_date(known)
        books = _ask(known, backup.verified)
        verify_time_s = round(time.monotonic() - started, 3)
        if not books.ok:
            refused = Adopted(False, verify_time_s, books.transfers, 0, 0, books.findings)
            show_refused(refused, output, BooksDoNotHold(finding=str(books.findings[0])))
        resumed = _ask(known, lambda unit: backup.resume(unit, whole=False))
        _let_go(known)
        restores.empty_bus(known)
    counted = (resumed.announced, resumed.perhaps_asked)
    show(Adopted(True, verify_time_s, books.transfers, *counted, []), output)
    if output is TABLE:
        say("The books hold. Next: start the daemons; then `pasys reconcile run` names what these books do not know.")


def _examined(
    copy: Settings,
    restored: Any,
    *,
    to: datetime | None,
    drill: bool,
    began: datetime,
    live: Any,
    origin: Settings,
) -> Report:
    from pasys.service import backup

    started = time.monotonic()
    _bring_up_to_date(copy)
    found = _ask(copy, backup.verified)
    verify_time_s = time.monotonic() - started
    reached = _ask(copy, backup.reach)
    resumed = backup.Resumed(0, 0)
    if found.ok and not drill:
        resumed = _ask(copy, lambda unit: backup.resume(unit, whole=restored.whole))
    lost_since = restored.recovered_to
    if live is not None:
        lost_since = _ask(origin, lambda unit: backup.missing_since(unit, reached)) or began
    return Report(
        ok=found.ok,
        drill=drill,
        backup=restored.backup.id,
        to=to,
        timeline=restored.timeline,
        recovered_to=restored.recovered_to,
        recovery_point_s=round(max((began - lost_since).total_seconds(), 0.0), 3),
        recovery_time_s=round(restored.seconds, 3),
        verify_time_s=round(verify_time_s, 3),
        transfers=found.transfers,
        assets=[Seq(asset, seq, live.seqs.get(asset) if live else None) for asset, seq in reached.seqs.items()],
        announced=resumed.announced,
        perhaps_asked=resumed.perhaps_asked,
        kept=restored.kept,
        findings=found.findings,
    )


def _bring_up_to_date(copy: Settings) -> None:
    """The copy may be older than this version, as `up` would find it. Raises SchemaOutdated where it is newer."""
    from pasys import migration

    found = migration.current(copy)
    if found is not None and found > migration.HEAD:
        raise SchemaOutdated(found=found, wanted=migration.HEAD)
    migration.upgrade(copy)


def _reach(known: Settings) -> Any:
    """How far the running server's books go; None where none runs."""
    from pasys.service import backup

    if known.database_url is None:
        return None
    with suppress(DatabaseUnavailable):
        return _ask(known, backup.reach)


def _let_go(known: Settings) -> None:
    """Servers of the operator's own beside the embedded database must not bring back what it has lost."""
    import asyncio

    from pasys import config
    from pasys.service import backup

    asyncio.run(backup.forget_the_future(config.load(known.home_path, recorded=False)))


def _ask(known: Settings, question: Callable[[Unit], Awaitable[Any]]) -> Any:
    """One question to the database that the settings name."""
    import asyncio

    async def cross() -> Any:
        from pasys.db import Database

        database = Database(known)
        try:
            async with database.unit() as unit:
                return await question(unit)
        finally:
            await database.close()

    return asyncio.run(cross())
