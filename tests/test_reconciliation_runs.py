"""Runs read a statement to its end, whatever happens; and the whole way, from a real PSP process to the commands."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import json
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from daemons import reconciliation as daemon
from pasys.adapters import Page, open_psp
from pasys.adapters.instant import InstantPsp
from pasys.cli import main as cli
from pasys.config import PLAIN_VARIABLES, Settings
from pasys.db import Database
from pasys.errors import (
    BreakNotFound,
    InvalidInput,
    RunNotFound,
    UnknownRail,
)
from pasys.events import (
    ReconciliationFetched,
    ReconciliationRequested,
)
from pasys.service import reconciliation
from tests.reconciliation_world import NOW, PSP, SETTLED, World
from tests.simulator_process import KEY, Simulator, free_port
from tests.support import daemons, eventually, open_accounts, pay, until_status


@pytest.fixture
async def world(db) -> World:
    async with db.unit() as unit:
        await open_accounts(unit, assets=("USD", "JPY", "KWD"))
    return World(db)


async def test_a_window_is_judged_by_itself(world):
    """A run with `since` neither counts nor misses what was before it, or may have been."""
    await world.captured()
    world.now += timedelta(hours=1)
    await world.captured(under_way=timedelta(minutes=2))
    world.lines.clear()
    await world.captured()
    report, _ = await world.reconcile(since=world.now - timedelta(minutes=1))
    assert (report.lines, report.matched, report.breaks) == (1, 1, [])
    report, _ = await world.reconcile(after=2 * SETTLED)
    assert [found.kind for found in report.breaks] == ["missing_at_psp", "missing_at_psp"]


async def test_a_statement_is_judged_however_it_is_cut(world):
    """Pages are judged as they come; the last one completes the run, and a page of an ended run changes nothing."""
    for _ in range(7):
        await world.captured()
    report, said = await world.reconcile(pages=3)
    assert (report.lines, report.matched, report.breaks) == (7, 7, [])
    asked = [event for event in said if isinstance(event, ReconciliationRequested)]
    assert [event.cursor for event in asked] == ["page 0", "page 1"]
    event = ReconciliationFetched(
        asset="XXX", run_id=report.run_id, psp=PSP, since=NOW, until=NOW, lines=[], cursor=None
    )
    async with world.db.unit() as unit:
        assert await daemon.match(event, unit) == []


async def test_a_psp_without_a_statement_misses_nothing(world):
    """Where nothing is listed on principle, nothing is missing."""
    await world.captured()
    async with world.db.unit(now=world.now + SETTLED) as unit:
        row = await reconciliation.start(unit, PSP)
        event = ReconciliationFetched(
            asset="XXX", run_id=row.run_id, psp=PSP, since=NOW, until=row.until, lines=[], cursor=None, whole=False
        )
        await daemon.match(event, unit)
        assert (await reconciliation.run(unit, row.run_id)).breaks == []


async def test_a_run_that_cannot_be_read_fails_and_the_next_one_reads_the_same(world, settings):
    """A PSP that does not answer ends the run, and there is no watermark without a complete one."""
    nobody = f"http://127.0.0.1:{free_port()}"
    silent = open_psp("stripe", msgspec.structs.replace(settings, stripe_api_key=KEY, stripe_api_base=nobody))
    async with world.db.unit() as unit:
        row = await reconciliation.start(unit, PSP)
    asked = ReconciliationRequested(asset="XXX", run_id=row.run_id, psp=PSP, since=NOW, until=row.until)
    said: Any = await daemon.fetch(asked, silent)
    await silent.close()
    async with world.db.unit() as unit:
        await daemon.fail(said, unit)
        failed = await reconciliation.run_status(unit, row.run_id)
    assert failed.status == "failed" and "stripe did not answer" in (failed.reason or "")
    await world.captured()
    async with world.db.unit() as unit:
        (asked,) = await daemon.schedule(unit)
        assert asked.since == reconciliation.EPOCH


async def test_no_description_ends_a_run(world):
    """However long, and with characters that PostgreSQL does not keep: the line is stored and matched all the same."""
    await world.captured()
    world.change(0, description="\0 paid by \0 somebody " + "x" * 5_000)

    class Telling(InstantPsp):
        async def statement(self, **window: Any) -> Page:
            return Page(world.lines, None)

    async with world.db.unit(now=world.now + SETTLED) as unit:
        row = await reconciliation.start(unit, PSP)
    asked = ReconciliationRequested(
        asset="XXX", run_id=row.run_id, psp=PSP, since=reconciliation.EPOCH, until=row.until
    )
    said: Any = await daemon.fetch(asked, Telling())
    async with world.db.unit(now=world.now + SETTLED) as unit:
        await daemon.match(said, unit)
        report = await reconciliation.run(unit, row.run_id)
    assert (report.status, report.matched, report.breaks) == ("completed", 1, [])


async def test_a_schedule_starts_one_run_for_each_psp_that_was_used(world):
    """None while one is reading; from the watermark once one has completed; and a run that hangs is given up."""
    async with world.db.unit() as unit:
        assert await daemon.schedule(unit) == []
    await world.captured()
    async with world.db.unit(now=world.now) as unit:
        (first,) = await daemon.schedule(unit)
        assert (first.psp, first.since) == (PSP, reconciliation.EPOCH)
        assert await daemon.schedule(unit) == []
    async with world.db.unit(now=world.now + timedelta(hours=2)) as unit:
        (second,) = await daemon.schedule(unit)
        assert (await reconciliation.run_status(unit, first.run_id)).status == "failed"
        done = ReconciliationFetched(
            asset="XXX", run_id=second.run_id, psp=PSP, since=second.since, until=second.until, lines=[], cursor=None
        )
        await daemon.match(done, unit)
        (third,) = await daemon.schedule(unit)
        assert third.since == second.until - reconciliation.OVERLAP


async def test_what_means_nothing_is_refused(unit):
    """Unknown filters, PSPs, runs and breaks are errors by name, never empty answers."""
    for filters in ({"status": "BANANA"}, {"kind": "strange"}, {"limit": 0}):
        with pytest.raises(InvalidInput):
            await reconciliation.breaks(unit, **filters)
    with pytest.raises(InvalidInput):
        await reconciliation.listing(unit, status="BANANA")
    with pytest.raises(UnknownRail):
        await reconciliation.start(unit, "nobody")
    with pytest.raises(InvalidInput):
        await reconciliation.start(unit, PSP, since=NOW, until=NOW - timedelta(days=1))
    with pytest.raises(RunNotFound):
        await reconciliation.run(unit, "run_0")
    with pytest.raises(BreakNotFound):
        await reconciliation.resolve(unit, "brk_0")


def test_the_docstring_shows_the_wiring():
    """What the daemon's docstring draws is what its signatures say."""
    lines = [line.strip() for line in (daemon.__doc__ or "").splitlines()]
    assert all(drawn in lines for drawn in daemon.daemon.picture())


