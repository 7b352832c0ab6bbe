"""Keys that change something: only when armed, only at the second press, and just as the command that they show."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Static

from pasys.config import Settings
from pasys.db import Database
from pasys.errors import OutcomeUnknown
from pasys.events import SettlementUnknown
from pasys.money import parse
from pasys.service import refund_query, settlement, transaction, transaction_query
from pasys.service.transaction import Draft
from pasys.tui.action import Confirm, option
from pasys.tui.app import SCREENS_BY_NAME, Dash, Doors, once, text_of
from pasys.tui.source import Source
from tests.dash_kit import books, does_the_same, doors_to, opened, sees, showing, shown_command
from tests.psp_answers import capture, clear, transaction_row
from tests.support import eventually, open_accounts, pay
from tests.wire_kit import wired

FILTERS = {"won": "status:succeeded kind:payment", "open": "status:pending amount>40 asset:USD", "doubt": "unknown"}


@pytest.fixture
async def known(db: Database) -> dict[str, str]:
    """One payment that succeeded, one that waits, one whose outcome is unknown."""
    async with db.unit() as unit:
        await open_accounts(unit)
        await transaction.create(unit, Draft(amount=parse("500.00", "USD"), credit="alice"))
    found = {name: await pay(db, amount) for name, amount in (("won", "20.00"), ("open", "41.50"), ("doubt", "12.00"))}
    await capture(db, found["won"])
    await clear(db, found["doubt"])
    said = SettlementUnknown(
        transaction_id=found["doubt"], psp="instant", step="authorise", reason="no answer", latency_ms=5, asset="USD"
    )
    async with db.unit(now=datetime.now(UTC) + timedelta(days=2)) as unit:  # so late that only a person asks again
        await settlement.doubt(unit, [said])
    return found


async def go_to(app: Dash, pilot: Pilot[None], known: dict[str, str], name: str) -> None:
    """Narrow the list to one transaction, so that keys are about it."""
    await sees(app, known["won"], known["open"])
    await pilot.press("slash")
    app.screen.query_one(Input).value = FILTERS[name]
    await pilot.press("enter")
    await sees(app, "1 shown", known[name])


# Arming --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("screen", SCREENS_BY_NAME)
async def test_every_screen_says_whether_it_is_armed(
    screen: str, doors: Doors, settings: Settings, known: dict[str, str]
) -> None:
    """The first line of every screen says in words that it is read-only, or armed and as whom; `a` changes it."""
    assert "read-only (a: arm)" in (await once(doors, screen, width=80, height=24)).splitlines()[0]
    async with showing(doors, screen, size=(80, 24)) as (app, pilot):
        await pilot.press("a")
        assert "ARMED as tester (a: disarm)" in (await sees(app, "ARMED")).splitlines()[0]
        await pilot.press("1")
        await sees(app, "Overview   ARMED as tester")
        await pilot.press("a")
        await sees(app, "Overview   read-only")


@pytest.mark.parametrize("name", ["won", "open", "doubt"])
async def test_unarmed_keys_change_nothing(name: str, doors: Doors, settings: Settings, known: dict[str, str]) -> None:
    """Without arming, a key that would change something says how to arm, opens nothing, and no table differs."""
    before = books(settings)
    async with showing(doors, "transactions") as (app, pilot):
        await go_to(app, pilot, known, name)
        for key in "fck":
            await pilot.press(key)
            await sees(app, "nothing was changed. Press a to arm")
            assert not isinstance(app.screen, Confirm)
    assert books(settings) == before


async def test_a_look_changes_nothing(doors: Doors, settings: Settings, known: dict[str, str]) -> None:
    """Armed, an action that is opened and left again, by Escape, has changed nothing in any table."""
    before = books(settings)
    async with showing(doors, "transactions") as (app, pilot):
        await pilot.press("a")
        await go_to(app, pilot, known, "open")
        for key in "fck":
            await opened(app, pilot, key)
            await pilot.press("escape")
            await sees(app, "1 shown")
    assert books(settings) == before


# The command ---------------------------------------------------------------------------------------------------------

CASES = {
    "refund of all": ("won", "f", {}, "", 0),
    "refund of a part": ("won", "f", {"amount": "7.25", "reason": 'it\'s -- "half" $HOME; `sent` back'}, "", 0),
    "refund with a reason like an option": ("won", "f", {"amount": "", "reason": "--json"}, "", 0),
    "cancel": ("open", "c", {"reason": "ordered twice"}, "", 0),
    "cancel without a reason": ("open", "c", {}, "", 0),
    # The command also waits for what the PSP says; here nobody asks it, so it waits for nothing.
    "ask again": ("doubt", "k", {}, " --timeout 0", 8),
}


@pytest.mark.parametrize("case", CASES)
async def test_a_key_does_what_its_command_does(
    case: str, doors: Doors, settings: Settings, db: Database, known: dict[str, str]
) -> None:
    """What the key does to one world, the command that it showed does to a copy of it, pasted into a shell: afterwards
    all tables are the same, row by row, and not what they were."""
    name, key, typed, more, code = CASES[case]
    async with showing(doors, "transactions") as (app, pilot):
        await pilot.press("a")
        await go_to(app, pilot, known, name)
        screen = await opened(app, pilot, key)
        for field, value in typed.items():
            screen.query_one(f"#field-{field}", Input).value = value
        await pilot.pause()
        await does_the_same(app, pilot, settings, db, more=more, code=code)


async def test_the_command_is_copied(doors: Doors, known: dict[str, str]) -> None:
    """Ctrl+Y copies the very command that is shown, with whose system and who, as what is typed changes it."""
    async with showing(doors, "transactions") as (app, pilot):
        await pilot.press("a")
        await go_to(app, pilot, known, "open")
        screen = await opened(app, pilot, "c")
        await pilot.press(*"twice", "ctrl+y")
        await sees(app, "Copied.")
        assert app.clipboard == shown_command(screen)
        assert app.clipboard.endswith(f"--actor tester tx cancel {known['open']} --reason twice")


async def test_a_command_says_which_environment_it_needs(
    doors: Doors, settings: Settings, known: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever pastes it into another shell would act on another system, were it not for the variables that are named;
    what they say, which may be a password, is shown and copied nowhere. Without such variables none is named."""
    async with showing(doors, "transactions") as (app, pilot):
        await pilot.press("a")
        await go_to(app, pilot, known, "open")
        await opened(app, pilot, "c")
        await sees(app, "The same as this command:")
        await pilot.press("escape")
        monkeypatch.setenv("DATABASE_URL", "postgresql://pasys:secret-1@db.example/pasys")
        for name, value in (("ACTOR", "ann"), ("DASH", "{}"), ("HOME", settings.home), ("TEST_RENEW", "1")):
            monkeypatch.setenv(f"PASYS_{name}", value)  # the command has them, or does not care
        await opened(app, pilot, "c")
        await sees(app, "The same as this command, where DATABASE_URL is set as here:")
        await pilot.press("escape")
        monkeypatch.setenv("NATS_URL", "nats://pasys:secret-2@bus.example")
        monkeypatch.setenv("REDIS_URL", "")  # which says nothing
        monkeypatch.setenv("PASYS_STRIPE_API_KEY", "secret-3")
        screen = await opened(app, pilot, "c")
        words = "where DATABASE_URL, NATS_URL, PASYS_STRIPE_API_KEY are set as here:"
        text = await sees(app, words, f"tx cancel {known['open']}")
        await pilot.press("ctrl+y")
        await sees(app, "Copied.")
        assert "secret" not in text and "secret" not in app.clipboard + shown_command(screen)


