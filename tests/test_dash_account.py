"""The dashboard's accounts, statements, journal and proof on a real database."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from textual.widgets import DataTable, Sparkline

from pasys.config import Settings
from pasys.db import Database
from pasys.domain.ledger import Purpose
from pasys.errors import InvalidInput
from pasys.money import Money, parse
from pasys.service import account, ledger, ledger_history, ledger_movement, ledger_partition, transaction
from pasys.service.ledger_history import StatementLine
from pasys.service.transaction import Draft
from pasys.tui import account_filter
from pasys.tui.account import AccountDetail, levels
from pasys.tui.app import Doors, once, text_of
from pasys.tui.ledger import JournalScreen, VerifyScreen
from pasys.tui.transaction import TransactionDetail
from pasys.tui.window import WINDOW
from tests.dash_kit import NOON, SERVICES, sees, showing
from tests.ledger_kit import direct
from tests.psp_answers import capture
from tests.support import eventually, open_accounts, owning, pay


@pytest.fixture
def moments() -> list[datetime]:
    """What the time that is typed means; the last one counts."""
    return [NOON]


@pytest.fixture
def doors(settings: Settings, moments: list[datetime]) -> Doors:
    return Doors(load=lambda: settings, look=lambda _: SERVICES, moment=lambda _: moments[-1])


@pytest.fixture
async def rich(db: Database) -> None:
    """alice has 500.00 and has paid 20.00 to shop; bob, EUR and the system's own accounts exist too."""
    async with db.unit() as unit:
        await open_accounts(unit, assets=("USD", "EUR"))
        await transaction.create(unit, Draft(amount=parse("500.00", "USD"), credit="alice"))
    await capture(db, await pay(db, "20.00"))


# Filters -------------------------------------------------------------------------------------------------------------


def test_a_filter_of_accounts_is_what_it_says() -> None:
    """Words with a colon become the argument they name; a bare word, or a system account's name, a part of the name."""
    found = account_filter.parse("type:customer asset:usd status:frozen ali")
    assert found == {"type": "customer", "asset": "USD", "status": "frozen", "name_like": "ali"}
    assert account_filter.parse("psp:stripe:receivable") == {"name_like": "psp:stripe:receivable"}
    assert account_filter.parse("name:team:a") == {"name_like": "team:a"}
    assert account_filter.parse("  ") == {}


@pytest.mark.parametrize("typed", ["colour:red", "type:", "type:customer type:merchant", "ali ce", "name:a b"])
def test_a_filter_of_accounts_that_means_nothing_is_refused(typed: str) -> None:
    """A word that is no filter, a filter without a value, and the same one twice are errors, not ignored."""
    with pytest.raises(InvalidInput):
        account_filter.parse(typed)


# Movements -----------------------------------------------------------------------------------------------------------


async def test_movements_backwards_are_the_statement(db: Database, rich: None) -> None:
    """Page by page from the newest, movements are those of the statement, with its amounts and running balances."""
    async with db.unit() as unit:
        for name in ("alice", "shop", "external:deposits", "psp:instant:receivable"):
            row = await account.find(unit, name, "USD")
            stated = (await ledger_history.statement(unit, row.number, by="recorded")).lines
            found: list[StatementLine] = []
            while page := await ledger_movement.latest(unit, row, before=found[-1].seq if found else None, limit=1):
                found += page
            assert found[::-1] == stated and stated, name


async def test_movements_up_to_a_time(db: Database, rich: None) -> None:
    """With a time, the newest movement is the last that the books had by then."""
    async with db.unit() as unit:
        row = await account.find(unit, "alice", "USD")
        newest, *older = await ledger_movement.latest(unit, row)
        assert await ledger_movement.latest(unit, row, at=newest.at - timedelta(microseconds=1)) == [
            line for line in older if line.at < newest.at
        ]
        assert await ledger_movement.latest(unit, row, at=NOON - timedelta(days=400)) == []
        with pytest.raises(InvalidInput):
            await ledger_movement.latest(unit, row, limit=0)


