"""The dashboard on real servers: what its screens show of the books, what its keys do, how it outlives them."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from textual.widgets import DataTable, Input
from textual.widgets._footer import FooterKey  # which Textual does not name in public

from pasys.cli.main import run
from pasys.config import Settings
from pasys.db import Database
from pasys.errors import DatabaseUnavailable, InvalidInput, PasysError
from pasys.ids import earliest
from pasys.money import Money, parse
from pasys.service import overview, transaction, transaction_query
from pasys.service.transaction import Draft
from pasys.tui import transaction_filter
from pasys.tui.app import Dash, Doors, once, text_of
from pasys.tui.live import Live
from pasys.tui.overview import OverviewScreen
from pasys.tui.transaction import WINDOW, TransactionDetail
from tests.dash_kit import NOON, doors_to, sees, showing
from tests.psp_answers import capture, decline
from tests.support import eventually, open_accounts, pay


@pytest.fixture
async def known(db: Database) -> dict[str, str]:
    """One payment that succeeded, one that failed, one that waits, and a deposit for alice."""
    async with db.unit() as unit:
        await open_accounts(unit)
        await transaction.create(unit, Draft(amount=parse("500.00", "USD"), credit="alice"))
    found = {name: await pay(db, amount) for name, amount in (("won", "20.00"), ("lost", "30.00"), ("open", "41.50"))}
    await capture(db, found["won"])
    await decline(db, found["lost"])
    return found


# Filters -------------------------------------------------------------------------------------------------------------


def test_a_filter_is_what_it_says() -> None:
    """Every word of a filter becomes the argument that it names, in any order."""
    typed = "amount>100 status:failed unknown review asset:usd since:2h amount<200.50 account:shop"
    assert transaction_filter.parse(typed, lambda _: NOON) == {
        "status": "failed", "outcome": "unknown", "review": True, "asset": "USD", "since": NOON, "account": "shop",
        "above": Money(100_00, "USD"), "below": Money(200_50, "USD"),
    }  # fmt: skip
    assert transaction_filter.parse("  ", lambda _: NOON) == {}


@pytest.mark.parametrize(
    "typed", ["colour:red", "failed", "status:", "amount>100", "asset:USD amount>x", "asset:USD amount>"]
)
def test_a_filter_that_means_nothing_is_refused(typed: str) -> None:
    """A word that is no filter, an amount without its asset, an amount that is none: each is an error, not ignored."""
    with pytest.raises(PasysError):
        transaction_filter.parse(typed, lambda _: NOON)


# Services ------------------------------------------------------------------------------------------------------------


async def test_amounts_are_bounds(db: Database, known: dict[str, str]) -> None:
    """`above` and `below` leave the bound itself out, and other assets too."""

    async def found(**asked: Any) -> set[str]:
        async with db.unit() as unit:
            return {row.id for row in await transaction_query.listing(unit, kind="payment", **asked)}

    assert await found(above=Money(20_00, "USD")) == {known["lost"], known["open"]}
    assert await found(above=Money(20_00, "USD"), below=Money(41_50, "USD")) == {known["lost"]}
    assert await found(above=Money(1, "EUR")) == set()


async def test_the_overview_counts(db: Database, known: dict[str, str]) -> None:
    """Rate, success, what is in flight and what waits are those of the rows; the books of a sound system balance."""
    async with db.unit() as unit:
        await unit.rows("update transaction set review = true where id = %(id)s", id=known["open"])
    async with db.unit() as unit:
        now, hour = await overview.overview(unit), await overview.hour(unit)
    assert now.rate == 4 / 300 and now.success == pytest.approx(2 / 3)
    assert now.p95_ms is not None and now.p95_ms > 0
    assert [(row.transactions, row.amount) for row in now.in_flight] == [(1, Money(41_50, "USD"))]
    assert (now.waiting.reviews, now.waiting.approvals, now.waiting.unknown, now.waiting.breaks) == (1, 0, 0, 0)
    assert (now.assets, now.off) == (1, [])
    assert len(hour.created) == len(hour.failed) == 60
    assert (sum(hour.created), sum(hour.failed)) == (4, 1)


async def test_the_last_hour_goes_by_index(db: Database) -> None:
    """The hour's transactions are found by their ids: ten million older ones cost nothing."""
    async with db.unit() as unit:
        await unit.rows("set local enable_seqscan = off")
        for name in ("lately", "minutes"):
            plan = await unit.rows(f"explain {overview.SQL[name]}", first=earliest("tx", 1_700_000_000_000))
            text = "\n".join(row[0] for row in plan)
            assert "transaction_pkey" in text and "Index Cond" in text, text