def test_values_are_never_options() -> None:
    """A value that begins like an option is tied to its option; an empty one is left out."""
    assert option("--reason", "-x") == ["--reason=-x"]
    assert option("--reason", "x -y") == ["--reason", "x -y"]
    assert option("--reason", "") == []


# Refund, cancel, ask again -------------------------------------------------------------------------------------------


async def test_a_refund_is_prefilled(doors: Doors, db: Database, known: dict[str, str]) -> None:
    """The amount is what can go back; half of it goes by the second press, and then the other half is offered."""
    async with showing(doors, "transactions") as (app, pilot):
        await pilot.press("a")
        await go_to(app, pilot, known, "won")
        screen = await opened(app, pilot, "f")
        assert screen.query_one("#field-amount", Input).value == "20.00"
        await pilot.press(*"8.00", "enter")
        await sees(app, "Done. Refund rf_", "is on its way")
        await pilot.press("enter")
        await sees(app, "0 shown", "is on its way")
        await pilot.press("slash")
        app.screen.query_one(Input).value = "status:refunding"
        await pilot.press("enter")
        await sees(app, "1 shown")
        assert (await opened(app, pilot, "f")).query_one("#field-amount", Input).value == "12.00"
    async with db.unit() as unit:
        (row,) = await refund_query.listing(unit)
    assert (str(row.amount), row.requested_by, row.transaction_id) == ("8.00 USD", "tester", known["won"])


async def test_a_refusal_names_its_rule(doors: Doors, settings: Settings, known: dict[str, str]) -> None:
    """What a rule refuses is said with the rule and what to do; after a correction the same action can be done."""
    async with showing(doors, "transactions") as (app, pilot):
        await pilot.press("a")
        await go_to(app, pilot, known, "won")
        await opened(app, pilot, "c")
        before = books(settings)
        await pilot.press("enter")
        await sees(app, "Refused (illegal_transition)", "it cannot become cancelled")
        await pilot.press("escape")
        await sees(app, "1 shown")
        await opened(app, pilot, "f")
        await pilot.press(*"20.01", "enter")
        await sees(app, "Refused (refund_too_large)", "Ask for at most 20.00 USD")
        assert books(settings) == before
        await pilot.press(*["backspace"] * 5, *"20.00", "enter")
        await sees(app, "Done. Refund rf_")


