"""A screen that follows its answer: it asks, draws, waits, and asks again, and only while somebody looks at it.

Asking anew ends the asking before: a newer answer replaces an older one, and an older one is never drawn after it.
What it shows can be changed only while the dashboard is armed, which every screen says in its first line.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, ClassVar, cast

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.css.query import NoMatches
from textual.screen import Screen
from textual.widgets import Footer, Static

from pasys.errors import PasysError, Unavailable
from pasys.tui.action import Action, Confirm

if TYPE_CHECKING:
    from pasys.tui.source import Source

EVERY_S = 2.0
RETRY_S = 1.0
REST = 4  # times what an answer took: who asks more of a slow server only makes it slower


class Said(Static):
    """A sentence that is there only when there is something to say."""

    DEFAULT_CSS = "Said { height: auto; display: none; text-style: bold; }"

    def say(self, sentence: str | None) -> None:
        self.display = sentence is not None
        self.update(sentence or "")


class Banner(Said):
    """What is wrong."""

    DEFAULT_CSS = "Banner { background: $error; color: $text; }"


class Keys(Footer):
    """The keys of a screen, made anew only when they are others than before. The footer itself makes them anew several
    times for every change of the screen, which takes half of its time, and never lets go of the old ones (Textual's
    issue 6666)."""

    _shown: list[tuple[Binding, bool]] | None = None

    def bindings_changed(self, screen: Screen[Any]) -> None:
        shown = [(key.binding, key.enabled) for key in screen.active_bindings.values() if key.binding.show]
        if shown != self._shown and screen.app.app_focus:  # a terminal without focus keeps what it shows
            self._shown = shown
            super().bindings_changed(screen)


class Live(Screen[None]):
    """What every screen of the dashboard is: a title, a banner, its body, and the keys."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("r", "again", "Refresh", show=False)]
    DEFAULT_CSS = """
    Live > #title { height: 1; background: $primary; color: $text; text-style: bold; }
    Live > #tabs { height: 1; color: $text-muted; }
    Live > #title.armed { background: $warning; color: $text; }
    """
    TITLE = ""
    every_s: ClassVar[float] = EVERY_S

    def __init__(self) -> None:
        super().__init__()
        self.settled = asyncio.Event()  # an answer was drawn, or an error said

    @property
    def source(self) -> Source:
        return cast(Any, self.app).source

    def compose(self) -> ComposeResult:
        yield Static(id="title", markup=False)
        yield Static(cast(Any, self.app).TABS, id="tabs", markup=False)
        yield Banner(id="banner", markup=False)
        yield Said(id="said", markup=False)
        yield from self.body()
        yield Keys(show_command_palette=False, compact=True)

    def body(self) -> ComposeResult:
        raise NotImplementedError

    async def fetch(self) -> Any:
        """The answer to draw. Raises PasysError."""
        raise NotImplementedError

    def draw(self, answer: Any) -> None:
        raise NotImplementedError

    def on_mount(self) -> None:
        self.watch(self.app, "armed", self._show_armed)

    def _show_armed(self, armed: str | None) -> None:
        state = "read-only (a: arm)" if armed is None else f"ARMED as {armed} (a: disarm)"
        title = self.query_one("#title", Static)
        title.update(f"{self.app.title}  {self.TITLE}   {state}")
        title.set_class(armed is not None, "armed")
        self.say(None)

    def ink(self, about: str) -> str:
        """The colour of letters about a warning, or an error, as this theme's ground lets them be read."""
        return self.app.theme_variables[f"text-{about}"]

    def say(self, sentence: str | None) -> None:
        """What came of the last key that was to change something."""
        self.query_one("#said", Said).say(sentence)

    def warn(self, sentence: str | None) -> None:
        """What keeps the screen from being right; nobody is told where it was taken down meanwhile."""
        for banner in self.query(Banner):
            banner.say(sentence)

    @property
    def armed(self) -> bool:
        return cast(Any, self.app).armed is not None

    def offer(self, action: Action | None, *, otherwise: str = "There is nothing to do it to.") -> None:
        """Open an action, if the dashboard is armed; what was done is said when it closes."""
        if not self.armed:
            self.say("Read-only: nothing was changed. Press a to arm, then the key again.")
        elif action is None:
            self.say(otherwise)
        else:
            self.say(None)
            self.app.push_screen(Confirm(action), self.say)

    def on_screen_resume(self) -> None:
        self.call_after_refresh(self._ask)  # what was here before is drawn first

    def _ask(self) -> None:
        if self.is_current:  # and not left again meanwhile
            self.action_again()

    def on_screen_suspend(self) -> None:
        self.workers.cancel_group(self, "fetch")

    def action_again(self) -> None:
        """Ask now; whatever was asked before is forgotten."""
        self.run_worker(self._follow, group="fetch", exclusive=True)

    async def _follow(self) -> None:
        while True:
            wait_s, asked_at = self.every_s, time.monotonic()
            try:
                self.draw(await self.fetch())
                wait_s = max(wait_s, REST * (time.monotonic() - asked_at))
                self.warn(None)
            except Unavailable as error:
                wait_s = RETRY_S
                self.warn(f"No connection; trying again. {error}")
            except PasysError as error:
                self.warn(str(error))
            except NoMatches:  # the screen was taken down while it waited for its answer
                return
            self.settled.set()
            await asyncio.sleep(wait_s)
