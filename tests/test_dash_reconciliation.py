"""The reconciliation screen: runs, breaks by kind and age, both sides of one, and how it is closed."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from textual.widgets import Input

from pasys.config import Settings
from pasys.db import Database
from pasys.events import ReconciliationUnavailable
from pasys.service import account, reconciliation
from pasys.tui.action import Confirm
from pasys.tui.app import Doors, once
from pasys.tui.reconciliation import ReconciliationScreen
from tests.dash_kit import books, does_the_same, opened, sees, showing
from tests.reconciliation_world import NOW, PSP, World
from tests.support import open_accounts


@pytest.fixture
async def empty(db: Database) -> None:
    """Accounts, and no statement that was ever read."""
    async with db.unit() as unit:
        await open_accounts(unit)


@pytest.fixture
async def breaks(db: Database, empty: None) -> dict[str, str]:
    """Three breaks of one run, longest first: another amount, another fee, and a line that is listed twice."""
    world = World(db)
    for _ in range(3):
        await world.captured()
    world.change(0, amount_minor=10_700)
    world.change(1, fee_minor=300)
    world.lines.append(world.lines[2])
    report, _ = await world.reconcile()
    assert report.open_breaks == 3
    ages = {"amount": timedelta(days=3), "fee": timedelta(hours=5), "duplicate": timedelta(minutes=1)}
    ids = {found.kind: found.id for found in report.breaks}
    async with db.unit() as unit:
        await account.system(unit, "suspense", "USD")  # or each world would open its own, under another number
        for kind, age in ages.items():
            await unit.rows(
                "update reconciliation_break set found_at = %(at)s where kind = %(kind)s", at=NOW - age, kind=kind
            )
        renamed = {kind: f"brk_{place}{ids[kind][5:]}" for place, kind in enumerate(ages)}  # ids follow the time
        for kind, id in renamed.items():
            await unit.rows("update reconciliation_break set id = %(id)s where kind = %(kind)s", id=id, kind=kind)
    return renamed | {"run": report.run_id}


PLACE = {"amount": 0, "fee": 1, "duplicate": 2}


# What is shown -------------------------------------------------------------------------------------------------------


async def test_ages_are_counted_by_kind(db: Database, breaks: dict[str, str]) -> None:
    """Each kind's open breaks stand in the column of their age; a break that is closed stands in none."""
    async with db.unit() as unit:
        ages = {row.kind: (row.hour, row.day, row.longer) for row in await reconciliation.ages(unit)}
        assert ages == {"amount": (0, 0, 1), "fee": (0, 1, 0), "duplicate": (1, 0, 0)}
        await reconciliation.resolve(unit, breaks["fee"], accept=True)
        assert {row.kind for row in await reconciliation.ages(unit)} == {"amount", "duplicate"}
        listed = [row.id for row in await reconciliation.breaks(unit, status="open", longest=True)]
    assert listed == [breaks["amount"], breaks["duplicate"]]


@pytest.mark.parametrize("size", [(80, 24), (160, 48)])
async def test_the_reconciliation_screen_fits(size: tuple[int, int], doors: Doors, breaks: dict[str, str]) -> None:
    """At 80 by 24 and at 160 by 48: the run, the kinds with their ages, each break, both sides of the first of them
    with a mark where they differ, and the entry that would close it."""
    text = await once(doors, "reconciliation", width=size[0], height=size[1])
    assert len(text.splitlines()) == size[1] and max(map(len, text.splitlines())) <= size[0]
    whole = " ".join(text.split())
    for words in (
        "instant 3 1 of 4 completed", "amount · · 1", "fee · 1 ·", "duplicate 1 · ·", "3 open, longest first",
        "3 d amount 7.00 USD", "5 h fee -0.20 USD", "duplicate", "ours theirs", "≠ amount 100.00 USD 107.00 USD",
        f"{breaks['amount']}: e posts debit psp:{PSP}:receivable, credit suspense, 7.00 USD",
    ):  # fmt: skip
        assert words in whole, f"{words}\n{text}"


async def test_the_longest_words_fit_into_80_columns(doors: Doors, db: Database, breaks: dict[str, str]) -> None:
    """Beside the kind with the longest name, a run of some thousand lines is shown to the last letter of its status."""
    async with db.unit() as unit:
        await unit.rows("update reconciliation_break set kind = 'missing_in_ledger' where kind = 'fee'")
        await unit.rows("update reconciliation_run set lines = 1305, matched = 1302")
    text = await once(doors, "reconciliation", width=80, height=24)
    run = next(line for line in text.splitlines() if "1,302 of 1,305" in line)
    assert "instant    3 1,302 of 1,305 completed " in run
    assert re.search(r"missing in ledger +· +1 +·$", text, re.MULTILINE)