async def test_what_was_done_is_on_record(doors: Doors, db: Database, known: dict[str, str]) -> None:
    """A cancellation has the actor and the reason in the transaction's history, and the screen says that it is done."""
    async with showing(doors, "transactions") as (app, pilot):
        await pilot.press("a")
        await go_to(app, pilot, known, "open")
        await opened(app, pilot, "c")
        await pilot.press(*"twice", "enter")
        await sees(app, "Done.", "is cancelled")
        await pilot.press("enter")
        await sees(app, "is cancelled; what it held is released")
    async with db.unit() as unit:
        last = (await transaction_query.history(unit, known["open"]))[-1]
    assert (last.to_status, last.reason, last.actor) == ("cancelled", "twice", "tester")


async def test_the_detail_has_the_same_keys(doors: Doors, db: Database, known: dict[str, str]) -> None:
    """A transaction that is looked at alone can be acted on there, and Escape goes back to it."""
    async with showing(doors, "transactions") as (app, pilot):
        await pilot.press("a")
        await go_to(app, pilot, known, "open")
        await pilot.press("enter")
        await sees(app, f" trace {known['open']}")
        await opened(app, pilot, "c")
        await pilot.press("enter")
        await sees(app, "Done.")
        await pilot.press("enter")
        await sees(app, "payment of 41.50 USD: cancelled", "ARMED")
    assert (await transaction_row(db, known["open"])).status == "cancelled"


# Connection ----------------------------------------------------------------------------------------------------------


def admin(settings: Settings) -> psycopg.Connection[Any]:
    return psycopg.connect(settings.require("database_url"), autocommit=True, application_name="admin")


@pytest.mark.parametrize("committed", [True, False])
async def test_a_connection_lost_at_the_commit_leaves_it_unknown(
    committed: bool, settings: Settings, db: Database, known: dict[str, str], tmp_path: Path
) -> None:
    """When the connection breaks while the change is committed, nobody can tell: that is said, and how to look; the
    same key again, once the server answers, does it, and only once."""
    async with (
        wired(settings, tmp_path, carries=committed, breaks=False) as (there, wire),
        showing(doors_to(lambda: there), "transactions") as (app, pilot),
    ):
        await pilot.press("a")
        await go_to(app, pilot, known, "won")
        screen = await opened(app, pilot, "f")
        wire.breaks = True
        await pilot.press("enter")
        await sees(app, "Unknown whether it was done (outcome_unknown)")
        look = " ".join(str(screen.query_one("#result", Static).content).split())
        assert f"refund list --transaction {known['won']}`" in look and "`pasys --home" in look
        async with db.unit() as unit:
            assert len(await refund_query.listing(unit)) == committed
        wire.breaks = False
        await pilot.press("enter")
        await sees(app, "Done. It was asked for before: it is rf_" if committed else "Done. Refund rf_")
    async with db.unit() as unit:
        assert len(await refund_query.listing(unit)) == 1


async def test_a_change_that_announces_nothing_is_unknown_too(settings: Settings, db: Database, tmp_path: Path) -> None:
    """Whatever a key does is a change, whether it is announced or not; the error names the command that shows it."""
    async with wired(settings, tmp_path, carries=True) as (there, _):
        source = Source(doors_to(lambda: there))
        with pytest.raises(OutcomeUnknown) as unknown:
            await source.act(lambda unit: unit.rows("update account set name = name"), look="pasys account list")
        await source.close()
    assert "`pasys account list`" in unknown.value.advice


async def test_a_connection_lost_before_leaves_everything_as_it_was(
    doors: Doors, settings: Settings, known: dict[str, str]
) -> None:
    """When it breaks before the commit, nothing has changed, and that is said; while it waits, a second Enter is not a
    second action, and Escape does not hide it."""
    before = books(settings)
    async with showing(doors, "transactions") as (app, pilot):
        await pilot.press("a")
        await go_to(app, pilot, known, "open")
        await opened(app, pilot, "c")
        with psycopg.connect(settings.require("database_url")) as holder, admin(settings) as connection:
            holder.execute("select from transaction where id = %s for update", [known["open"]])
            await pilot.press("enter")
            await eventually(lambda: _waiting(connection))
            await pilot.press("enter", "escape")
            assert "It is being done" in text_of(app.screen) and await _waiting(connection) == 1
            connection.execute("select pg_terminate_backend(pid) from pg_stat_activity"
                               " where datname = current_database() and wait_event_type = 'Lock'")  # fmt: skip
            await sees(app, "Nothing was changed (database_unavailable)")
            assert await _waiting(connection) == 0
    assert books(settings) == before


async def _waiting(connection: psycopg.Connection[Any]) -> int:
    found = connection.execute(
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    ).fetchone()
    return found[0] if found else 0
