"""The dashboard's application: it names its screens, holds the source of their answers, and is armed or is not."""

from __future__ import annotations

import asyncio
import os
from typing import Any, ClassVar, cast

from textual.app import App
from textual.binding import Binding, BindingType
from textual.reactive import reactive
from textual.screen import Screen

from pasys.errors import InvalidInput, PasysError
from pasys.tui.account import AccountScreen
from pasys.tui.dead_letter import DeadLetterScreen
from pasys.tui.event import EventScreen
from pasys.tui.live import Live
from pasys.tui.log import LogScreen
from pasys.tui.overview import OverviewScreen
from pasys.tui.reconciliation import ReconciliationScreen
from pasys.tui.review import ReviewScreen
from pasys.tui.source import Doors as Doors
from pasys.tui.source import Source
from pasys.tui.theme import DARK, LIGHT, themes
from pasys.tui.transaction import TransactionScreen

# The key of each screen, its name and what it is; those without a key are beside the one before them.
SCREENS: tuple[tuple[str, str, type[Live]], ...] = (
    ("1", "overview", OverviewScreen),
    ("2", "transactions", TransactionScreen),
    ("3", "accounts", AccountScreen),
    ("4", "review", ReviewScreen),
    ("5", "reconciliation", ReconciliationScreen),
    ("6", "events", EventScreen),
    ("", "dead-letters", DeadLetterScreen),
    ("", "logs", LogScreen),
)
SCREENS_BY_NAME: dict[str, type[Live]] = {name: screen for _, name, screen in SCREENS}
ONCE_TIMEOUT_S = 20.0
LOOK_EVERY_S = 1.0  # whether a browser's dashboard is still served


class Dash(App[None]):
    """pasys dash. Numbers go to screens; `a` arms, and without it no key changes anything; `t` is for dark or light."""

    TITLE = "pasys"
    MODES: ClassVar[Any] = dict(SCREENS_BY_NAME)
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(key, f"switch_mode('{name}')", str(kind.TITLE), show=False) for key, name, kind in SCREENS if key),
        Binding("a", "arm", "Arm", show=False),  # the first line has it
        Binding("t", "shade", "Dark or light", show=False),
        ("q", "quit", "Quit"),
    ]

    TABS = "  ".join(f"{key} {kind.TITLE}" for key, _, kind in SCREENS if key)
    armed: reactive[str | None] = reactive(None)  # under whose name keys change things, or None where they do not

    def __init__(self, doors: Doors, *, screen: str = "overview", served_by: int | None = None) -> None:
        """Raises InvalidInput for a screen that is none, InvalidSettings for a brand that is none."""
        if screen not in SCREENS_BY_NAME:
            raise InvalidInput(field="screen", reason=f"{screen!r} is none of {', '.join(SCREENS_BY_NAME)}")
        super().__init__()
        self.brand = doors.load().dash
        self.title = self.brand.name
        self.source = Source(doors)
        self._first = screen
        self._served_by = served_by  # the process that serves it to a browser

    def on_mount(self) -> None:
        for theme in themes(self.brand):
            self.register_theme(theme)
        self.theme = LIGHT if self.brand.theme == "light" else DARK
        self.switch_mode(self._first)
        if self._served_by is not None:
            self.set_interval(LOOK_EVERY_S, self._end_with_server)

    def _end_with_server(self) -> None:
        if os.getppid() != self._served_by:  # it was killed, and nobody looks at this any more
            self.exit()

    def action_arm(self) -> None:
        """Read-only until this is pressed, and again when it is pressed once more."""
        try:
            self.armed = self.source.who() if self.armed is None else None
        except PasysError as error:
            cast(Live, self.screen).say(str(error))

    def action_shade(self) -> None:
        self.theme = LIGHT if self.theme == DARK else DARK

    async def on_unmount(self) -> None:
        await self.source.close()


async def once(doors: Doors, screen: str, *, width: int, height: int) -> str:
    """One screen as text, when its first answer is drawn or its error said."""
    app = Dash(doors, screen=screen)
    async with app.run_test(size=(width, height)) as pilot:
        await pilot.pause()
        async with asyncio.timeout(ONCE_TIMEOUT_S):
            await cast(Live, app.screen).settled.wait()
        await pilot.pause()
        return text_of(app.screen)


def text_of(screen: Screen[Any]) -> str:
    """What a screen shows, line by line, without colours."""
    strips = screen._compositor.render_strips()  # Textual has no public name for it
    return "\n".join(strip.text.rstrip() for strip in strips)