async def test_a_run_that_failed_says_why(doors: Doors, db: Database, breaks: dict[str, str]) -> None:
    """In full, until its PSP is asked again: what is shown is of a run before."""
    why = "the PSP stripe did not answer: connection refused by 127.0.0.1:27803, asked for the fifth time"
    async with db.unit() as unit:
        failed = await reconciliation.start(unit, PSP)
        said = ReconciliationUnavailable(asset="XXX", run_id=failed.run_id, psp=PSP, reason=why)
        await reconciliation.fail(unit, said)
    async with showing(doors, "reconciliation", size=(80, 24)) as (app, _):
        await sees(app, f"The last run of {PSP} failed: {why}", "3 open, longest first")
        async with db.unit() as unit:
            await reconciliation.start(unit, PSP)
        await sees(app, "reading")
        assert "The last run" not in await sees(app, "3 open, longest first")


async def test_no_statement_is_said(doors: Doors, empty: None) -> None:
    """Before a statement was ever read, a sentence says so, and how to have one read."""
    whole = " ".join((await once(doors, "reconciliation", width=80, height=24)).split())
    assert "No statement was ever read. Press a and then n to have one read" in whole
    assert "pasys reconcile run --psp" in whole


async def test_agreement_is_said(doors: Doors, db: Database, empty: None) -> None:
    """Where no break is open, a sentence says so, beside the runs."""
    world = World(db)
    await world.captured()
    await world.reconcile()
    whole = " ".join((await once(doors, "reconciliation", width=80, height=24)).split())
    assert "No break is open: the books and the statements agree." in whole and "instant 0 1 of 1 completed" in whole


async def test_the_evidence_follows_the_cursor(doors: Doors, breaks: dict[str, str]) -> None:
    """The cursor's break shows its two sides, and what an entry would post, or why none can close it."""
    async with showing(doors, "reconciliation", size=(80, 24)) as (app, pilot):
        await sees(app, "e posts debit psp:instant:receivable, credit suspense, 7.00 USD")
        await pilot.press("down")
        await sees(app, "≠ fee 3.20 USD 3.00 USD", "credit fees:psp, 0.20 USD")
        await pilot.press("down")
        await sees(app, "no entry can close it, a line that is listed twice moved its money once; c closes it as it is")


async def test_a_run_shows_its_own_breaks(doors: Doors, db: Database, breaks: dict[str, str]) -> None:
    """Enter on a run shows what it found, also what was closed since, and how; Escape shows again what is open."""
    async with db.unit(actor="bob") as unit:
        await reconciliation.resolve(unit, breaks["amount"], accept=True, note="a gift")
    async with showing(doors, "reconciliation") as (app, pilot):
        await sees(app, "2 open, longest first")
        await pilot.press("shift+tab", "enter")
        await sees(app, f"3 breaks of {breaks['run']}", "accepted amount 7.00 USD")
        await pilot.press("tab", "up")
        await sees(app, "closed: accepted, by bob (a gift)")
        await pilot.press("escape")
        await sees(app, "2 open, longest first")


# Actions -------------------------------------------------------------------------------------------------------------

