"""The dashboard's two themes, dark and light, in the colours of whoever runs it."""

from __future__ import annotations

from dataclasses import replace

from textual.theme import BUILTIN_THEMES, Theme

from pasys.brand import Brand

DARK, LIGHT = "pasys-dark", "pasys-light"
_BASES = {DARK: "textual-dark", LIGHT: "textual-light"}


def themes(brand: Brand) -> list[Theme]:
    """Dark, then light. What stands on a colour is drawn so that it can be read, whatever the colour is."""
    return [
        replace(BUILTIN_THEMES[_BASES[name]], name=name, **(brand.colours.said() | own.said()))
        for name, own in ((DARK, brand.dark), (LIGHT, brand.light))
    ]