# Screens -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(80, 24), (160, 48)])
async def test_the_overview_fits(size: tuple[int, int], doors: Doors, known: dict[str, str]) -> None:
    """At 80 by 24 and at 160 by 48 everything that matters stands on the first page, and ills are marked in words."""
    text = await once(doors, "overview", width=size[0], height=size[1])
    assert len(text.splitlines()) == size[1] and max(map(len, text.splitlines())) <= size[0]
    for words in ("66.7%", "41.50 USD in 1", "fraud reviews", "dead letters", "debits equal credits in 1 asset",
                  "4 came, at most", "1 failed, at most 1/min", "ledger", "failed !", "it lost its way"):  # fmt: skip
        assert words in text, text


async def test_books_that_do_not_balance_are_said(db: Database, doors: Doors, known: dict[str, str]) -> None:
    """One unit that is missing from an account turns the line of the trial balance into an alarm, by how much."""
    async with db.unit() as unit:
        await unit.rows("update account set debits_posted = debits_posted + 1 where name = 'alice' and asset = 'USD'")
    async with showing(doors, "overview") as (app, _):
        await sees(app, "THE BOOKS DO NOT BALANCE", "0.01 USD")
        assert app.screen.query_one("#books").has_class("wrong")


async def test_a_filter_narrows_the_list(doors: Doors, known: dict[str, str]) -> None:
    """What is typed after `/` narrows the list on Enter; a filter that is none says so and leaves the list alone."""
    async with showing(doors, "transactions") as (app, pilot):
        await sees(app, known["won"], known["lost"], known["open"])
        await pilot.press("slash", *"status:failed", "enter")
        await sees(app, "1 shown", known["lost"])
        assert known["won"] not in text_of(app.screen)
        await pilot.press("slash", *" nonsense", "enter")
        assert "'nonsense' is none of" in await sees(app, "nonsense", known["lost"])


async def test_windows_leave_nothing_out(db: Database, doors: Doors) -> None:
    """n and p go through windows that are all of the list together, and each once."""
    async with db.unit() as unit:
        await open_accounts(unit)
        drafts = [Draft(amount=parse("1.00", "USD"), credit="alice") for _ in range(2 * WINDOW + 5)]
        await transaction.create_many(unit, drafts, partial=False)
        wanted = [row.id for row in await transaction_query.listing(unit, limit=1_000)]
    async with showing(doors, "transactions") as (app, pilot):
        seen: list[str] = []
        for number, key in ((1, None), (2, "n"), (3, "n")):
            if key:
                await pilot.press(key)
            await sees(app, f"window {number},")
            seen += [str(row.value) for row in app.screen.query_one(DataTable).rows]
        assert seen == wanted
        await pilot.press("n")
        await sees(app, "window 3, the oldest are here")
        await pilot.press("p", "p")
        await sees(app, "window 1,")


async def test_the_list_is_live(db: Database, doors: Doors, known: dict[str, str]) -> None:
    """A new transaction comes up by itself, and the cursor stays on the transaction that it was on."""
    async with showing(doors, "transactions") as (app, pilot):
        await sees(app, known["won"])
        await pilot.press("down")
        table = app.screen.query_one(DataTable)
        here = table.coordinate_to_cell_key(table.cursor_coordinate).row_key
        new = await pay(db, "7.77")
        await sees(app, new)
        assert table.coordinate_to_cell_key(table.cursor_coordinate).row_key == here
        assert table.cursor_row == 2


async def test_a_transaction_tells_its_story(doors: Doors, known: dict[str, str]) -> None:
    """Enter shows a transaction with its moves, PSP calls, transfers and events; Escape goes back to the list."""
    async with showing(doors, "transactions", size=(160, 48)) as (app, pilot):
        await sees(app, known["won"])
        await pilot.press("slash", *"status:succeeded kind:payment", "enter")
        await sees(app, "1 shown")
        await pilot.press("enter")
        await sees(app, "payment of 20.00 USD: succeeded", "history", "pending", "transfer", f" trace {known['won']}")
        assert isinstance(app.screen, TransactionDetail)
        await pilot.press("escape")
        await sees(app, "1 shown")


async def test_keys_change_screens(doors: Doors, known: dict[str, str]) -> None:
    """1 and 2 go to the screens; letters that are typed into the filter are no keys."""
    async with showing(doors, "overview") as (app, pilot):
        await sees(app, "Trial balance")
        await pilot.press("2")
        await sees(app, known["won"])
        await pilot.press("slash", *"q12t")
        assert app.screen.query_one(Input).value == "q12t" and app.is_running
        await pilot.press("escape", "1")
        await sees(app, "Trial balance")


# Connection ----------------------------------------------------------------------------------------------------------


async def test_a_lost_connection_comes_back(settings: Settings, known: dict[str, str]) -> None:
    """A server that does not answer is said in a banner; what was seen stays, and when it is back the banner goes."""
    dead = msgspec.structs.replace(settings, database_url="postgresql://nobody@127.0.0.1:1/none")
    current = [dead]
    async with showing(doors_to(lambda: current[0]), "transactions") as (app, _):
        await sees(app, "No connection; trying again")
        current[0] = settings
        assert "No connection" not in await sees(app, known["won"])