CASES = {
    "an entry for an amount": ("amount", "e", {"note": "the tip; \"as usual\""}, "", 0),
    "an entry for a fee": ("fee", "e", {}, "", 0),
    "as it is": ("duplicate", "c", {"note": "they listed it twice"}, "", 0),
    "as it is without a note": ("amount", "c", {}, "", 0),
    # The command also waits for the run to end; here nobody reads, so it waits for nothing.
    "a new run": ("amount", "n", {}, " --timeout 0", 8),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
async def test_a_key_does_what_its_command_does(
    case: str, doors: Doors, settings: Settings, db: Database, breaks: dict[str, str]
) -> None:
    """Each way to close a break, and a new run, and the command that it shows leave two worlds the same, row by row."""
    kind, key, typed, more, code = CASES[case]
    async with showing(doors, "reconciliation") as (app, pilot):
        await sees(app, "3 open")
        await pilot.press("a", *["down"] * PLACE[kind])
        await sees(app, "≠" if kind != "duplicate" else "no entry can close it")
        screen = await opened(app, pilot, key)
        for field, value in typed.items():
            screen.query_one(f"#field-{field}", Input).value = value
        await pilot.pause()
        await does_the_same(app, pilot, settings, db, more=more, code=code)
        await pilot.press("enter")
        await sees(app, "Reconciliation   ARMED", "3 open" if key == "n" else "2 open")
        assert isinstance(app.screen, ReconciliationScreen)


async def test_the_preview_is_what_is_posted(doors: Doors, db: Database, breaks: dict[str, str]) -> None:
    """The entry that stands in the dialog before Enter is the transfer in the journal after it, by name and amount."""
    async with showing(doors, "reconciliation") as (app, pilot):
        await sees(app, "3 open")
        await pilot.press("a", "down")
        await sees(app, "≠ fee")
        screen = await opened(app, pilot, "e")
        about = " ".join(str(screen.query_one("#about").render()).split())
        assert "It posts debit psp:instant:receivable, credit fees:psp, 0.20 USD" in about
        await pilot.press("enter")
        await sees(app, "Done.", "resolved by a corrective entry")
    async with db.unit() as unit:
        found = await reconciliation.break_(unit, breaks["fee"])
        posted = await unit.rows(
            "select d.name as debit, c.name as credit, t.amount from transfer t join account d on d.id = t.debit"
            " join account c on c.id = t.credit where t.reference = %(id)s and t.result = 0",
            id=breaks["fee"],
        )
    assert [tuple(row) for row in posted] == [("psp:instant:receivable", "fees:psp", 20)]
    assert (found.status, found.resolution, found.actor) == ("resolved", "corrective entry", "tester")


async def test_unarmed_keys_change_nothing(doors: Doors, settings: Settings, breaks: dict[str, str]) -> None:
    """Without arming, e, c and n say how to arm, open nothing, and no table differs."""
    before = books(settings)
    async with showing(doors, "reconciliation") as (app, pilot):
        await sees(app, "3 open")
        for key in "ecn":
            await pilot.press(key)
            await sees(app, "nothing was changed. Press a to arm")
            assert not isinstance(app.screen, Confirm)
    assert books(settings) == before


async def test_what_no_entry_can_close_says_why(doors: Doors, settings: Settings, breaks: dict[str, str]) -> None:
    """A break that has no entry is refused by its rule before anything opens."""
    async with showing(doors, "reconciliation") as (app, pilot):
        await sees(app, "3 open")
        await pilot.press("a", "down", "down")
        await sees(app, "no entry can close it")
        await pilot.press("e")
        await sees(app, "Refused (no_correction)", "a line that is listed twice moved its money once")
        assert isinstance(app.screen, ReconciliationScreen)


async def test_a_break_is_closed_once(doors: Doors, db: Database, breaks: dict[str, str]) -> None:
    """Between the look and the second key somebody else closes it: the key is refused by the rule."""
    async with showing(doors, "reconciliation") as (app, pilot):
        await sees(app, "3 open")
        await pilot.press("a")
        await opened(app, pilot, "e")
        async with db.unit(actor="bob") as unit:
            await reconciliation.resolve(unit, breaks["amount"], accept=True)
        await pilot.press("enter")
        await sees(app, "Refused (break_resolved)")
        await pilot.press("escape")
        await sees(app, "2 open")
    async with db.unit() as unit:
        assert (await reconciliation.break_(unit, breaks["amount"])).resolution == "accepted"


async def test_an_unknown_psp_is_refused(doors: Doors, db: Database, empty: None) -> None:
    """A new run reads the statement of a PSP that is installed; any other is refused, with those that there are."""
    async with showing(doors, "reconciliation") as (app, pilot):
        await sees(app, "No statement was ever read")
        await pilot.press("a")
        screen = await opened(app, pilot, "n")
        screen.query_one("#field-psp", Input).value = "nobody"
        await pilot.press("enter")
        await sees(app, "Refused (unknown_rail)", "one of the installed PSPs")
        screen.query_one("#field-psp", Input).value = PSP
        await pilot.press("enter")
        await sees(app, "Done. Run run_", f"reads the statement of {PSP}")
        await pilot.press("enter")
        await sees(app, f"{PSP} 0 0 of 0 reading")
    async with db.unit() as unit:
        (row,) = await reconciliation.listing(unit)
    assert (row.psp, row.actor, row.status) == (PSP, "tester", "reading")
