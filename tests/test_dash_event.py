"""The dashboard's events, dead letters and logs on a real bus and real files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from nats.aio.msg import Msg
from textual.widgets import Log

from pasys import ids
from pasys.bus import Bus
from pasys.cli import dash as command
from pasys.config import Settings
from pasys.errors import InvalidInput
from pasys.events import AccountOpened, Announcement, Envelope, pattern
from pasys.service import event
from pasys.stack.logs import LEVELS, Newest, level_of
from pasys.tui import log_filter
from pasys.tui.app import SCREENS_BY_NAME, Doors, once
from pasys.tui.event import EventScreen
from pasys.tui.flow import DRAWN, KEPT, Flow
from pasys.tui.log import LogScreen
from tests.dash_kit import NOON, doors_to, sees, showing
from tests.support import eventually


@pytest.fixture
async def bus(settings: Settings) -> AsyncIterator[Bus]:
    found = await Bus(settings).connect()
    yield found
    await found.close()


def opened(name: str, asset: str = "USD") -> Announcement:
    """An event that says that an account was opened."""
    fact = AccountOpened(asset=asset, account_id=f"acc_{name}", name=name, type="customer")
    envelope = Envelope(
        id=ids.new("evt"),
        subject=fact.subject,
        version=fact.version,
        time=NOON,
        correlation_id=fact.entity_id,
        data=msgspec.Raw(msgspec.json.encode(fact)),
    )
    return Announcement(envelope.id, f"{fact.subject}.{asset}", msgspec.json.encode(envelope))


async def park(bus: Bus, name: str, reason: str) -> None:
    """A message that a handler could not handle stands aside."""
    await bus.publish([opened(name)])
    pull = await bus.subscribe("parker", ["account.opened"], batch=1)
    (message,) = await pull.take(1)
    await bus.park(message, handler="ledger.open", event_id=f"evt_{name}", reason=reason, traceback="line 1\nline 2")
    await pull.close()


# Flow ----------------------------------------------------------------------------------------------------------------


def test_a_flow_counts_what_it_does_not_show() -> None:
    """Whatever comes, what is taken and what is skipped is all that passed, and no more than KEPT waits."""
    flow: Flow[int] = Flow()
    for number in range(3):
        flow.add(number)
    assert flow.take(DRAWN) == [0, 1, 2] and flow.skipped == 0
    for number in range(4 * KEPT):
        flow.add(number)
    assert flow.waiting == 4 * KEPT
    assert flow.take(DRAWN) == list(range(4 * KEPT))[-DRAWN:]
    assert (flow.passed, flow.skipped, flow.waiting) == (4 * KEPT + 3, 4 * KEPT - DRAWN, 0)
    assert flow.take(KEPT) == []


def test_a_pace_is_that_of_lately() -> None:
    """The pace is of the last seconds: a flood that is over does not count."""
    flow: Flow[int] = Flow()
    assert flow.pace(0.0) == 0.0
    for number in range(100):
        flow.add(number)
    assert flow.pace(2.0) == 50.0
    assert flow.pace(4.0) == 25.0
    assert flow.pace(20.0) == 0.0


# Filters -------------------------------------------------------------------------------------------------------------


def test_a_subject_is_what_the_bus_has() -> None:
    """A noun, a subject and a pattern become what the bus is asked for; what is none is refused."""
    assert pattern("account") == "account.>" and pattern("account.opened") == "account.opened.*"
    assert pattern("refund.*.USD") == "refund.*.USD" and pattern(">") == ">"
    for wrong in ("", "a..b", "a b", "a.>.b", ".a"):
        with pytest.raises(InvalidInput):
            pattern(wrong)


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("2026-11-25T21:28:20.610Z WARNING relay: consuming failed", "warning"),
        ("2026-11-25T21:28:20.610Z ERROR relay: [INF] is no level here", "error"),
        ("2026-11-25 21:25:29.262 UTC [8552] LOG:  starting PostgreSQL", "info"),
        ("2026-11-25 21:25:29.262 UTC [8552] FATAL:  no such database", "error"),
        ("[8439] 2026/11/25 21:25:20.954576 [WRN] Plaintext passwords", "warning"),
        ("8447:M 25 Nov 2026 21:25:20.964 # WARNING Memory overcommit", "warning"),
        ("8447:M 25 Nov 2026 21:25:20.964 * Valkey is starting", "info"),
        ("Traceback (most recent call last):", None),
        ("the ERROR of somebody's ways", None),
    ],
)
def test_a_line_says_how_grave_it_is(line: str, level: str | None) -> None:
    """Our daemons, PostgreSQL, NATS and Valkey each write levels in a way of their own; a word in a text is none."""
    assert level_of(line) == level


def test_a_filter_of_lines_is_what_it_says() -> None:
    """Level and service narrow, other words must all be there; a level that is none is refused."""
    found = log_filter.parse("level:warning service:sett lost connection")
    assert found.lets("settlement", "error", "the connection is lost")
    assert not found.lets("settlement", "info", "the connection is lost")
    assert not found.lets("settlement", None, "the connection is lost")
    assert not found.lets("ledger", "error", "the connection is lost")
    assert not found.lets("settlement", "error", "the connection is back")
    assert all(log_filter.parse("").lets("any", level, "text") for level in (None, *LEVELS))
    for wrong in ("level:loud", "level:", "level:info level:error", "service:"):
        with pytest.raises(InvalidInput):
            log_filter.parse(wrong)


def test_logs_are_read_from_their_ends(tmp_path: Path) -> None:
    """The first reading has the whole lines at the end of each log, in order; later ones what came, each line once."""
    logs = tmp_path / "logs"
    logs.mkdir()
    a, b = logs / "a.log", logs / "b.log"
    a.write_text("".join(f"2026-01-01T12:00:{second:02}Z INFO a {second}\n" for second in range(0, 60, 2)))
    b.write_text("".join(f"2026-01-01T12:00:{second:02}Z INFO b {second}\n" for second in range(1, 60, 2)))
    newest = Newest(tmp_path, tail_bytes=150)
    first = [line.text[-4:].strip() for line in newest.read()]
    assert first == ["a 52", "b 53", "a 54", "b 55", "a 56", "b 57", "a 58", "b 59"] and newest.skipped_bytes == 0
    assert newest.read() == []
    with a.open("a") as file:
        file.write("2026-01-01T12:01:00Z INFO a 60\n2026-01-01T12:01:01Z INFO half")
    assert [line.text[-4:] for line in newest.read()] == ["a 60"]
    with a.open("a") as file:
        file.write(" done\n")
    assert [line.text[-9:] for line in newest.read()] == ["half done"]
    with b.open("a") as file:
        file.write("x" * 1_000 + "\n2026-01-01T12:02:00Z INFO b new\n")
    assert [line.text[-5:] for line in newest.read()] == ["b new"] and newest.skipped_bytes > 0


# Screens -------------------------------------------------------------------------------------------------------------


async def test_events_come_by_themselves(bus: Bus, doors: Doors) -> None:
    """What stood on the bus is there, what passes comes up, and a subject narrows to it."""
    await bus.publish([opened("early")])
    async with showing(doors, "events") as (app, pilot):
        await sees(app, "acc_early", "account.opened.USD", "name=early")
        await _listening(app.screen)
        await bus.publish([opened("late"), opened("euro", "EUR")])
        await sees(app, "acc_late", "acc_euro", "3 passed")
        await pilot.press("slash", *"account.*.EUR", "enter")
        await sees(app, "acc_euro", "account.*.EUR:")
        await _listening(app.screen)
        await bus.publish([opened("dollar"), opened("more", "EUR")])
        assert "acc_dollar" not in await sees(app, "acc_more")
        await pilot.press("slash", *"..", "enter")
        await sees(app, "is not a subject")


async def test_a_flood_of_events_stays_calm(bus: Bus, doors: Doors) -> None:
    """Of a thousand events at once a screenful is drawn, the others are counted, and no more than KEPT are held."""
    async with showing(doors, "events") as (app, pilot):
        await sees(app, "Nothing has passed yet")
        screen = app.screen
        assert isinstance(screen, EventScreen)
        await _listening(screen)
        await pilot.press("space")
        for start in range(0, 1_000, 200):
            await bus.publish([opened(f"n{start + number}") for number in range(200)])
        await sees(app, "PAUSED: 0 kept, 1,000 came since")
        await pilot.press("space")
        await sees(app, f"1,000 passed, {1_000 - DRAWN:,} not shown", "acc_n999")
        assert len(screen.kept) == DRAWN and screen.query_one(Log).line_count <= DRAWN + 1


async def test_a_paused_event_opens_in_full(bus: Bus, doors: Doors) -> None:
    """Space makes a list of what is kept; Enter shows an event with its envelope; Escape and Space go on."""
    await bus.publish([opened("one"), opened("two")])
    async with showing(doors, "events") as (app, pilot):
        await sees(app, "acc_two")
        await pilot.press("space")
        await sees(app, "PAUSED: 2 kept")
        await pilot.press("up", "enter")
        await sees(app, '"name": "one"', "story of", " trace acc_one")
        await pilot.press("escape")
        await sees(app, "PAUSED: 2 kept")
        await pilot.press("space")
        await sees(app, "all subjects:")


async def test_nobody_listens_to_what_nobody_sees(bus: Bus, doors: Doors) -> None:
    """On another screen the dashboard does not listen to the bus; back again it does."""
    async with showing(doors, "events") as (app, pilot):
        screen = app.screen
        await _listening(screen)
        await pilot.press("d")
        await sees(app, "Nothing stands aside")
        assert isinstance(screen, EventScreen) and screen._listens is None
        await pilot.press("e")
        await _listening(screen)
        await bus.publish([opened("back")])
        await sees(app, "acc_back")


async def test_a_message_that_cannot_be_read_is_shown(settings: Settings, bus: Bus, doors: Doors) -> None:
    """What is no event does not end the tail: it is named, with the reason."""
    async with showing(doors, "events") as (app, _):
        await _listening(app.screen)
        await bus.client.publish(f"{settings.bus_prefix}.account.opened.USD", b"{")
        await bus.publish([opened("fine")])
        await sees(app, "cannot be read", "acc_fine")


async def test_a_bus_that_comes_back_is_heard_again(settings: Settings, bus: Bus) -> None:
    """A bus that does not answer is said in a banner, and heard as soon as it does."""
    dead = msgspec.structs.replace(settings, nats_url="nats://127.0.0.1:1")
    current = [dead]
    async with showing(doors_to(lambda: current[0]), "events") as (app, _):
        await sees(app, "No connection; trying again")
        current[0] = settings
        await _listening(app.screen)
        await bus.publish([opened("again")])
        assert "No connection" not in await sees(app, "acc_again")


@pytest.mark.parametrize("subject", [">", "*.opened.USD", "*.*.*"])
async def test_the_server_s_own_messages_are_no_events(settings: Settings, subject: str) -> None:
    """Without a prefix, which is how a system runs alone, any subject means any event's, and not the requests, answers
    and acknowledgements that go over the same server."""
    bus = await Bus(msgspec.structs.replace(settings, bus_prefix="")).connect()
    heard: list[str] = []

    async def hear(message: Msg) -> None:
        heard.append(message.subject)

    watch = await bus.watch(subject, hear)
    for name in ("ada", "ben"):
        await bus.publish([opened(name)])
        await event.dead_count(bus)  # a request with an answer
        await bus.client.request("$JS.API.INFO", timeout=5)
    await eventually(lambda: _heard(heard, 2), within_s=5)
    await watch.unsubscribe()
    await bus.publish([opened("cleo")])
    await bus.client.flush()
    assert heard == ["account.opened.USD"] * 2
    for stream in (bus.events, bus.dead):
        await bus.js.delete_stream(stream)
    await bus.close()


async def _heard(heard: list[str], count: int) -> bool:
    return len(heard) >= count


async def test_dead_letters_tell_why(bus: Bus, doors: Doors) -> None:
    """Each dead letter stands with its handler and reason; Enter shows message and traceback; a filter narrows."""
    await park(bus, "first", "the account is upside down")
    await park(bus, "second", "no such asset")
    async with showing(doors, "dead-letters") as (app, pilot):
        await sees(app, "2 shown", "ledger.open", "upside down", "no such asset")
        await pilot.press("enter")
        await sees(app, '"name": "first"', "line 2", " events replay 1")
        await pilot.press("escape", "slash", *"no such", "enter")
        assert "upside down" not in await sees(app, "1 shown", "no such asset")


async def test_a_dead_letter_is_sent_again(bus: Bus, doors: Doors) -> None:
    """Armed, `s` shows the command that does the same and then sends the letter to its subject; it stands aside no
    more."""
    await park(bus, "sick", "it was not its day")
    heard: list[bytes] = []

    async def hear(message: object) -> None:
        heard.append(message.data)  # type: ignore[attr-defined]

    listens = await bus.watch("account.>", hear)
    async with showing(doors, "dead-letters") as (app, pilot):
        await sees(app, "it was not its day")
        await pilot.press("s")
        await sees(app, "Read-only: nothing was changed")
        await pilot.press("a", "s")
        await sees(app, "events replay 1", "Enter: do it")
        assert await event.dead_count(bus) == 1 and not heard
        await pilot.press("enter")
        await sees(app, "Done. account.opened.USD is on its way to ledger.open again.")
        await pilot.press("escape")
        await sees(app, "Nothing stands aside")
    assert await event.dead_count(bus) == 0 and b"sick" in heard[0]
    await listens.unsubscribe()


async def test_logs_are_merged(settings: Settings, tmp_path: Path) -> None:
    """Lines of all processes stand in the order of time; a level narrows, and takes what belongs to its line along."""
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "ledger.log").write_text(
        "2026-01-01T12:00:01Z INFO ledger runs\n2026-01-01T12:00:05Z ERROR it fell\nTraceback: of it\n"
    )
    (logs / "redis.log").write_text("8447:M 01 Jan 2026 12:00:03.000 # WARNING memory\n")
    doors = doors_to(lambda: msgspec.structs.replace(settings, home=str(tmp_path)))
    async with showing(doors, "logs") as (app, pilot):
        text = await sees(app, "ledger runs", "WARNING memory", "it fell", "Traceback: of it")
        assert text.index("ledger runs") < text.index("memory") < text.index("it fell") < text.index("Traceback")
        await pilot.press("slash", *"level:error", "enter")
        text = await sees(app, "it fell", "Traceback: of it", "2 read")
        assert "memory" not in text and isinstance(app.screen, LogScreen)
        with (logs / "redis.log").open("a") as file:
            file.write("8447:M 01 Jan 2026 12:00:09.000 # WARNING more\n")
        with (logs / "ledger.log").open("a") as file:
            file.write("2026-01-01T12:00:10Z ERROR it fell again\n")
        assert "more" not in await sees(app, "it fell again")
        await pilot.press("space")
        await sees(app, "PAUSED: 3 kept")
        await pilot.press("enter")
        await sees(app, "In full", "it fell again")


@pytest.mark.parametrize(
    ("screen", "words"),
    [("events", "pasys demo"), ("dead-letters", "every message was handled"), ("logs", "pasys up -d")],
)
async def test_an_empty_screen_says_what_to_do(screen: str, words: str, settings: Settings, tmp_path: Path) -> None:
    """Where there is nothing yet, a sentence says so, and what to do next."""
    doors = doors_to(lambda: msgspec.structs.replace(settings, home=str(tmp_path)))
    assert words in await once(doors, screen, width=80, height=24)


def test_every_screen_can_be_named() -> None:
    """The command offers the screens that there are, in the same order."""
    assert list(command.SCREENS) == list(SCREENS_BY_NAME)


async def _listening(screen: object) -> None:
    assert isinstance(screen, EventScreen)

    async def look() -> bool:
        return screen._listens is not None

    await eventually(look, within_s=30.0)
    await screen._bus.client.flush()  # type: ignore[union-attr]
