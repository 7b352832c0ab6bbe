"""Every screen of the dashboard as it looked when somebody last looked at it: tests/snapshots/, at 80x24 and 160x48.

After a change that is meant, renew them and read what changed:

    PASYS_TEST_RENEW=1 .venv/bin/python -m pytest tests/test_dash_snapshots.py; git diff tests/snapshots
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from daemons.reconciliation import match
from pasys import ids
from pasys.bus import Bus
from pasys.config import Settings
from pasys.db import Database
from pasys.events import ReconciliationFetched, SettlementUnknown
from pasys.money import parse
from pasys.service import account, reconciliation, refund, settlement, transaction
from pasys.service.transaction import Draft
from pasys.tui.account import AccountDetail
from pasys.tui.app import SCREENS_BY_NAME, Dash, Doors, text_of
from pasys.tui.ledger import JournalScreen, VerifyScreen
from pasys.tui.live import Live
from pasys.tui.transaction import TransactionDetail
from tests.dash_kit import NOON, SERVICES, sees
from tests.psp_answers import capture, clear, decline
from tests.support import eventually, open_accounts, pay
from tests.test_dash_event import opened, park

SNAPSHOTS = Path(__file__).parent / "snapshots"
RENEW = "PASYS_TEST_RENEW" in os.environ
# What the bus and the machine's pace put in.
VARIES = (
    (re.compile(r"\d\d-\d\d \d\d:\d\d:\d\d(?=  ledger\.open)"), "mm-dd HH:MM:SS"),
    (re.compile(r"in \d+\.\d s"), "in N s"),
)
LOGS = {
    "ledger": "2026-01-01T12:00:01Z INFO ledger runs: 4 handlers, 4 timers\n"
    "2026-01-01T12:00:09Z WARNING relay: PostgreSQL did not answer: the connection is lost\n",
    "nats": "[17] 2026/01/01 11:59:58.000001 [INF] Server is ready\n",
    "postgres": "2026-01-01 12:00:08.500 UTC [18] FATAL:  terminating connection due to administrator command\n",
}


class Clock:
    """The time of the world in the pictures: it stands still, but where somebody moves it on."""

    def __init__(self) -> None:
        self.at = NOON

    def on(self, seconds: float = 7.0) -> None:
        self.at += timedelta(seconds=seconds)

    def time_ns(self) -> int:
        return int(self.at.timestamp() * 1_000_000) * 1_000

    def kind(self) -> type[datetime]:
        clock = self

        class Still(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> datetime:
                return clock.at.astimezone(tz)

        return Still


@pytest.fixture(scope="module")
def clock() -> Iterator[Clock]:
    """Time and chance as they always are here, for ids, units and ages; and no time zone."""
    found, chance = Clock(), random.Random(7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        patch.setattr(ids, "time", found)
        patch.setattr(ids, "random", SimpleNamespace(getrandbits=chance.getrandbits, randbytes=chance.randbytes))
        patch.setattr(ids, "_last_stamp", 0)
        patch.setattr(ids, "_last_number", 0)
        for module in ("pasys.tui.review", "pasys.tui.reconciliation"):
            patch.setattr(f"{module}.datetime", found.kind())
        unit = Database.unit
        patch.setattr(Database, "unit", lambda self, **more: unit(self, **{"now": found.at, **more}))
        yield found
    time.tzset()


@pytest.fixture(scope="module")
async def world(
    spaces: Callable[[], AbstractContextManager[Settings]], clock: Clock, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Doors, dict[str, str]]]:
    """Payments of every kind, what waits for people, dead letters, and logs; and the ids that pictures are of."""
    home = tmp_path_factory.mktemp("home")
    (home / "logs").mkdir()
    for name, text in LOGS.items():
        (home / "logs" / f"{name}.log").write_text(text)
    with spaces() as found, pytest.MonkeyPatch.context() as patch:
        patch.setattr("pasys.tui.source.default_home", lambda: home)  # so that commands do not name it
        settings = msgspec.structs.replace(found, home=str(home))
        database = Database(settings)
        known = await populate(database, clock)
        await database.close()
        bus = await Bus(settings).connect()
        await park(bus, "first", "AccountNotFound: there is no account acc_first")
        await bus.publish([opened(name) for name in ("ada", "ben", "cleo")])
        await bus.close()
        yield Doors(load=lambda: settings, look=lambda _: SERVICES, moment=lambda _: clock.at), known


async def populate(database: Database, clock: Clock) -> dict[str, str]:
    async with database.unit() as unit:
        await open_accounts(unit)
        await transaction.create(unit, Draft(amount=parse("9000.00", "USD"), credit="alice"))
    found = {}
    for name, amount in (
        ("won", "20.00"),
        ("lost", "30.00"),
        ("big", "2000.00"),
        ("doubt", "12.00"),
        ("open", "41.50"),
    ):
        clock.on()
        found[name] = await pay(database, amount)
    clock.on()
    await capture(database, found["won"])
    await decline(database, found["lost"])
    clock.on()
    await capture(database, found["big"])
    async with database.unit(actor="ann") as unit:
        await refund.request(unit, found["big"], amount=parse("1500.00", "USD"), reason="half of it broke")
    await clear(database, found["doubt"])
    said = SettlementUnknown(
        transaction_id=found["doubt"], psp="instant", step="authorise", reason="no answer", latency_ms=5, asset="USD"
    )
    async with database.unit() as unit:
        await settlement.doubt(unit, [said])
        found["alice"] = (await account.find(unit, "alice", "USD")).id
    clock.on(3_600)
    async with database.unit() as unit:
        run = await reconciliation.start(unit, "instant")
        fetched = ReconciliationFetched(
            asset="XXX", run_id=run.run_id, psp="instant", since=NOON, until=run.until, lines=[], cursor=None
        )
        await match(fetched, unit)
    clock.on(60)
    return found


BESIDE: dict[str, tuple[str, Callable[[dict[str, str]], Live], str]] = {
    "transaction": ("transactions", lambda known: TransactionDetail(known["big"]), "pasys trace"),
    "account": ("accounts", lambda known: AccountDetail(known["alice"]), "pasys account statement"),
    "journal": ("accounts", lambda _: JournalScreen("USD"), "down to 1"),
    "verify": ("accounts", lambda _: VerifyScreen(), "The books hold"),
}


@pytest.mark.parametrize("size", [(80, 24), (160, 48)], ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", [*SCREENS_BY_NAME, *BESIDE])
async def test_a_screen_is_as_it_was(world: tuple[Doors, dict[str, str]], name: str, size: tuple[int, int]) -> None:
    """What the screen shows of the same world is, letter by letter, what it showed before."""
    doors, known = world
    first, make, words = BESIDE.get(name, (name, None, ""))
    path = SNAPSHOTS / f"{name}-{size[0]}x{size[1]}.txt"
    app = Dash(doors, screen=first)
    async with app.run_test(size=size) as pilot:
        await sees(app, "read-only")
        if make is not None:
            await app.push_screen(make(known))
            await sees(app, words)
        else:
            await app.screen.settled.wait()  # type: ignore[attr-defined]
        await pilot.pause()
        if RENEW:
            SNAPSHOTS.mkdir(exist_ok=True)
            path.write_text(picture(app), encoding="utf-8")
        wanted = path.read_text(encoding="utf-8")
        with contextlib.suppress(AssertionError):  # what is drawn last may come a moment after what was waited for
            await eventually(lambda: same(app, wanted), within_s=5.0)
        text = picture(app)
    assert max(map(len, text.splitlines())) <= size[0] and len(text.splitlines()) <= size[1]
    assert text == wanted, f"{path.name} has changed; this module says how to renew it"


def picture(app: Dash) -> str:
    """The screen's text, but for what is different each time."""
    text = "\n".join(line.rstrip() for line in text_of(app.screen).splitlines()) + "\n"
    for pattern, instead in VARIES:
        text = pattern.sub(instead, text)
    return text


async def same(app: Dash, wanted: str) -> bool:
    return picture(app) == wanted