async def test_a_page_of_movements_goes_by_index(db: Database, rich: None) -> None:
    """What is closed of a journal is not read as a whole, or sorted, for an account that moves seldom."""
    async with db.unit() as unit:
        await unit.rows("select set_config('pasys.partition_rows', '2500', false)")
        shop, alice = [(await account.open(unit, name=name, asset="GBP")).number for name in ("shop", "alice")]
        deposits = await account.system(unit, "external:deposits", "GBP")
        for _ in range(4):
            await ledger.post(unit, [direct(deposits, shop, 1, asset="GBP") for _ in range(2_000)])
        while await ledger_partition.keep(unit):
            pass
    async with db.unit() as unit:
        await unit.rows("analyze")
        values: dict[str, Any] = {"asset": "GBP", "account": alice, "seq": 10**9, "limit": 100}
        plan = "\n".join(row[0] for row in await unit.rows(f"explain {ledger_movement.SQL['movements']}", **values))
    for side in ("debit", "credit"):
        assert f"Index Scan Backward using transfer_gbp_1_{side}_idx" in plan, plan


async def test_a_window_of_accounts_goes_by_index(db: Database, rich: None) -> None:
    """The next window of many accounts is read from the index of their numbers, not sorted out of them all."""
    async with db.unit() as unit:
        await unit.rows(
            "insert into account (id, name, asset, type) select n, 'c' || n, 'USD', 'customer'"
            " from generate_series(1, 20000) n"
        )
    async with db.unit() as unit:
        await unit.rows("analyze account")
        plan = "\n".join(
            row[0]
            for row in await unit.rows(
                "explain select * from account_state(array(select id from account where id > 5 order by id limit 101))"
            )
        )
    assert "Index Only Scan using account_pkey" in plan and "Index Cond: (id > 5)" in plan, plan


def line(second: int, minor: int) -> StatementLine:
    at = NOON + timedelta(seconds=second)
    usd = Money(minor, "USD")
    return StatementLine(at, second, None, Purpose.BOOK, None, usd, usd, None)  # type: ignore[arg-type]


def test_a_plot_is_over_time() -> None:
    """A balance holds until the next movement: what lasted long is wide, however many movements it had."""
    newest_first = [line(10, 7), line(9, 9), line(8, 5), line(0, 1)]
    assert levels(newest_first, 11) == [1, 1, 1, 1, 1, 1, 1, 1, 5, 9, 7]
    assert levels([], 5) == [] and levels([line(0, 3)], 5) == [3]
    assert levels([line(4, 2), line(4, 1)], 5) == [1, 2]


# Screens -------------------------------------------------------------------------------------------------------------


async def test_the_chart_of_accounts_shows_balances(doors: Doors, rich: None) -> None:
    """Each account stands with what is available, posted and pending; the filter narrows by type, asset and name."""
    async with showing(doors, "accounts") as (app, pilot):
        text = await sees(app, "alice", "shop", "psp:instant:receivable", "external:deposits")
        assert "500.00" in text and "customer" in text
        await pilot.press("slash", *"type:merchant asset:USD", "enter")
        text = await sees(app, "1 shown", "shop")
        assert "alice" not in text
        await pilot.press("slash", *" colour:red", "enter")
        await sees(app, "'colour:red' is none of", "shop")


async def test_a_frozen_account_is_marked_in_words(db: Database, doors: Doors, rich: None) -> None:
    """What is not active stands out without colour, and comes up by itself."""
    async with showing(doors, "accounts") as (app, _):
        await sees(app, "window 1,")
        async with db.unit() as unit:
            await account.freeze(unit, "bob", "EUR")
        await sees(app, "frozen !")


async def test_no_accounts_says_what_to_do(doors: Doors) -> None:
    """Where there is nothing yet, the screen says so in a sentence, and what to do next."""
    assert "pasys account open" in await once(doors, "accounts", width=80, height=24)


async def test_windows_of_accounts_leave_nothing_out(db: Database, doors: Doors) -> None:
    """n and p go through windows that are all accounts together, each once."""
    async with db.unit() as unit:
        for number in range(WINDOW + 7):
            await account.open(unit, name=f"c{number}", asset="USD")
    async with showing(doors, "accounts") as (app, pilot):
        await sees(app, "window 1,")
        seen = [str(row.value) for row in app.screen.query_one(DataTable).rows]
        await pilot.press("n")
        await sees(app, "window 2, the last")
        seen += [str(row.value) for row in app.screen.query_one(DataTable).rows]
        async with db.unit() as unit:
            assert seen == [row.id for row in await account.listing(unit, limit=1_000)]
        await pilot.press("p")
        await sees(app, "window 1,")


