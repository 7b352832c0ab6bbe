"""The dashboard in a browser: textual-serve's terminal, behind a link that opens it once, without a foreign host.

Each visitor is a process of `pasys dash` of their own. Whoever has the link comes in, once; from then on the cookie of
that browser does. Nothing is served to anybody else, and the page may load nothing from elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import html
import secrets
import shlex
from collections.abc import Awaitable, Callable, Sequence
from importlib import resources
from urllib.parse import urlsplit

from aiohttp import web
from textual_serve.app_service import AppService
from textual_serve.server import Server, to_int

from pasys.brand import Brand
from pasys.errors import InvalidInput
from pasys.stack import ports
from pasys.tui.theme import themes

COOKIE = "pasys_dash"
VISITORS_MAX = 4  # at a time; each is a process
FONT_SIZE = 14
STOP_TIMEOUT_S = 2.0
HEARTBEAT_S = 15.0
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "connect-src 'self'; img-src 'self' data:; font-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
CLOSED = "This page is closed to you. Whoever runs the dashboard has a link that opens it once: pasys dash --web\n"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Entry:
    """Who may come in. The link's token counts once; whoever had it is known by a cookie from then on."""

    def __init__(self) -> None:
        self.token = secrets.token_urlsafe(32)
        self._cookie = secrets.token_urlsafe(32)
        self._used = False

    def use(self, token: str) -> str | None:
        """The cookie for whoever comes with the token for the first time; None for everybody else."""
        right = hmac.compare_digest(token.encode(), self.token.encode())
        if not right or self._used:
            return None
        self._used = True
        return self._cookie

    def knows(self, cookie: str) -> bool:
        return self._used and hmac.compare_digest(cookie.encode("utf-8", "replace"), self._cookie.encode())


class Visitor(AppService):
    """A visitor's process: it ends with the visitor, and is killed where it does not."""

    async def stop(self) -> None:
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await super().stop()
        except TimeoutError:
            pass
        finally:
            if self._process is not None and self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
                await self._process.wait()


class Site(Server):
    """One dashboard on one address, from `begin` to `end`."""

    def __init__(self, words: Sequence[str], brand: Brand, *, host: str, port: int) -> None:
        """`words` are the command of a visitor's dashboard; port 0 is any that is free."""
        super().__init__(f"exec {shlex.join(words)}", host=host, port=port, title=brand.name)
        self._brand = brand
        self._entry = Entry()
        self._runner: web.AppRunner | None = None
        self._visitors = 0

    async def begin(self) -> str:
        """Serve; the link that opens it once. Raises InvalidInput for an address that is taken or not ours."""
        app = web.Application(middlewares=[self._guard])
        app.add_routes([web.get("/", self._page), web.get("/ws", self.handle_websocket)])
        app.router.add_static("/static", self.statics_path)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_TIMEOUT_S)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self.host, self.port).start()
        except OSError as error:
            await self.end()
            raise _refused(self.host, self.port, error) from None
        self.port = self._runner.addresses[0][1]
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/?token={self._entry.token}"

    async def end(self) -> None:
        """Close every visitor's session, and stop."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def serve_until(self, stop: asyncio.Event, says: Callable[[str], None]) -> None:
        says(await self.begin())
        try:
            await stop.wait()
        finally:
            await self.end()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let in whom the entry knows; everybody else gets nothing but the way to a link."""
        if "token" in request.query and request.path == "/":
            return _sealed(self._open(request.query["token"]))
        if not self._entry.knows(request.cookies.get(COOKIE, "")):
            return _sealed(web.Response(status=403, text=CLOSED))
        if request.path == "/ws":
            return await self._visit(request, handler)
        try:
            return _sealed(await handler(request))
        except web.HTTPException as error:
            return _sealed(web.Response(status=error.status, text=error.reason))

    def _open(self, token: str) -> web.Response:
        cookie = self._entry.use(token)
        if cookie is None:
            return web.Response(status=403, text=CLOSED)
        answer = web.Response(status=303, headers={"Location": "/"})  # the token leaves the address
        answer.set_cookie(COOKIE, cookie, httponly=True, samesite="Strict", path="/")
        return answer

    async def _visit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """A session, for our own page alone: another site's page would bring the cookie, too."""
        if urlsplit(request.headers.get("Origin", "")).netloc != request.host:
            return _sealed(web.Response(status=403, text="This page is not ours.\n"))
        if self._visitors >= VISITORS_MAX:
            return _sealed(web.Response(status=503, text=f"{VISITORS_MAX} sessions are open; close one.\n"))
        self._visitors += 1
        try:
            return await handler(request)
        finally:
            self._visitors -= 1

    async def handle_websocket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(heartbeat=HEARTBEAT_S)
        await socket.prepare(request)
        visitor = Visitor(
            self.command,
            write_bytes=socket.send_bytes,
            write_str=socket.send_str,
            close=socket.close,  # type: ignore[arg-type]  # it answers whether it was open
            download_manager=self.download_manager,
        )
        width, height = (to_int(request.query.get(name, ""), size) for name, size in (("width", 80), ("height", 24)))
        await visitor.start(width, height)
        try:
            await self._process_messages(socket, visitor)
        finally:
            await visitor.stop()
        return socket

    async def _page(self, request: web.Request) -> web.Response:
        dark, light = themes(self._brand)
        theme = light if self._brand.theme == "light" else dark
        colours = theme.to_color_system().generate()
        template = (resources.files("pasys.tui") / "web.html").read_text(encoding="utf-8")
        text = template.format(
            name=html.escape(self._brand.name),
            ground=colours["background"],
            letters=colours["foreground"],
            socket=html.escape(f"{'wss' if request.secure else 'ws'}://{request.host}/ws"),
            font_size=FONT_SIZE,
        )
        return web.Response(text=text, content_type="text/html")


def _refused(host: str, port: int, error: OSError) -> InvalidInput:
    if error.errno == errno.EADDRINUSE:
        return InvalidInput(field="port", reason=f"{port} is taken by {ports.holder(port)}")
    return InvalidInput(field="host", reason=f"{host} is no address to listen on here: {error.strerror or error}")


def _sealed(answer: web.StreamResponse) -> web.StreamResponse:
    answer.headers.update(HEADERS)
    return answer
