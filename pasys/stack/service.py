"""The life of one service: wait for what it needs, start, be ready, end, pause, start again; and stop when asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

from pasys.errors import DiskFull, PasysError, ServiceFailed
from pasys.stack.process import how_it_ended
from pasys.stack.runner import ExternalRunner, Run, Runner
from pasys.stack.server import NotReady
from pasys.stack.state import HEALTHY, Condition, Kind, ServiceState

BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.2, 10.0
HEALTHY_AFTER_S = 30.0  # a life this long forgives the quick deaths before it
QUICK_DEATHS_MAX = 5
HURRY_S = 0.5
CANCEL_AGAIN_S = 0.1


class Service:
    """`needs` must be ready before a start; `rank` orders the stop, lowest first."""

    def __init__(
        self,
        name: str,
        kind: Kind,
        runner: Runner,
        *,
        needs: list[Service],
        rank: int,
        changed: Callable[[], None],
        fatal: Callable[[PasysError], None],
        once: bool = False,
    ) -> None:
        self.name = name
        self.kind: Kind = kind
        self.runner, self.needs, self.rank, self.once = runner, needs, rank, once
        self.ready = asyncio.Event()
        self.condition: Condition = "stopped"
        self.last_error: str | None = None
        self._changed, self._fatal = changed, fatal
        self._run: Run | None = None
        self._started_at: datetime | None = None
        self._restarts = 0
        self._quick_deaths = 0
        self._ready_at: datetime | None = None
        self._was_ready = False
        self._last_exit: str | None = None
        self._task: asyncio.Task[None] | None = None
        self._kick = asyncio.Event()

    @property
    def state(self) -> ServiceState:
        pid = self._run.pid if self._run and not self._run.ended.done() else None
        return ServiceState(
            name=self.name,
            kind=self.kind,
            state=self.condition,
            pid=pid,
            started_at=self._started_at if pid or self.condition in HEALTHY else None,
            restarts=self._restarts,
            last_exit=self._last_exit,
            last_error=self.last_error,
        )

    @property
    def wanted(self) -> bool:
        return self._task is not None

    def want(self) -> None:
        """Have it run; one that pauses between two lives starts at once."""
        self._kick.set()
        if self._task is None:
            self._quick_deaths = 0
            self._become("starting")
            self._task = asyncio.create_task(self._live(), name=self.name)

    def note(self, error: str | None) -> None:
        """Set or clear what keeps it from working."""
        if error != self.last_error:
            self.last_error = error
            self._changed()

    async def stop(self, hurry: asyncio.Event | None = None) -> None:
        """End it: each of its signals in turn, patiently unless `hurry` is set."""
        task, self._task = self._task, None
        if task is None:
            return
        while not task.done():  # a cancellation is lost when it meets the result that was waited for
            task.cancel()
            await asyncio.wait({task}, timeout=CANCEL_AGAIN_S)
        self.ready.clear()
        if self._run is not None and not self._run.ended.done():
            self._become("stopping")
            await self._end(self._run, hurry or asyncio.Event())
        self._become("stopped")

    async def _end(self, run: Run, hurry: asyncio.Event) -> None:
        for sent, patience_s in self.runner.stop_signals:
            run.signal(sent)
            hurried = asyncio.ensure_future(hurry.wait())
            await asyncio.wait({run.ended, hurried}, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            if hurry.is_set():
                await asyncio.wait({run.ended}, timeout=HURRY_S)
            hurried.cancel()
            if run.ended.done():
                self._last_exit = how_it_ended(run.ended.result())
                return

    def _become(self, condition: Condition) -> None:
        self.condition = condition
        self._changed()

    async def _live(self) -> None:
        while True:
            self._become("starting")
            for needed in self.needs:
                await needed.ready.wait()
            self._started_at = datetime.now(UTC)
            try:
                await self._one_life()
            except (NotReady, PasysError, OSError) as error:
                await self._failed(error)
            finally:
                self.ready.clear()
            await self._pause()
            self._restarts += 1

    async def _one_life(self) -> None:
        """Start, be ready, and wait for the end. Raises what went wrong; every end of a lasting program is wrong."""
        self._run = run = None
        self._run = run = await self.runner.start()
        self._changed()
        await self.runner.until_ready(run)
        if self.once and run.ended.result() == 0:
            self._be_ready()
            await asyncio.Event().wait()  # done for good: stop() ends the wait
        if not self.once:
            self._be_ready()
        code = await asyncio.shield(run.ended)
        raise NotReady(run.error or f"it ended by itself ({how_it_ended(code)})")

    def _be_ready(self) -> None:
        self.last_error = None
        self._was_ready = True
        self._ready_at = datetime.now(UTC)
        self.ready.set()
        self._become("external" if isinstance(self.runner, ExternalRunner) else "ready")

    async def _failed(self, error: Exception) -> None:
        """Record a failed life, and end what is left of it."""
        self.ready.clear()
        run = self._run
        if run is not None:
            if not run.ended.done():
                await self._end(run, asyncio.Event())
            if run.ended.done():
                self._last_exit = how_it_ended(run.ended.result())
        self.last_error = (run.error if run else None) or str(error)
        if isinstance(error, DiskFull):
            self.last_error = f"disk full: {error}"
        elif isinstance(error, PasysError) and not isinstance(error, ServiceFailed) and not self._was_ready:
            # A server that is missing, or whose data are not ours to open, will not be there the next time either.
            self._become("failed")
            self._fatal(error)

    async def _pause(self) -> None:
        healthy_s = (datetime.now(UTC) - self._ready_at).total_seconds() if self._ready_at else 0.0
        self._ready_at = None
        self._quick_deaths = 1 if healthy_s > HEALTHY_AFTER_S else self._quick_deaths + 1
        looping = self._quick_deaths >= QUICK_DEATHS_MAX
        self._kick.clear()
        self._become("crash_loop" if looping else "backoff")
        pause_s = BACKOFF_MAX_S if looping else BACKOFF_FIRST_S * 2 ** (self._quick_deaths - 1)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._kick.wait()
