"""The review screen: what waits for a person, why, and how it is decided, by whom."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from textual.widgets import Input

from pasys.cli.dash import SCREENS
from pasys.config import Settings
from pasys.db import Database
from pasys.events import SettlementUnknown
from pasys.money import parse
from pasys.service import fraud, overview, refund, refund_query, settlement, transaction, transaction_query, unknown
from pasys.service.fraud_watch import Watch
from pasys.service.transaction import Draft
from pasys.tui.action import Confirm
from pasys.tui.app import SCREENS_BY_NAME, Doors, once
from pasys.tui.review import EMPTY, ReviewScreen
from tests import fraud_kit
from tests.dash_kit import books, does_the_same, doors_to, opened, sees, showing
from tests.fraud_kit import review_one
from tests.psp_answers import capture, clear, doubt_refund, send_refund
from tests.support import open_accounts, pay

door = fraud_kit.door
ASKED_BY = "ann"


@pytest.fixture
async def waiting(db: Database, door: Watch) -> dict[str, str]:
    """In this order: a refund that ann asked for, an unknown payment, an unknown refund, a review."""
    async with db.unit() as unit:
        await open_accounts(unit)
        await transaction.create(unit, Draft(amount=parse("9000.00", "USD"), credit="alice"))
    big, doubt, small = [await pay(db, amount) for amount in ("2000.00", "12.00", "30.00")]
    found = {"big": big, "doubt": doubt, "small": small}
    await capture(db, big)
    await capture(db, small)
    async with db.unit(actor=ASKED_BY) as unit:
        asked = await refund.request(unit, big, amount=parse("1500.00", "USD"), reason="half of it broke")
    found["refund"] = asked.refund_id
    await clear(db, doubt)
    said = SettlementUnknown(
        transaction_id=doubt, psp="instant", step="authorise", reason="no answer", latency_ms=5, asset="USD"
    )
    late = datetime.now(UTC) + timedelta(days=2)  # so late that only a person asks again
    async with db.unit(now=late) as unit:
        await settlement.doubt(unit, [said])
    async with db.unit() as unit:
        found["sent"] = (await refund.request(unit, small)).refund_id
    await send_refund(db, found["sent"])
    await doubt_refund(db, found["sent"])
    async with db.unit() as unit:
        await unit.rows("update attempt set ask_after = null where entity_id = %(id)s", id=found["sent"])
    found["review"] = await review_one(db, door)
    return found


PLACE = {"refund": 0, "doubt": 1, "sent": 2, "review": 3}


# What is shown -------------------------------------------------------------------------------------------------------


async def test_what_a_psp_has_not_told_is_listed(db: Database, waiting: dict[str, str]) -> None:
    """Payments and refunds whose outcome is unknown are one list, longest first, and the overview counts the same."""
    async with db.unit() as unit:
        rows = await unknown.listing(unit)
        now = await overview.overview(unit)
    assert [(row.id, row.transaction_id, row.step, str(row.amount)) for row in rows] == [
        (waiting["doubt"], waiting["doubt"], "authorise", "12.00 USD"),
        (waiting["sent"], waiting["small"], "refund", "30.00 USD"),
    ]
    assert now.waiting == overview.Waiting(reviews=1, approvals=1, unknown=2, breaks=0)


@pytest.mark.parametrize("size", [(80, 24), (160, 48)])
async def test_the_review_screen_fits(size: tuple[int, int], doors: Doors, waiting: dict[str, str]) -> None:
    """At 80 by 24 and at 160 by 48 every row is there, and below the list why the first of them waits."""
    text = await once(doors, "review", width=size[0], height=size[1])
    assert len(text.splitlines()) == size[1] and max(map(len, text.splitlines())) <= size[0]
    for words in (
        "1 fraud review, 1 refund to approve, 2 unknown outcomes", "6,000.00 USD", "alice", "no answer",
        f"{waiting['refund']}: 1,500.00 USD of", f"asked for by {ASKED_BY} at", "half of it broke", "y: approve",
    ):  # fmt: skip
        assert words in text, text


async def test_nothing_to_review_is_said(doors: Doors, db: Database) -> None:
    """Where nothing waits, a sentence says so and where to look."""
    text = await once(doors, "review", width=80, height=24)
    assert " ".join(text.split()).startswith("pasys Review read-only (a: arm)")
    assert EMPTY in " ".join(text.split()), text


async def test_the_reasons_follow_the_cursor(doors: Doors, waiting: dict[str, str]) -> None:
    """The list is in the order of the waiting; whatever the cursor is on is explained, and Enter tells its story."""
    async with showing(doors, "review") as (app, pilot):
        await sees(app, f"{waiting['refund']}: 1,500.00 USD of {waiting['big']}")
        assert isinstance(app.screen, ReviewScreen)
        assert [row.value for row in app.screen.rows.rows] == [waiting[name] for name in PLACE]
        await pilot.press("down")
        said = "instant has not said what became of 12.00 USD (authorise: no answer); asked once, not again by itself"
        await sees(app, f"{waiting['doubt']}: {said}")
        await pilot.press("down", "down")
        await sees(app, f"{waiting['review']}: payment of 6,000.00 USD", "amount (+0.60): above 5,000.00 USD")
        await pilot.press("enter")
        await sees(app, f" trace {waiting['review']}")
        await pilot.press("escape")
        await sees(app, f"{waiting['review']}: payment of")


# Decisions -----------------------------------------------------------------------------------------------------------

CASES = {
    "approve a review": ("review", "y", "known customer; don't ask again", "", 0),
    "reject a review": ("review", "x", "stolen card", "", 0),
    "approve a refund": ("refund", "y", "", "", 0),
    "approve a refund with a reason": ("refund", "y", "as agreed", "", 0),
    "reject a refund": ("refund", "x", "-- not agreed --", "", 0),
    # The command also waits for what the PSP says; here nobody asks it, so it waits for nothing.
    "ask about a payment": ("doubt", "k", "", " --timeout 0", 8),
    "ask about a refund": ("sent", "k", "", " --timeout 0", 8),
}


@pytest.mark.parametrize("case", CASES)
async def test_a_key_does_what_its_command_does(
    case: str, doors: Doors, settings: Settings, db: Database, waiting: dict[str, str]
) -> None:
    """Each decision and the command that it shows leave two worlds the same, row by row; what was decided is gone."""
    which, key, reason, more, code = CASES[case]
    async with showing(doors, "review") as (app, pilot):
        await sees(app, "1 fraud review")
        await pilot.press("a", *["down"] * PLACE[which])
        await sees(app, f"{waiting[which]}: ")
        screen = await opened(app, pilot, key)
        if reason:
            screen.query_one("#field-reason", Input).value = reason
            await pilot.pause()
        await does_the_same(app, pilot, settings, db, more=more, code=code)
        await pilot.press("enter")
        await sees(app, "Review   ARMED", waiting[which])  # in the sentence that says what was done
        if key != "k":
            await sees(app, "2 unknown outcomes", "1 refund" if which == "review" else "1 fraud review")
            assert isinstance(app.screen, ReviewScreen) and len(app.screen.rows.rows) == 3


async def test_unarmed_keys_change_nothing(doors: Doors, settings: Settings, waiting: dict[str, str]) -> None:
    """Without arming, y, x and k say how to arm, on every row, open nothing, and no table differs."""
    before = books(settings)
    async with showing(doors, "review") as (app, pilot):
        await sees(app, "1 fraud review")
        for _ in PLACE:
            for key in "yxk":
                await pilot.press(key)
                await sees(app, "nothing was changed. Press a to arm")
                assert not isinstance(app.screen, Confirm)
            await pilot.press("down")
    assert books(settings) == before


async def test_a_decision_needs_its_reason(
    doors: Doors, settings: Settings, db: Database, waiting: dict[str, str]
) -> None:
    """Where the record wants a reason, Enter without one changes nothing and says so; with one it is decided, once, by
    the name that the first line shows."""
    before = books(settings)
    async with showing(doors, "review") as (app, pilot):
        await sees(app, "1 fraud review")
        await pilot.press("a", "down", "down", "down")
        await sees(app, f"{waiting['review']}: ")
        await opened(app, pilot, "x")
        await pilot.press("enter")
        await sees(app, "Nothing was changed: reason is missing")
        assert books(settings) == before
        await pilot.press(*"mine", "enter")
        await sees(app, "Done.", "is fraud")
    async with db.unit() as unit:
        last = (await fraud.explain(unit, waiting["review"]))[-1]
    assert (last.outcome, last.decided_by, last.reasons[0]["facts"]["reason"]) == ("flagged", "tester", "mine")


async def test_four_eyes(settings: Settings, db: Database, waiting: dict[str, str]) -> None:
    """Who asked for a refund is told that another person decides, and refused by that rule; another person is not."""
    ann = doors_to(lambda: msgspec.structs.replace(settings, actor=ASKED_BY))
    before = books(settings)
    async with showing(ann, "review") as (app, pilot):
        await sees(app, f"You ({ASKED_BY}) asked for it: another person has to decide")
        await pilot.press("a")
        for key, reason in (("y", ""), ("x", "changed my mind")):
            screen = await opened(app, pilot, key)
            screen.query_one("#field-reason", Input).value = reason
            await pilot.press("enter")
            await sees(app, "Refused (second_person_required)", f"was requested by {ASKED_BY}")
            await pilot.press("escape")
            await sees(app, "1 fraud review")
    assert books(settings) == before
    async with showing(doors_to(lambda: settings), "review") as (app, pilot):
        await sees(app, "y: approve")
        await pilot.press("a")
        await opened(app, pilot, "y")
        await pilot.press(*"agreed", "enter")
        await sees(app, "Done.", "is approved, and on its way")
    async with db.unit() as unit:
        row = await refund_query.get(unit, waiting["refund"])
        last = (await refund_query.history(unit, waiting["refund"]))[-1]
    assert (row.status, row.decided_by, last.actor, last.reason) == ("approved", "tester", "tester", "agreed")


async def test_what_another_decided_first_is_refused(
    doors: Doors, db: Database, door: Watch, waiting: dict[str, str]
) -> None:
    """Between the look and the key somebody else decides: the key is refused by the rule, and the row is gone."""
    async with showing(doors, "review") as (app, pilot):
        await sees(app, "1 fraud review")
        await pilot.press("a", "down", "down", "down")
        await sees(app, f"{waiting['review']}: ")
        await opened(app, pilot, "y")
        async with db.unit(actor="bob") as unit:
            await fraud.reject(unit, waiting["review"], "stolen")
        await pilot.press(*"fine", "enter")
        await sees(app, "Refused (review_not_found)")
        await pilot.press("escape")
        await sees(app, "1 refund to approve, 2 unknown outcomes")
    async with db.unit() as unit:
        assert (await transaction_query.get(unit, waiting["review"])).review is False


async def test_keys_that_do_not_fit_say_so(doors: Doors, settings: Settings, waiting: dict[str, str]) -> None:
    """A PSP's silence is not for a person to decide, and a PSP is not asked about a review: both are said."""
    async with showing(doors, "review") as (app, pilot):
        await sees(app, "1 fraud review")
        await pilot.press("a", "k")
        await sees(app, "A PSP is asked only about what it has not told")
        await pilot.press("down")
        await sees(app, f"{waiting['doubt']}: ")
        await pilot.press("y")
        await sees(app, "Nobody can decide what a PSP has done")


def test_help_names_every_screen() -> None:
    """What `--screen` offers are the screens that there are, in their order."""
    assert tuple(SCREENS_BY_NAME) == SCREENS
