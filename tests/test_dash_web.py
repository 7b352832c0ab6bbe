"""The dashboard over HTTP and websocket: who comes in, who does not, and that nothing comes from elsewhere."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import psutil
import pytest
from textual_serve import server

from pasys.brand import Brand, Colours
from pasys.cli.main import run
from pasys.config import Settings
from pasys.db import Database
from pasys.errors import InvalidInput
from pasys.tui.web import COOKIE, VISITORS_MAX, Site
from tests.support import eventually, open_accounts

FOREIGN = re.compile(r"""(?:https?|wss?):\\?/\\?/(?!127\.0\.0\.1)([\w.-]+)|["'(=]\s*//[\w-]+\.[\w.-]+""")
NAMES = {"www.w3.org"}  # of XML's namespaces, which nobody fetches
STATIC = Path(server.__file__).parent / "static"
ECHO = [sys.executable, "-c", "import sys; sys.stdout.write('__GANGLION__\\n'); sys.stdout.flush(); sys.stdin.read()"]


def words(settings: Settings) -> list[str]:
    """The command of a visitor's dashboard, for a test's servers."""
    found = [f"{name.upper()}={getattr(settings, name)}" for name in ("database_url", "nats_url", "redis_url")]
    code = "from pasys.cli.main import main; main()"
    return ["env", *found, sys.executable, "-P", "-c", code, "--home", settings.home, "dash", "--screen", "accounts"]


@asynccontextmanager
async def serving(words: list[str], brand: Brand | None = None) -> AsyncIterator[tuple[str, str]]:
    """A site on a free port: its address, and the link that opens it."""
    site = Site(words, brand or Brand(), host="127.0.0.1", port=0)
    link = await site.begin()
    parts = urlsplit(link)
    try:
        yield f"{parts.scheme}://{parts.netloc}", link
    finally:
        await site.end()


@asynccontextmanager
async def visiting() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as visitor:  # it takes an IP's cookies
        yield visitor


async def status(visitor: aiohttp.ClientSession, url: str, **more: object) -> int:
    async with visitor.get(url, **more) as answer:  # type: ignore[arg-type]
        return answer.status


# Who comes in --------------------------------------------------------------------------------------------------------


async def test_nobody_comes_in_without_the_link() -> None:
    """Without the cookie there is no page, no file and no session; with a wrong token or cookie neither."""
    async with serving(ECHO) as (base, link), visiting() as visitor:
        for path in (
            "/",
            "/ws",
            "/static/js/textual.js",
            "/static/",
            "/download/x",
            "/nothing",
            "/?token=",
            "/?token=é",
        ):
            assert await status(visitor, base + path) == 403, path
        assert await status(visitor, f"{link}x") == 403
        assert await status(visitor, base, headers={"Cookie": f"{COOKIE}=wrong"}) == 403
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await visitor.ws_connect(f"{base}/ws", origin=base)
        assert refused.value.status == 403
        assert await status(visitor, link, allow_redirects=False) == 303  # and the right one still does


async def test_the_link_opens_once() -> None:
    """The token is exchanged for a cookie and leaves the address; somebody else with the same link stays out."""
    async with serving(ECHO) as (base, link), visiting() as first, visiting() as second:
        async with first.get(link, allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, "/")
            said = answer.headers["Set-Cookie"]
        assert "HttpOnly" in said and "SameSite=Strict" in said and urlsplit(link).query.split("=")[1] not in said
        assert await status(first, base) == 200
        assert await status(second, link, allow_redirects=False) == 403
        assert await status(second, base) == 403
        assert await status(first, link, allow_redirects=False) == 403 and await status(first, base) == 200


async def test_no_cookie_counts_before_the_link_was_used() -> None:
    """An empty cookie, and one that was made up, is nobody's."""
    async with serving(ECHO) as (base, _), visiting() as visitor:
        for made_up in ("", "x" * 43):
            assert await status(visitor, base, headers={"Cookie": f"{COOKIE}={made_up}"}) == 403


async def test_another_site_s_page_opens_no_session() -> None:
    """A websocket that another page asks for is refused, though the browser brings the cookie."""
    async with serving(ECHO) as (base, link), visiting() as visitor:
        await status(visitor, link)
        for origin in ("http://evil.example", "null", None):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await visitor.ws_connect(f"{base}/ws", origin=origin)
            assert refused.value.status == 403


async def test_visitors_are_few() -> None:
    """One session more than VISITORS_MAX is refused; when one is closed there is room again."""
    async with serving(ECHO) as (base, link), visiting() as visitor:
        await status(visitor, link)
        open_ = [await visitor.ws_connect(f"{base}/ws", origin=base) for _ in range(VISITORS_MAX)]
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await visitor.ws_connect(f"{base}/ws", origin=base)
        assert refused.value.status == 503
        await open_.pop().close()

        async def room() -> bool:
            try:
                open_.append(await visitor.ws_connect(f"{base}/ws", origin=base))
            except aiohttp.WSServerHandshakeError:
                return False
            return True

        await eventually(room)


# What is served ------------------------------------------------------------------------------------------------------


