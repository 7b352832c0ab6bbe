"""The dashboard's two themes, dark and light, in the colours of whoever runs it."""

from __future__ import annotations

from dataclasses import replace

from textual.theme import BUILTIN_THEMES, Theme

from pasys.brand import Brand

DARK, LIGHT = "pasys-dark", "pasys-light"
_BASES = {
    # What stands on its own primary, as the title and the row of the cursor do, is hard to read.
    DARK: replace(BUILTIN_THEMES["textual-dark"], primary="#0062B3"),
    # And so is what is muted, or marked, on this one's own ground, which is grey.
    LIGHT: replace(
        BUILTIN_THEMES["textual-light"],
        background="#FCFCFC",
        surface="#F4F4F4",
        panel="#E6E6E6",
        warning="#E58E00",
        variables={"footer-key-foreground": "#00569B"},
    ),
}


def themes(brand: Brand) -> list[Theme]:
    """Dark, then light. What stands on a colour is drawn so that it can be read, whatever the colour is."""
    return [
        replace(_BASES[name], name=name, **(brand.colours.said() | own.said()))
        for name, own in ((DARK, brand.dark), (LIGHT, brand.light))
    ]
