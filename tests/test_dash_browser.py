"""The dashboard in a real browser: Chromium opens the link, sees it, clicks, types, and asks nobody else for anything.

pip install -c constraints.txt -e '.[embedded,test,browser]' && apt-get install chromium && pytest -m browser
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pasys.config import Settings
from pasys.db import Database
from tests.support import eventually, open_accounts
from tests.test_dash_web import serving, words

pytestmark = pytest.mark.browser
CHROMIUM = os.environ.get("PASYS_TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
ESCAPES = re.compile(rb"\x1b\[[\d;?<>]*[a-zA-Z]")


@pytest.fixture
async def page() -> AsyncIterator[Any]:
    """A page of a headless Chromium."""
    api = pytest.importorskip("playwright.async_api", reason="pip install 'pasys[browser]'")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: apt-get install chromium, or set PASYS_TEST_CHROMIUM")
    async with api.async_playwright() as play:
        browser = await play.chromium.launch(executable_path=CHROMIUM, headless=True, args=["--no-sandbox"])
        found = await browser.new_page(viewport={"width": 1200, "height": 700})
        yield found
        await browser.close()


class Told:
    """What the terminal in the page is told, as text; and every address that the page asked for."""

    def __init__(self, page: Any) -> None:
        self.text, self.asked, self.complaints = "", set[str](), list[str]()
        self.rows = 0
        page.on("websocket", self._socket)
        page.on("request", lambda request: self.asked.add(request.url))
        page.on("console", lambda line: self.complaints.append(line.text) if line.type == "error" else None)

    def _socket(self, socket: Any) -> None:
        socket.on("framereceived", self._frame)
        socket.on("framesent", self._sent)

    def _sent(self, data: str | bytes) -> None:
        kind, *said = json.loads(data)
        if kind == "resize":
            self.rows = said[0]["height"]

    def _frame(self, data: str | bytes) -> None:
        raw = data.encode() if isinstance(data, str) else data
        self.text += ESCAPES.sub(b"", raw).decode("utf-8", "replace")

    async def has(self, words: str) -> None:
        async def look() -> bool:
            return words in self.text

        await eventually(look, within_s=60.0)


async def test_a_click_goes_where_it_says(page: Any, settings: Settings, db: Database) -> None:
    """The link opens the dashboard; a click on a row and Enter open an account, a key another screen, and a second
    browser with the same link stays out. No other host is asked for anything."""
    async with db.unit() as unit:
        await open_accounts(unit)
    told = Told(page)
    async with serving(words(settings)) as (base, link):
        await page.goto(link)
        assert page.url == f"{base}/"  # the token has left the address
        await told.has("alice")
        await page.wait_for_selector("body.-first-byte .xterm-screen")
        box = await page.locator(".xterm-screen").bounding_box()
        told.text = ""
        row_height = box["height"] / told.rows
        for _ in range(2):  # the first click chooses the row, the second opens it
            await page.mouse.click(box["x"] + 60, box["y"] + 5.5 * row_height)
            await page.wait_for_timeout(200)
        await told.has(" account statement")
        await page.keyboard.press("6")
        await told.has("Nothing has passed yet")
        stranger = await page.context.browser.new_page()
        refused = await stranger.goto(link)
        assert refused is not None and refused.status == 403
    assert {url.split("/")[2] for url in told.asked if not url.startswith("data:")} == {base.split("/")[2]}
    assert not [line for line in told.complaints if "Content Security Policy" in line and "eval" not in line]
