"""The dashboard's application: it names its screens, holds the source of their answers, and is armed or is not."""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import sys
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, cast

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.reactive import reactive
from textual.screen import Screen
from textual.widgets import Static
from textual.worker import WorkerFailed

from pasys.errors import InvalidInput, PasysError
from pasys.tui.doors import Doors as Doors
from pasys.tui.theme import DARK, LIGHT, themes

if TYPE_CHECKING:
    from pasys.tui.source import Source

# The key of each screen, its name, its title, and where it is; those without a key are beside the one before them.
SCREENS = (
    ("1", "overview", "Overview", "pasys.tui.overview:OverviewScreen"),
    ("2", "transactions", "Transactions", "pasys.tui.transaction:TransactionScreen"),
    ("3", "accounts", "Accounts", "pasys.tui.account:AccountScreen"),
    ("4", "review", "Review", "pasys.tui.review:ReviewScreen"),
    ("5", "reconciliation", "Reconciliation", "pasys.tui.reconciliation:ReconciliationScreen"),
    ("6", "events", "Events", "pasys.tui.event:EventScreen"),
    ("", "dead-letters", "Dead letters", "pasys.tui.dead_letter:DeadLetterScreen"),
    ("", "logs", "Logs", "pasys.tui.log:LogScreen"),
)
SCREENS_BY_NAME = {name: place for _, name, _, place in SCREENS}
ONCE_TIMEOUT_S = 20.0
HIDE_S = 1 / 60  # one frame: nobody sees what moves while a screen takes the place of another
_NEVER = 10**9
COLLECT_EVERY_S = 60.0  # garbage that has grown old: a look for it would keep a key waiting for 0.1 s
LOOK_EVERY_S = 1.0  # whether a browser's dashboard is still served


def load(name: str) -> Screen[Any]:
    """A screen by its name. Its drivers are loaded with it: they take longer than the first picture may."""
    module, _, kind = SCREENS_BY_NAME[name].partition(":")
    return getattr(importlib.import_module(module), kind)()


def module_of(name: str) -> str:
    return SCREENS_BY_NAME[name].partition(":")[0]


class Opening(Screen[None]):
    """What is there at once: the first lines of every screen, while the first of them is loaded."""

    DEFAULT_CSS = """
    Opening > #title { height: 1; background: $primary; color: $text; text-style: bold; }
    Opening > #tabs { height: 1; color: $text-muted; }
    """

    def compose(self) -> ComposeResult:
        yield Static(f"{self.app.title}  opens …", id="title", markup=False)
        yield Static(Dash.TABS, id="tabs", markup=False)


class Dash(App[None]):
    """pasys dash. Numbers go to screens; `a` arms, and without it no key changes anything; `t` is for dark or light."""

    TITLE = "pasys"
    CSS = "Input > .input--placeholder { color: $text-muted; }"  # it says what may be typed, and is meant to be read
    MODES: ClassVar[Any] = {name: partial(load, name) for name in SCREENS_BY_NAME}
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(key, f"switch_mode('{name}')", title, show=False) for key, name, title, _ in SCREENS if key),
        Binding("a", "arm", "Arm", show=False),  # the first line has it
        Binding("t", "shade", "Dark or light", show=False),
        ("q", "quit", "Quit"),
    ]

    TABS = "  ".join(f"{key} {title}" for key, _, title, _ in SCREENS if key)
    armed: reactive[str | None] = reactive(None)  # under whose name keys change things, or None where they do not

    def __init__(self, doors: Doors, *, screen: str = "overview", served_by: int | None = None) -> None:
        """Raises InvalidInput for a screen that is none, InvalidSettings for a brand that is none."""
        if screen not in SCREENS_BY_NAME:
            raise InvalidInput(field="screen", reason=f"{screen!r} is none of {', '.join(SCREENS_BY_NAME)}")
        super().__init__()
        self.brand = doors.load().dash
        self.title = self.brand.name
        self._doors = doors
        self._first = screen
        self._served_by = served_by  # the process that serves it to a browser
        self._thresholds = gc.get_threshold()
        self.failure: BaseException | None = None  # why it has ended, where that is a fault of its own

    def on_mount(self) -> None:
        for theme in themes(self.brand):
            self.register_theme(theme)
        self.theme = LIGHT if self.brand.theme == "light" else DARK
        if self._served_by is not None:
            self.set_interval(LOOK_EVERY_S, self._end_with_server)
        if module_of(self._first) in sys.modules:
            self.switch_mode(self._first)
        else:
            self.call_after_refresh(self.run_worker, self._open, exit_on_error=True)

    async def _open(self) -> None:
        """Load the first screen beside the picture that is there already, and the others before their keys are hit."""
        for name in (self._first, *SCREENS_BY_NAME):
            await asyncio.to_thread(importlib.import_module, module_of(name))
            if isinstance(self.screen, Opening):
                self.switch_mode(self._first)
        gc.freeze()  # what is loaded stays, and need not be looked through
        gc.set_threshold(*gc.get_threshold()[:2], _NEVER)
        self.set_interval(COLLECT_EVERY_S, self._collect)

    def _collect(self) -> None:
        gc.collect()

    @cached_property
    def source(self) -> Source:
        from pasys.tui.source import Source

        return Source(self._doors)

    def _handle_exception(self, error: Exception) -> None:  # Textual has no public name for it
        """End, and leave it to the command to say why. Textual would print a traceback with what all variables held:
        addresses with their passwords among it."""
        super()._handle_exception(error)
        self._exit_renderables.clear()
        self.failure = self.failure or (error.error if isinstance(error, WorkerFailed) else error)

    def get_default_screen(self) -> Screen[Any]:
        return Opening()

    def _end_with_server(self) -> None:
        if os.getppid() != self._served_by:  # it was killed, and nobody looks at this any more
            self.exit()

    def delay_update(self, delay: float = HIDE_S) -> None:
        """What Textual does before it draws another screen, but not for as long: somebody waits for it."""
        super().delay_update(delay)

    def action_arm(self) -> None:
        """Read-only until this is pressed, and again when it is pressed once more."""
        if isinstance(self.screen, Opening):
            return
        try:
            self.armed = self.source.who() if self.armed is None else None
        except PasysError as error:
            cast(Any, self.screen).say(str(error))

    def action_shade(self) -> None:
        self.theme = LIGHT if self.theme == DARK else DARK

    async def on_unmount(self) -> None:
        gc.set_threshold(*self._thresholds)
        if "source" in self.__dict__:
            await self.source.close()


async def once(doors: Doors, screen: str, *, width: int, height: int) -> str:
    """One screen as text, when its first answer is drawn or its error said."""
    app = Dash(doors, screen=screen)
    importlib.import_module(module_of(screen))  # at once: nobody waits for a first picture
    async with app.run_test(size=(width, height)) as pilot:
        await pilot.pause()
        async with asyncio.timeout(ONCE_TIMEOUT_S):
            await cast(Any, app.screen).settled.wait()
        await pilot.pause()
        return text_of(app.screen)


def text_of(screen: Screen[Any]) -> str:
    """What a screen shows, line by line, without colours."""
    strips = screen._compositor.render_strips()  # Textual has no public name for it
    return "\n".join(strip.text.rstrip() for strip in strips)
