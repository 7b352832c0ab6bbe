"""An action shows the command that does the same, and acts when a second key says so; then it shows what came of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, Label, Static

from pasys.db import Unit
from pasys.errors import OutcomeUnknown, PasysError, Unavailable

if TYPE_CHECKING:
    from pasys.tui.source import Source

Values = Mapping[str, str]
KEYS = "Enter: do it   Ctrl+Y: copy the command   Esc: leave it"
KEYS_AGAIN = "Enter: try again   Ctrl+Y: copy the command   Esc: leave it"
KEYS_DONE = "Enter or Esc: go on   Ctrl+Y: copy the command"


@dataclass(frozen=True, slots=True)
class Field:
    """What a person may type, or has to, before an action."""

    name: str
    hint: str
    value: str = ""
    required: bool = False


@dataclass(frozen=True, slots=True)
class Action:
    """Something that a key does, as a command does it. `words` are the command's, without `pasys` and who says them;
    `verb` is called in one unit and says what is now true. Both are given what was typed, by the fields' names.
    `look` are the words of the command that shows what became of it.
    """

    title: str
    about: str
    words: Callable[[Values], Sequence[str]]
    verb: Callable[[Unit, Values], Awaitable[str]]
    look: Sequence[str]
    fields: Sequence[Field] = ()


def option(name: str, value: str, *, required: bool = False) -> list[str]:
    """An option as one types it; none for an empty value. A value that looks like an option is tied to its name."""
    if not value and not required:
        return []
    return [f"{name}={value}"] if value.startswith("-") else [name, value]


class Confirm(ModalScreen[str | None]):
    """One action, before and after it is done. Ends with what is now true, or with None where nothing was changed."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "go_on", "Do it"),
        Binding("ctrl+y", "copy", "Copy the command"),
        Binding("escape", "leave", "Leave it"),
    ]
    DEFAULT_CSS = """
    Confirm { align: center middle; }
    Confirm > VerticalScroll {
        width: 90%; max-width: 110; height: auto; max-height: 90%; border: solid $primary; padding: 0 1;
        background: $surface;
    }
    Confirm Static { height: auto; margin-bottom: 1; }
    Confirm #title { text-style: bold; }
    Confirm #keys { margin: 0; text-style: bold; }
    Confirm #command { padding-left: 2; }
    Confirm #result { display: none; }
    Confirm Horizontal { height: 1; margin-bottom: 1; }
    Confirm Label { width: 12; }
    Confirm Input { width: 1fr; }
    Confirm #copied { margin: 0; display: none; }
    """

    def __init__(self, action: Action) -> None:
        super().__init__()
        self._action = action
        self._doing = False
        self._told: str | None = None  # what is now true, once it is

    @property
    def source(self) -> Source:
        return cast(Any, self.app).source

    def compose(self) -> ComposeResult:
        with VerticalScroll(can_focus=False):
            yield Static(self._action.title, id="title", markup=False)
            if self._action.about:
                yield Static(self._action.about, id="about", markup=False)
            for field in self._action.fields:
                with Horizontal():
                    yield Label(field.name, markup=False)
                    yield Input(field.value, placeholder=field.hint, id=f"field-{field.name}", compact=True)
            yield Static(f"The same as this command{self.source.needs()}:", id="same", markup=False)
            yield Static(id="command", markup=False)
            yield Static(id="result", markup=False)
            yield Static(KEYS, id="keys", markup=False)
            yield Static("Copied.", id="copied", markup=False)

    def on_mount(self) -> None:
        self.query_one("#same", Static).styles.margin = 0
        self._show_command()
        if self._action.fields:  # what has to be typed comes first
            first = next((field for field in self._action.fields if field.required), self._action.fields[0])
            self.query_one(f"#field-{first.name}").focus()

    def typed(self) -> dict[str, str]:
        """What stands in the fields, by name."""
        return {
            field.name: self.query_one(f"#field-{field.name}", Input).value.strip() for field in self._action.fields
        }

    def command(self) -> str:
        return self.source.command(self._action.words(self.typed()))

    def on_input_changed(self) -> None:
        self._show_command()
        self.query_one("#copied").display = False

    def on_input_submitted(self) -> None:
        self.action_go_on()

    def action_copy(self) -> None:
        self.app.copy_to_clipboard(self.command())
        self.query_one("#copied").display = True

    def action_leave(self) -> None:
        if not self._doing:
            self.dismiss(self._told)

    def action_go_on(self) -> None:
        """The second key press: do it, or go on when it is done."""
        if self._told is not None:
            self.dismiss(self._told)
            return
        typed = self.typed()
        missing = next((field for field in self._action.fields if field.required and not typed[field.name]), None)
        if missing is not None:
            self._show_result(f"Nothing was changed: {missing.name} is missing ({missing.hint}).")
            self.query_one(f"#field-{missing.name}").focus()
        elif not self._doing:
            self._doing = True
            self.run_worker(self._do(typed), exit_on_error=True)

    async def _do(self, typed: Values) -> None:
        self._show_result("It is being done …")
        look = self.source.command(self._action.look)
        try:
            self._told = await self.source.act(lambda unit: self._action.verb(unit, typed), look=look)
        except PasysError as error:
            self._show_result(sentence(error))
            self.query_one("#keys", Static).update(KEYS_AGAIN)
        else:
            self._show_result(f"Done. {self._told}")
            self.query_one("#keys", Static).update(KEYS_DONE)
            for entry in self.query(Input):
                entry.disabled = True
        finally:
            self._doing = False

    def _show_command(self) -> None:
        try:
            self.query_one("#command", Static).update(self.command())
        except PasysError as error:  # settings that were broken while we looked
            self.query_one("#command", Static).update(str(error))

    def _show_result(self, text: str) -> None:
        result = self.query_one("#result", Static)
        result.update(text)
        result.display = True
        result.scroll_visible(animate=False)


def sentence(error: PasysError) -> str:
    """What a failed action says: what became of it, which rule refused it, and what to do."""
    if isinstance(error, OutcomeUnknown):
        return f"Unknown whether it was done ({error.code}): {error}. {error.advice}"
    if isinstance(error, Unavailable):
        return f"Nothing was changed ({error.code}): {error}. {error.advice}"
    return f"Refused ({error.code}): {error}. {error.advice}"
