"""The dashboard's application: it names its screens and holds the source of their answers, and does nothing else."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, cast

from textual.app import App
from textual.binding import BindingType
from textual.screen import Screen

from pasys.errors import InvalidInput
from pasys.tui.live import Live
from pasys.tui.overview import OverviewScreen
from pasys.tui.source import Doors as Doors
from pasys.tui.source import Source
from pasys.tui.transaction import TransactionScreen

SCREENS_BY_NAME: dict[str, type[Live]] = {"overview": OverviewScreen, "transactions": TransactionScreen}
DARK, LIGHT = "textual-dark", "textual-light"
ONCE_TIMEOUT_S = 20.0


class Dash(App[None]):
    """pasys dash. Numbers go to screens; `t` changes between dark and light."""

    TITLE = "pasys"
    MODES: ClassVar[Any] = dict(SCREENS_BY_NAME)
    BINDINGS: ClassVar[list[BindingType]] = [
        ("1", "switch_mode('overview')", "Overview"),
        ("2", "switch_mode('transactions')", "Transactions"),
        ("t", "shade", "Light or dark"),
        ("q", "quit", "Quit"),
    ]

    def __init__(self, doors: Doors, *, screen: str = "overview") -> None:
        """Raises InvalidInput for a screen that is none."""
        if screen not in SCREENS_BY_NAME:
            raise InvalidInput(field="screen", reason=f"{screen!r} is none of {', '.join(SCREENS_BY_NAME)}")
        super().__init__()
        self.source = Source(doors)
        self._first = screen

    def on_mount(self) -> None:
        self.switch_mode(self._first)

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
