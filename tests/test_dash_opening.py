"""The dashboard's first picture: it is there before what takes long is loaded."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from textual.pilot import Pilot

from pasys.config import Settings
from pasys.tui import app as tui
from tests.dash_kit import doors_to, sees
from tests.house_source import run_python
from tests.support import eventually

HEAVY = ("sqlalchemy", "psycopg", "nats", "redis", "numpy", "aiohttp")
Slowly = Callable[[], None]


@pytest.fixture
def opening(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """A dashboard whose first screen takes as long to load as the test wants."""
    gate = asyncio.Event()
    module_of = tui.module_of
    monkeypatch.setattr(tui, "module_of", lambda name: module_of(name) if gate.is_set() else "not loaded yet")

    class Slow(tui.Dash):
        async def _open(self) -> None:
            await gate.wait()
            await super()._open()
            self.title = "loaded"

    @asynccontextmanager
    async def begin() -> AsyncIterator[tuple[tui.Dash, Pilot[None], Slowly]]:
        app = Slow(doors_to(lambda: settings), screen="transactions")
        async with app.run_test(size=(80, 24)) as pilot:
            yield app, pilot, gate.set

    return begin


def test_the_first_picture_needs_no_driver() -> None:
    """What is loaded before the first picture is Textual and the settings: no driver, no numpy."""
    loaded = run_python(f"import sys, pasys.tui.app; print(*(set({HEAVY}) & set(sys.modules)))")
    assert not loaded.split()


async def test_the_frame_is_there_at_once(opening: Callable[..., object]) -> None:
    """While the first screen is loaded its frame is there, and keys do no harm; then it comes."""
    async with opening() as (app, pilot, load):  # type: ignore[attr-defined]
        await sees(app, "opens …", "1 Overview", "6 Events")
        await pilot.press("a", "t")
        assert app.armed is None
        load()
        await sees(app, "Transactions   read-only")


async def test_garbage_is_looked_for_once_in_a_while(
    opening: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old garbage is looked for by the clock and not whenever a key has made some; afterwards all is as it was."""
    monkeypatch.setattr(tui, "COLLECT_EVERY_S", 0.05)
    before = gc.get_threshold()
    async with opening() as (app, _, load):  # type: ignore[attr-defined]
        load()
        await sees(app, "Transactions   read-only")
        await eventually(lambda: _done(gc.get_threshold()[2] > 10**6))
        looked = gc.get_stats()[2]["collections"]
        await eventually(lambda: _done(gc.get_stats()[2]["collections"] > looked + 2))
    assert gc.get_threshold() == before


async def _done(done: bool) -> bool:
    return done


async def test_a_number_while_it_loads_counts(opening: Callable[..., object]) -> None:
    """Another screen's key is not undone when the first screen has been loaded."""
    async with opening() as (app, pilot, load):  # type: ignore[attr-defined]
        await sees(app, "opens …")
        await pilot.press("3")
        await sees(app, "Accounts   read-only")
        load()
        async with asyncio.timeout(60):
            while app.title != "loaded":
                await asyncio.sleep(0.02)
        await sees(app, "Accounts   read-only")
