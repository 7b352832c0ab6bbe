"""How the dashboard presents itself: a name and colours, as `[dash]` in pasys.toml says them."""

from __future__ import annotations

import re
from typing import Literal

import msgspec

NAME_MAX = 40
_COLOUR = re.compile(r"#(?:[0-9a-fA-F]{3}|[0-9a-fA-F]{6})")


class Colours(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Each as #rgb or #rrggbb. What is not said is the theme's own."""

    primary: str | None = None
    secondary: str | None = None
    accent: str | None = None
    success: str | None = None
    warning: str | None = None
    error: str | None = None
    foreground: str | None = None
    background: str | None = None
    surface: str | None = None
    panel: str | None = None

    def __post_init__(self) -> None:
        for name, colour in self.said().items():
            if _COLOUR.fullmatch(colour) is None:
                raise ValueError(f"{name} = {colour!r} is not a colour: #rgb or #rrggbb")

    def said(self) -> dict[str, str]:
        """Those that are said, by name."""
        found = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: colour for name, colour in found.items() if colour is not None}


class Brand(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`colours` are those of both themes; `dark` and `light` are what one of them has otherwise."""

    name: str = "pasys"
    theme: Literal["dark", "light"] = "dark"
    colours: Colours = msgspec.field(default_factory=Colours)
    dark: Colours = msgspec.field(default_factory=Colours)
    light: Colours = msgspec.field(default_factory=Colours)

    def __post_init__(self) -> None:
        if not (self.name.strip() and self.name.isprintable() and len(self.name) <= NAME_MAX):
            raise ValueError(f"name is 1 to {NAME_MAX} characters in one line")