# The whole way -------------------------------------------------------------------------------------------------------


@pytest.fixture
def simulator(tmp_path):
    running = Simulator(tmp_path / "psp")
    yield running
    running.stop()


async def _run(db: Database) -> reconciliation.RunReport:
    async with db.unit() as unit:
        row = await reconciliation.start(unit, "stripe")

    async def ended() -> Any:
        async with db.unit() as unit:
            report = await reconciliation.run(unit, row.run_id)
        return report if report.status != "reading" else None

    return await eventually(ended)


async def test_the_simulators_faults_are_found_by_kind_and_amount(stripe_settings, simulator):
    """Real payments at a real simulator: clean, then with a wrong amount, a missing and a doubled line, then clean."""
    settings = msgspec.structs.replace(stripe_settings, reconcile_settle_s=0)
    database = Database(settings, connections_max=4)
    async with database.unit() as unit:
        await open_accounts(unit, assets=("USD", "JPY", "KWD"))
    async with daemons(settings, "fraud", "settlement", "ledger", "refund", "reconciliation"):
        paid = [
            await pay(database, amount, asset=asset, rail="stripe")
            for amount, asset in (("100.00", "USD"), ("40.00", "USD"), ("2500", "JPY"), ("7.120", "KWD"))
        ]
        for transaction_id in paid:
            await until_status(database, transaction_id, "succeeded")
        report = await _run(database)
        assert (report.matched, report.lines, report.breaks) == (4, 4, [])

        simulator.control(
            "PUT", "faults", {"kind": "statement_amount", "amount_delta": 7, "metadata": {"transaction_id": paid[0]}}
        )
        assert [(one.kind, one.difference_minor) for one in (await _run(database)).breaks] == [("amount", 7)]
        simulator.control("PUT", "faults", {"kind": "statement_duplicate", "metadata": {"transaction_id": paid[1]}})
        kinds = {one.kind: one.status for one in (await _run(database)).breaks}
        assert kinds == {"duplicate": "open"}
        missing = await pay(database, "9.000", asset="KWD", rail="stripe")
        simulator.control("PUT", "faults", {"kind": "statement_missing", "metadata": {"transaction_id": missing}})
        row = await until_status(database, missing, "succeeded")
        report = await _run(database)
        assert {(one.kind, one.difference_minor) for one in report.breaks} == {
            ("missing_at_psp", -(row.captured_minor - row.fee_minor))
        }
        simulator.control("DELETE", "faults")
        report = await _run(database)
        assert (report.open_breaks, report.matched) == (0, 5)
    await database.close()


