"""How the dashboard looks: dark and light, in whose colours, and readable without any."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from textual.app import App, ComposeResult
from textual.color import Color
from textual.screen import Screen

from pasys import config
from pasys.brand import Brand, Colours
from pasys.bus import Bus
from pasys.config import Settings
from pasys.errors import InvalidSettings
from pasys.tui.app import SCREENS_BY_NAME, text_of
from pasys.tui.rows import Rows
from tests.dash_kit import doors_to, sees, showing
from tests.test_dash_event import park

DRAWN = " ▁▂▃▄▅▆▇█▏▊▌▎▍▋▉▔━╸╺"  # bars and lines, which nobody reads
BRAND = """
[dash]
name = "Acme Pay"
theme = "light"
[dash.colours]
primary = "#0a7"
error = "#AA0022"
[dash.dark]
background = "#101014"
"""


def read(home: Path, toml: str) -> Settings:
    (home / "pasys.toml").write_text(toml)
    return config.load(home, environ={})


def test_a_brand_is_what_the_settings_say(tmp_path: Path) -> None:
    """Name, theme and colours come from [dash]; what is not said is the theme's own."""
    found = read(tmp_path, BRAND).dash
    assert (found.name, found.theme, found.colours.said(), found.dark.said(), found.light.said()) == (
        "Acme Pay", "light", {"primary": "#0a7", "error": "#AA0022"}, {"background": "#101014"}, {},
    )  # fmt: skip
    assert read(tmp_path, "").dash == Brand()


@pytest.mark.parametrize(
    ("toml", "names"),
    [
        ("[dash]\ncolour = '#fff'", "colour"),
        ("[dash.colours]\nprimary = 'red'", "primary = 'red' is not a colour"),
        ("[dash.colours]\nprimary = '#12345'", "#12345"),
        ("[dash.colours]\nprimary = 12", "primary"),
        ("[dash.dark]\npurple = '#fff'", "purple"),
        ("[dash]\ntheme = 'grey'", "grey"),
        ("[dash]\nname = ''", "name is 1 to"),
        ('[dash]\nname = "a\\nb"', "name is 1 to"),
        ("dash = 'dark'", "dash"),
    ],
)
def test_a_brand_that_is_none_is_refused(tmp_path: Path, toml: str, names: str) -> None:
    """What nobody reads, and a colour that is none, is named with its place; nothing is ignored."""
    with pytest.raises(InvalidSettings) as refused:
        read(tmp_path, toml)
    assert names in str(refused.value) and "pasys.toml" in str(refused.value)


async def test_a_column_grows_with_what_stands_in_it() -> None:
    """A row that stays, and says more than it did, is read to its end; the cursor stays on its row."""

    class Showing(App[None]):
        def compose(self) -> ComposeResult:
            yield Rows[tuple[str, str]](("waits", "who"), key=lambda row: row[1], cells=lambda row: row, id="rows")

    app = Showing()
    async with app.run_test(size=(30, 6)) as pilot:
        rows = app.query_one("#rows", Rows)
        for waits in ("9 min", "10 min", "11 min", "a long time"):
            rows.show([(waits, "ann"), ("5 s", "bob")])
            await pilot.pause()
            assert f" {waits}  ann" in text_of(app.screen)
            assert rows.cursor_row == (0 if waits == "9 min" else 1)
            rows.move_cursor(row=1)


async def test_the_brand_is_on_every_screen(settings: Settings) -> None:
    """Name and colours are those of the settings; `t` changes between light and dark, and each has its own."""
    brand = Brand("Acme Pay", "light", Colours(primary="#0a7"), dark=Colours(background="#101014"))
    doors = doors_to(lambda: msgspec.structs.replace(settings, dash=brand))
    async with showing(doors, "overview") as (app, pilot):
        await sees(app, "Acme Pay  Overview")
        assert not app.current_theme.dark
        assert app.screen.query_one("#title").styles.background == Color.parse("#00aa77")
        await pilot.press("t")
        assert app.current_theme.dark and app.screen.styles.background == Color.parse("#101014")
        await pilot.press("3")
        await sees(app, "Acme Pay  Accounts")
        await pilot.press("t")
        assert not app.current_theme.dark


@pytest.mark.parametrize("theme", ["dark", "light"])
@pytest.mark.parametrize("screen", list(SCREENS_BY_NAME))
async def test_every_word_can_be_read(settings: Settings, screen: str, theme: str) -> None:
    """In both themes letters differ from the ground that they stand on, those of hints and marks as well: 4.5
    to 1, as the eye sees brightness and as WCAG 2.2, 1.4.3, asks for."""
    brand = Brand(theme=theme)  # type: ignore[arg-type]
    bus = await Bus(settings).connect()
    await park(bus, "first", "it was not its day")  # so that something is marked
    await bus.close()
    doors = doors_to(lambda: msgspec.structs.replace(settings, dash=brand))
    async with showing(doors, screen, size=(80, 24)) as (app, pilot):
        await sees(app, "read-only", *(["dead letters 1 !", "failed !"] if screen == "overview" else []))
        await app.screen.settled.wait()  # type: ignore[attr-defined]
        await pilot.pause()
        pale = [
            (text, letters.hex, ground.hex)
            for text, letters, ground in drawn(app.screen)
            if text.strip(DRAWN) and contrast(letters, ground) < 4.5
        ]
    assert not pale


def drawn(screen: Screen[object]) -> Iterator[tuple[str, Color, Color]]:
    """What stands on a screen, with the colours of its letters and of their ground."""
    for segment in itertools.chain.from_iterable(screen._compositor.render_strips()):
        style = segment.style
        if style is not None and style.color and style.bgcolor:
            yield segment.text, Color.from_rich_color(style.color), Color.from_rich_color(style.bgcolor)


def contrast(one: Color, other: Color) -> float:
    """WCAG's contrast ratio, from 1 to 21."""
    darker, lighter = sorted(sum(weight * _linear(part) for weight, part in zip(
        (0.2126, 0.7152, 0.0722), colour.rgb, strict=True)) for colour in (one, other))  # fmt: skip
    return (lighter + 0.05) / (darker + 0.05)


def _linear(part: int) -> float:
    share = part / 255
    return share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4


def test_contrast_is_that_of_the_standard() -> None:
    """Black on white is 21 to 1, and the grey that is just enough for small letters, #767676, is 4.54."""
    assert contrast(Color.parse("#000"), Color.parse("#fff")) == pytest.approx(21)
    assert contrast(Color.parse("#767676"), Color.parse("#fff")) == pytest.approx(4.54, abs=0.01)