async def test_an_account_tells_its_past(db: Database, doors: Doors, moments: list[datetime], rich: None) -> None:
    """Enter shows movements with the running balance and a plot; a typed time shows the account as it was then."""
    async with db.unit() as unit:
        row = await account.find(unit, "alice", "USD")
        lines = (await ledger_history.statement(unit, row.number)).lines
    moments.append(lines[0].at)
    async with showing(doors, "accounts") as (app, pilot):
        await sees(app, "window 1,")
        await pilot.press("slash", *"alice asset:USD", "enter")
        await sees(app, "1 shown")
        await pilot.press("enter")
        text = await sees(app, "available 500.00 USD", "+500.00", "-20.00", " account statement alice --asset USD")
        assert isinstance(app.screen, AccountDetail) and "500.00 to 520.00 USD" in text
        assert app.screen.query_one(Sparkline).data
        await pilot.press("slash", *"2h", "enter")
        text = await sees(app, "as of", "posted 500.00 USD", "1 shown")
        assert "-20.00" not in text
        await pilot.press("escape")
        await sees(app, "type", "available")


async def test_a_time_before_an_account_is_an_error(doors: Doors, moments: list[datetime], rich: None) -> None:
    """What an account held before it existed is not nothing: the screen says that there is no such history."""
    moments.append(datetime(2020, 1, 1, tzinfo=UTC))
    async with showing(doors, "accounts") as (app, pilot):
        await sees(app, "window 1,")
        app.push_screen(AccountDetail(str(next(iter(app.screen.query_one(DataTable).rows)).value)))
        await sees(app, "The same in a shell")
        await pilot.press("slash", *"2020", "enter")
        await sees(app, "2020-01-01")


async def test_the_journal_by_seq(db: Database, doors: Doors, rich: None) -> None:
    """`j` shows the journal of the account's asset from its end; a typed seq stands first; Enter follows a payment."""
    async with db.unit() as unit:
        last = (await ledger_movement.heads(unit))["USD"]
        rows = await ledger_history.transfers(unit, asset="USD")
    async with showing(doors, "accounts", size=(160, 48)) as (app, pilot):
        await sees(app, "window 1,")
        await pilot.press("j")
        await sees(app, f"USD: {last:,} down to 1; that is the first", str(rows[0].id))
        await pilot.press("slash", *"2", "enter")
        text = await sees(app, "USD: 2 down to 1")
        assert str(rows[2].id) not in text
        paid = app.screen.query_one(DataTable)
        assert paid.row_count == 2 and isinstance(app.screen, JournalScreen)
        await pilot.press("enter")
        await sees(app, " trace tx_")
        assert isinstance(app.screen, TransactionDetail)
        await pilot.press("escape", "slash", *" XXX", "enter")
        await sees(app, "XXX")


async def test_the_books_are_proved(doors: Doors, rich: None) -> None:
    """`v` proves the books beside the dashboard and says that they hold, of how many transfers."""
    async with showing(doors, "accounts") as (app, pilot):
        await sees(app, "window 1,")
        await pilot.press("v")
        await sees(app, "The books hold", "transfers of")
        await pilot.press("f")
        await sees(app, "The same in a shell: pasys --home", " ledger verify --full", "The books hold")


async def test_books_that_do_not_hold_are_named(db: Database, doors: Doors, rich: None) -> None:
    """One unit that is missing from an account's row is found, and named."""
    async with db.unit() as unit:
        await unit.rows("update account set credits_posted = credits_posted + 1 where name = 'shop' and asset = 'USD'")
    async with showing(doors, "accounts") as (app, pilot):
        await sees(app, "window 1,")
        await pilot.press("v")
        await sees(app, "THE BOOKS DO NOT HOLD")
        assert app.screen.query_one("#found").has_class("wrong")


async def test_a_proof_can_be_stopped(db: Database, settings: Settings, doors: Doors, rich: None) -> None:
    """`x` ends a proof that is under way, also at the database; nothing is said to be proved."""
    async with owning(db) as blocker:
        await blocker.rows("lock table asset in access exclusive mode")
        async with showing(doors, "accounts") as (app, pilot):
            app.push_screen(VerifyScreen())
            await eventually(lambda: _proofs(settings, 1))
            await pilot.press("x")
            await sees(app, "Stopped: nothing is proved")
            await eventually(lambda: _proofs(settings, 0))
            assert "hold:" not in text_of(app.screen)


async def _proofs(settings: Settings, wanted: int) -> bool:
    """Whether so many connections wait for the table that is locked."""
    asking = Database(msgspec.structs.replace(settings), connections_max=1)
    try:
        async with owning(asking) as unit:
            found = await unit.value(
                "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
                " and query like '%%from asset order by%%'"
            )
    finally:
        await asking.close()
    await asyncio.sleep(0)
    return found == wanted