def _cli(settings: Settings, *words: str) -> tuple[int, Any]:
    """A command line as it is typed: its exit code, and its JSON."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        code = cli.run(["--home", settings.home, "--actor", "auditor", *words, "--json"])
    return code, json.loads(printed.getvalue())


@pytest.fixture
def stripe_settings(settings, simulator, monkeypatch) -> Settings:
    """Settings that know the simulator, in the environment too: commands read them there."""
    known = msgspec.structs.replace(settings, stripe_api_key=KEY, stripe_api_base=simulator.url)
    for variable, name in PLAIN_VARIABLES.items():
        monkeypatch.setenv(variable, getattr(known, name) or "")
    monkeypatch.setenv("PASYS_BUS_PREFIX", known.bus_prefix)
    monkeypatch.setenv("PASYS_REDIS_PREFIX", known.redis_prefix)
    return known


async def test_a_person_finds_and_closes_a_break(stripe_settings, db, simulator):
    """The commands: a run exits 10 with its breaks, a break is shown, tried, closed, and the next run exits 0."""
    typed = functools.partial(asyncio.to_thread, _cli, stripe_settings)
    async with db.unit() as unit:
        await open_accounts(unit)
    async with daemons(stripe_settings, "fraud", "settlement", "ledger", "reconciliation"):
        paid = await pay(db, "100.00", rail=PSP)
        simulator.pay(2_500)
        await until_status(db, paid, "succeeded")
        code, report = await typed("reconcile", "run", "--psp", "stripe")
        assert (code, report["status"], report["lines"], report["matched"]) == (10, "completed", 1, 0)
        (found,) = report["breaks"]
        assert (found["kind"], found["difference"], found["difference_minor"]) == ("missing_in_ledger", "23.97", 2_397)
        assert (await typed("reconcile", "show", report["run_id"]))[1]["breaks"] == [found]
        assert (await typed("reconcile", "show", found["id"]))[1]["found"]["amount_minor"] == 2_500
        code, tried = await typed("reconcile", "resolve", found["id"], "--dry-run")
        assert (code, tried["entries"][0]["debit"], tried["entries"][0]["amount_minor"]) == (
            0,
            "psp:stripe:receivable",
            2_397,
        )
        code, closed = await typed("reconcile", "resolve", found["id"], "--note", "a test charge")
        assert (code, closed["status"], closed["actor"], closed["note"]) == (0, "resolved", "auditor", "a test charge")
        assert (await typed("reconcile", "resolve", found["id"]))[0] == 4
        code, report = await typed("reconcile", "run", "--psp", "stripe")
        assert (code, report["matched"], report["breaks"]) == (0, 1, [])
        assert len((await typed("reconcile", "list"))[1]["runs"]) == 2
        assert len((await typed("reconcile", "list", "--kind", "missing_in_ledger"))[1]["breaks"]) == 1
        assert (await typed("reconcile", "list", "--status", "BANANA"))[0] == 2
        assert (await typed("reconcile", "show", "run_0"))[0] == 3
        simulator.control("PUT", "faults", {"kind": "error_before", "operation": "balance_transactions.list"})
        code, report = await typed("reconcile", "run", "--psp", "stripe")
        assert (code, report["status"], report["error"]["code"]) == (7, "failed", "reconciliation_failed")
    code, error = await typed("reconcile", "run", "--psp", "stripe", "--timeout", "0.1")
    assert (code, error["error"]["code"]) == (8, "wait_timed_out")