async def test_nothing_comes_from_elsewhere() -> None:
    """No file that is served loads from another host, and the page's own policy forbids it."""
    async with serving(ECHO, Brand(name="<b>Acme</b>")) as (base, link), visiting() as visitor:
        await status(visitor, link)
        files = [f"/static/{path.relative_to(STATIC).as_posix()}" for path in STATIC.rglob("*") if path.is_file()]
        assert len(files) > 3
        for path in ("/", *files):
            async with visitor.get(base + path) as answer:
                assert answer.status == 200, path
                policy = answer.headers["Content-Security-Policy"]
                body = (await answer.read()).decode("utf-8", "replace")
            assert "default-src 'none'" in policy and "http" not in policy and "*" not in policy
            if path.endswith((".css", ".js")) or path == "/":
                body = re.sub(r"/\*.*?\*/", "", body, flags=re.DOTALL)  # who wrote it stands in its comments
                assert not {found for found in FOREIGN.findall(body) if found not in NAMES}, path
            if path == "/":
                assert "&lt;b&gt;Acme&lt;/b&gt;" in body and "fonts.googleapis" not in body
        async with visitor.get(f"{base}/static/") as answer:
            assert answer.status == 403  # no list of what there is


async def test_the_page_is_in_the_brand_s_colours() -> None:
    """Before the dashboard has drawn anything, its page has the name and the ground of the settings."""
    brand = Brand(name="Acme Pay", theme="light", light=Colours(background="#fdf6e3"))
    async with serving(ECHO, brand) as (_, link), visiting() as visitor:
        async with visitor.get(link) as answer:
            page = (await answer.text()).lower()
        assert "<title>acme pay</title>" in page and "background: #fdf6e3" in page


async def test_a_visitor_sees_the_dashboard(settings: Settings, db: Database) -> None:
    """Over the websocket comes the dashboard itself: it draws the accounts of the database and takes keys."""
    async with db.unit() as unit:
        await open_accounts(unit)
    async with serving(words(settings)) as (base, link), visiting() as visitor:
        await status(visitor, link)
        async with visitor.ws_connect(f"{base}/ws?width=100&height=30", origin=base) as session:
            await heard(session, "alice")
            await session.send_json(["stdin", "6"])
            await heard(session, "Nothing has passed yet")
            await session.send_json(["stdin", "q"])
            await asyncio.wait_for(closed(session), 30)


async def heard(session: aiohttp.ClientWebSocketResponse, words: str) -> None:
    """What the terminal is told, up to these words."""
    told = ""
    async with asyncio.timeout(60):
        while words not in told:
            message = await session.receive()
            assert message.type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT), f"closed after {told[-500:]!r}"
            text = message.data if isinstance(message.data, str) else message.data.decode("utf-8", "replace")
            told += re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", text)


async def closed(session: aiohttp.ClientWebSocketResponse) -> None:
    while not (await session.receive()).type.name.startswith("CLOS"):
        pass


# Command line --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [["--host", "127.0.0.1"], ["--port", "8000"], ["--web", "--once"]])
def test_what_does_not_go_together_is_refused(asked: list[str], settings: Settings) -> None:
    """An address without --web, and a served screen that is printed once, are errors, not ignored."""
    assert run(["--home", settings.home, "dash", *asked]) == 2


async def test_an_address_that_cannot_be_had_is_named() -> None:
    """A taken port says who holds it; an address that is not this machine's says so."""
    async with serving(ECHO) as (base, _):
        taken = Site(ECHO, Brand(), host="127.0.0.1", port=urlsplit(base).port or 0)
        with pytest.raises(InvalidInput, match=f"is taken by process {os.getpid()}"):
            await taken.begin()
    with pytest.raises(InvalidInput, match="no address to listen on"):
        await Site(ECHO, Brand(), host="192.0.2.1", port=0).begin()


async def test_the_command_serves_and_ends(settings: Settings) -> None:
    """`pasys dash --web` prints the link alone to stdout, lets its visitor in, and ends on SIGTERM with exit code 0."""
    line = shlex.join(words(settings)[:-2]) + " --web"
    command = await asyncio.create_subprocess_shell(f"exec {line}", stdout=asyncio.subprocess.PIPE)
    assert command.stdout is not None
    link = (await asyncio.wait_for(command.stdout.readline(), 60)).decode().strip()
    assert urlsplit(link).hostname == "127.0.0.1"
    async with visiting() as visitor:
        assert await status(visitor, link) == 200
    command.terminate()
    assert await asyncio.wait_for(command.wait(), 30) == 0


async def test_a_visitor_s_dashboard_ends_with_its_server(settings: Settings) -> None:
    """When the server is killed, the dashboards that it served end by themselves."""
    line = shlex.join(words(settings)[:-2]) + " --web"
    command = await asyncio.create_subprocess_shell(f"exec {line}", stdout=asyncio.subprocess.PIPE)
    assert command.stdout is not None
    link = (await asyncio.wait_for(command.stdout.readline(), 60)).decode().strip()
    base = link.split("/?")[0]
    async with visiting() as visitor:
        await status(visitor, link)
        async with visitor.ws_connect(f"{base}/ws", origin=base) as session:
            await heard(session, "Overview")
            (child,) = psutil.Process(command.pid).children()
            command.kill()
            await command.wait()

            async def ended() -> bool:
                return not child.is_running() or child.status() == psutil.STATUS_ZOMBIE

            await eventually(ended, within_s=30.0)