async def test_a_newer_question_replaces_an_older(doors: Doors, known: dict[str, str]) -> None:
    """The answer to a question that was asked before another is never drawn after it."""
    async with showing(doors, "transactions") as (app, _):
        await sees(app, known["won"])
        screen = app.screen
        assert isinstance(screen, Live)
        drawn: list[Any] = []
        screen.draw = drawn.append  # type: ignore[method-assign]
        gate: list[Callable[[], Awaitable[Any]]] = [_never, _now]
        screen.fetch = lambda: gate.pop(0)() if gate else _now()  # type: ignore[method-assign]
        screen.action_again()
        await eventually(_left(gate, 1))
        screen.action_again()
        await eventually(_left(gate, 0))
        await eventually(_filled(drawn))
        assert drawn[0] == "newer" and len([worker for worker in app.workers if worker.group == "fetch"]) == 1


async def _never() -> Any:
    import asyncio

    await asyncio.Event().wait()


async def _now() -> Any:
    return "newer"


def _left(gate: list[Any], count: int) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return len(gate) <= count

    return look


def _filled(drawn: list[Any]) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return bool(drawn)

    return look


# Command line --------------------------------------------------------------------------------------------------------


def test_a_screen_that_is_none_is_refused(doors: Doors, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown screen is named with those that there are; without a terminal the command says what does work."""
    with pytest.raises(InvalidInput, match="overview, transactions"):
        Dash(doors, screen="orders")
    assert run(["--home", settings.home, "dash"]) == 2
    assert "--once" in capsys.readouterr().err


def test_one_screen_as_text(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`pasys dash --screen NAME --once` prints the screen without colours and ends."""
    for name in ("database_url", "nats_url", "redis_url"):
        monkeypatch.setenv(name.upper(), getattr(settings, name))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "30")
    assert run(["--home", settings.home, "dash", "--screen", "overview", "--once"]) == 0
    printed = capsys.readouterr().out
    assert "Trial balance" in printed and "postgres" in printed and "\x1b" not in printed


@pytest.mark.parametrize("debug", [False, True])
def test_a_fault_of_its_own_is_an_unexpected_error(
    debug: bool, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends with exit code 1 and the sentence of any command, with the trace only where --debug asks for it, and
    never with what its variables held: settings have passwords."""
    for name in ("database_url", "nats_url", "redis_url"):
        monkeypatch.setenv(name.upper(), getattr(settings, name))
    monkeypatch.setenv("TEXTUAL_DRIVER", "textual.drivers.headless_driver:HeadlessDriver")

    def fault(self: OverviewScreen, answer: object) -> None:
        password = "hunter2"
        raise ZeroDivisionError(f"of {len(password)} letters")

    monkeypatch.setattr(OverviewScreen, "draw", fault)
    assert run([*(["--debug"] if debug else []), "--home", settings.home, "dash"]) == 1
    said = capsys.readouterr()
    assert "error: unexpected: ZeroDivisionError: of 7 letters" in said.err
    assert "hunter2" not in said.err + said.out
    assert ("in fault" in said.err) == debug


async def test_a_screen_that_was_left_at_once_asks_nothing(doors: Doors) -> None:
    """Who only passes by leaves no question behind: nobody would look at its answers."""
    async with showing(doors, "overview") as (app, pilot):
        await sees(app, "debits equal credits")
        for name in ("accounts", "overview", "accounts", "overview"):
            app.switch_mode(name)
        await pilot.pause(0.3)
        await sees(app, "Overview   ")
        asking = [worker.node for worker in app.workers if worker.group == "fetch" and worker.is_running]
        assert asking == [app.screen]


async def test_whoever_changes_screens_all_day_needs_no_more_memory(doors: Doors) -> None:
    """What a screen has shown of its keys is let go of, however often it was left and looked at again."""
    async with showing(doors, "overview") as (app, pilot):

        async def kept(changes: int) -> int:
            for _ in range(changes):
                await pilot.press("3")
                await sees(app, "Accounts   ")
                await pilot.press("1")
                await sees(app, "Overview   ")
            gc.collect()
            return sum(type(found) is FooterKey for found in gc.get_objects())

        before = await kept(3)
        assert await kept(8) <= before, "of the keys of sixteen screens"


@pytest.mark.parametrize("error", [DatabaseUnavailable(reason="gone"), InvalidInput(field="asset", reason="unknown")])
async def test_a_screen_that_was_taken_down_hears_of_no_error(
    doors: Doors, monkeypatch: pytest.MonkeyPatch, error: PasysError
) -> None:
    """Its question ends in an error when there is nothing left to say it on: the dashboard goes on, or ends well."""
    asked, taken_down = asyncio.Event(), asyncio.Event()

    async def fetch(_: OverviewScreen) -> None:
        asked.set()
        await taken_down.wait()
        raise error

    monkeypatch.setattr(OverviewScreen, "fetch", fetch)
    async with showing(doors, "overview") as (app, pilot):
        await asked.wait()
        await app.screen.remove_children()
        taken_down.set()
        await pilot.pause(0.1)
        assert app.is_running
