"""Measure the dashboard as an operator has it: in a terminal, with 500 events a second on the bus.

    .venv/bin/python scripts/bench/dash.py                                  about two minutes
    .venv/bin/python scripts/bench/dash.py --minutes 10 --screens tour      the soak

It starts servers of its own, and for each screen a `pasys dash` in a pseudo-terminal of 160x48. It types into the
filter and waits until what it typed is drawn, or leaves the screen and comes back; a tour goes from each screen to the
next. Meanwhile it reads the process's CPU time and memory. First paint is from the start of the process to the first
words on the terminal. It exits 1 where a goal is missed; memory is judged in runs of two minutes and more.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import multiprocessing
import os
import pty
import random
import re
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import psutil

from pasys import ids, migration
from pasys.bus import Bus
from pasys.config import Settings
from pasys.db import Database
from pasys.events import Announcement, Envelope, TransactionSucceeded
from pasys.money import parse
from pasys.service import account, transaction
from pasys.service.transaction import Draft
from pasys.stack.servers import running_servers
from pasys.tui.app import SCREENS, SCREENS_BY_NAME

LATENCY_P95_MAX_MS = 100.0
CPU_MAX = 0.40  # of one core
FIRST_PAINT_MAX_S = 1.0
GROWTH_MAX_MB = 8.0  # from the first quarter of a run to its last
GROWTH_JUDGED_S = 120.0
SIZE = (160, 48)
STARTS = 5
TYPED = "qwertyuiopasdfgh"
FILTERED = ("events", "transactions", "accounts", "logs", "dead-letters")
TITLES = {key: title for key, _, title, _ in SCREENS if key} | {"d": "Dead letters", "l": "Logs"}
TOUR, ASIDE = "23456dl1", "31"
WARM_UP_S = 5.0
TIMEOUT_S = 30.0
ESCAPES = re.compile(rb"\x1b(?:\[[\d;?<>=]*[ -/]*[@-~]|\][^\x07]*\x07|[()][A-Z0-9]|[=>])")
PAINTED = b"1 Overview"  # in the second line of every screen


class Terminal:
    """A `pasys dash` in a pseudo-terminal, and what it has drawn."""

    def __init__(self, screen: str, home: Path, environ: dict[str, str]) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", SIZE[1], SIZE[0], 0, 0))
        words = [Path(sys.executable).with_name("pasys"), "--home", home, "dash", "--screen", screen]
        self.started_at = time.monotonic()
        self.process = subprocess.Popen(
            words, stdin=slave, stdout=slave, stderr=slave, env=environ, start_new_session=True
        )
        os.close(slave)
        self._drawn = b""
        self._news = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                block = os.read(self.master, 65_536)
            except OSError:
                return
            with self._news:
                self._drawn += block
                self._news.notify_all()

    def press(self, keys: str) -> float:
        """When it was pressed. What was drawn before is forgotten."""
        with self._news:
            self._drawn = b""
        pressed_at = time.monotonic()
        os.write(self.master, keys.encode())
        return pressed_at

    def until(self, words: bytes) -> float:
        """When these words had been drawn. Raises TimeoutError."""
        deadline = time.monotonic() + TIMEOUT_S
        with self._news:
            while words not in ESCAPES.sub(b"", self._drawn):
                if not self._news.wait(deadline - time.monotonic()):
                    raise TimeoutError(f"{words!r} was not drawn in {TIMEOUT_S:g} s")
        return time.monotonic()

    def forget(self) -> None:
        with self._news:
            self._drawn = b""

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.master)


def first_paint_s(home: Path, environ: dict[str, str]) -> float:
    terminal = Terminal("overview", home, environ)
    try:
        return terminal.until(PAINTED) - terminal.started_at
    finally:
        terminal.close()


class Measured:
    """What one screen has cost over a time, and how long its keys waited."""

    def __init__(self, screen: str) -> None:
        self.screen = screen
        self.latencies_ms: list[float] = []
        self.rss_mb: list[float] = []
        self.cpu = 0.0
        self.seconds = 0.0

    def measure(self, terminal: Terminal, seconds: float) -> None:
        process = psutil.Process(terminal.process.pid)
        before, begun_at = process.cpu_times(), time.monotonic()
        next_memory_at = begun_at
        while (now := time.monotonic()) - begun_at < seconds:
            if now >= next_memory_at:
                self.rss_mb.append(process.memory_info().rss / 1e6)
                next_memory_at = now + max(seconds / 60, 1.0)
            if self.screen in FILTERED:
                self._type(terminal)
            else:
                self._go(terminal, TOUR if self.screen == "tour" else ASIDE)
        after, self.seconds = process.cpu_times(), time.monotonic() - begun_at
        self.cpu = (after.user + after.system - before.user - before.system) / self.seconds

    def _type(self, terminal: Terminal) -> None:
        """Letter by letter into the filter; each is waited for, behind those before it."""
        terminal.press("/")
        time.sleep(0.3)
        for count in range(1, len(TYPED) + 1):
            pressed_at = terminal.press(TYPED[count - 1])
            self.latencies_ms.append((terminal.until(TYPED[:count].encode()) - pressed_at) * 1000)
            time.sleep(random.uniform(0.15, 0.45))
        terminal.press("\x15")  # Ctrl+U
        time.sleep(0.3)

    def _go(self, terminal: Terminal, keys: str) -> None:
        """From screen to screen: each is waited for until its title is drawn."""
        for key in keys:
            pressed_at = terminal.press(key)
            self.latencies_ms.append((terminal.until(f"{TITLES[key]}   ".encode()) - pressed_at) * 1000)
            time.sleep(random.uniform(1.5, 3.0))

    @property
    def p95_ms(self) -> float:
        return statistics.quantiles(self.latencies_ms, n=20)[-1]

    @property
    def growth_mb(self) -> float:
        quarter = max(len(self.rss_mb) // 4, 1)
        return statistics.mean(self.rss_mb[-quarter:]) - statistics.mean(self.rss_mb[quarter : 2 * quarter] or [0.0])

    def line(self) -> str:
        return (
            f"{self.screen:<14} keys {len(self.latencies_ms):>4}  p50 {statistics.median(self.latencies_ms):5.1f} ms"
            f"  p95 {self.p95_ms:5.1f} ms  cpu {self.cpu:5.1%} of a core"
            f"  memory {self.rss_mb[0]:.1f} to {self.rss_mb[-1]:.1f} MB, at most {max(self.rss_mb):.1f}"
            f", growth {self.growth_mb:+.1f} in {self.seconds:.0f} s"
        )

    def missed(self) -> list[str]:
        found = []
        if self.p95_ms > LATENCY_P95_MAX_MS:
            found.append(f"{self.screen}: p95 of a key is {self.p95_ms:.1f} ms, not {LATENCY_P95_MAX_MS:g}")
        if self.cpu > CPU_MAX:
            found.append(f"{self.screen}: {self.cpu:.1%} of a core, not {CPU_MAX:.0%}")
        if self.seconds >= GROWTH_JUDGED_S and self.growth_mb > GROWTH_MAX_MB:
            found.append(f"{self.screen}: memory grew by {self.growth_mb:.1f} MB, not {GROWTH_MAX_MB:g}")
        return found


def publish(settings: Settings, rate: int, sent: object) -> None:
    """Publish real events at a pace, in a process of its own, until it is ended; `sent` counts them."""

    async def run() -> None:
        bus = await Bus(settings).connect(name="bench")
        begun_at, number = time.monotonic(), 0
        while True:
            due = int((time.monotonic() - begun_at) * rate)
            if due > number:
                number += len(await bus.publish([event(n) for n in range(number, due)]))
                sent.value = number  # type: ignore[attr-defined]
            await asyncio.sleep(0.02)

    asyncio.run(run())


def event(number: int) -> Announcement:
    fact = TransactionSucceeded(
        asset="USD", transaction_id=ids.new("tx"), kind="payment", rail="instant", amount_minor=number + 1, fee_minor=3
    )
    envelope = Envelope(
        id=ids.new("evt"),
        subject=fact.subject,
        version=fact.version,
        time=datetime.now(UTC),
        correlation_id=fact.entity_id,
        data=msgspec.Raw(msgspec.json.encode(fact)),
    )
    return Announcement(envelope.id, f"{fact.subject}.USD", msgspec.json.encode(envelope))


async def fill(settings: Settings) -> None:
    """Something to show: some thousand transactions."""
    database = Database(settings)
    async with database.unit() as unit:
        await account.open(unit, name="alice", asset="USD")
        drafts = [Draft(amount=parse("1.00", "USD"), credit="alice") for _ in range(3_000)]
        await transaction.create_many(unit, drafts, partial=False)
    await database.close()


def run(screens: list[str], seconds: float, rate: int, home: Path) -> list[str]:
    """Measure all, print it, and say which goals were missed."""
    with running_servers(home) as endpoints:
        settings = msgspec.convert({"home": str(home), **endpoints}, Settings)
        migration.upgrade(settings)
        asyncio.run(fill(settings))
        servers = {name.upper(): url for name, url in endpoints.items()}
        environ = os.environ | servers | {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
        sent = multiprocessing.Value("q", 0)
        publisher = multiprocessing.Process(target=publish, args=(settings, rate, sent), daemon=True)
        publisher.start()
        try:
            missed = paints(home, environ)
            for screen in screens:
                before, begun_at = sent.value, time.monotonic()
                found = one(screen, seconds, home, environ)
                pace = (sent.value - before) / (time.monotonic() - begun_at)
                print(f"{found.line()}  at {pace:,.0f} events/s", flush=True)
                missed += found.missed()
                if pace < 0.95 * rate:
                    missed.append(f"{screen}: only {pace:,.0f} events/s were published, not {rate}: no measurement")
            return missed
        finally:
            publisher.terminate()
            publisher.join()


def paints(home: Path, environ: dict[str, str]) -> list[str]:
    found = sorted(first_paint_s(home, environ) for _ in range(STARTS))
    median = statistics.median(found)
    print(
        f"first paint    median {median:.2f} s of {STARTS} ({', '.join(f'{each:.2f}' for each in found)})", flush=True
    )
    return [] if median <= FIRST_PAINT_MAX_S else [f"first paint after {median:.2f} s, not {FIRST_PAINT_MAX_S:g}"]


def one(screen: str, seconds: float, home: Path, environ: dict[str, str]) -> Measured:
    terminal = Terminal("overview" if screen == "tour" else screen, home, environ)
    try:
        terminal.until(PAINTED)
        time.sleep(WARM_UP_S)
        found = Measured(screen)
        found.measure(terminal, seconds)
        return found
    finally:
        terminal.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the dashboard under a flood of events.")
    parser.add_argument("--minutes", type=float, default=0.5, help="for each screen")
    parser.add_argument("--rate", type=int, default=500, help="events a second")
    default = ["events", "overview", "transactions"]
    parser.add_argument("--screens", nargs="+", choices=[*SCREENS_BY_NAME, "tour"], default=default, metavar="SCREEN")
    asked = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="pasys-dash-"))
    try:
        load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
        print(f"{os.cpu_count()} cores, load before {load}; {asked.rate} events/s, {SIZE[0]}x{SIZE[1]}", flush=True)
        missed = run(asked.screens, asked.minutes * 60, asked.rate, home)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    print("\n".join(missed) if missed else "All goals are met.")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
