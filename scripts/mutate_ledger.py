"""Every guard of the ledger is taken away, one at a time, in a copy of the source, and a test must notice.

    python scripts/mutate_ledger.py                  all guards; exit code 1 where one survives its removal
    python scripts/mutate_ledger.py --only "lock"    those whose name or file has the word
    python scripts/mutate_ledger.py --list           what there is

The guards are in scripts/ledger_guards.txt, each with the lines that are taken away and the tests that stand nearest.
The checkout is never touched. First the same tests must pass on the copy as it is. A guard without which nothing can be
set up counts as not removed: where a migration cannot be run, no test has noticed anything.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pasys.stack.servers import running_servers  # noqa: E402
from tests.conftest import SERVERS, in_memory  # noqa: E402

GUARDS = ROOT / "scripts" / "ledger_guards.txt"
COPIED = ("pasys", "daemons", "migrations", "tests", "scripts", "pyproject.toml")
TIMEOUT_S = 180.0
PYTEST = ("-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", "--hypothesis-seed=1")
_FAILED = re.compile(r"^FAILED (\S+\.py::.+?)(?: - .*)?$", re.MULTILINE)
_WRONG = re.compile(r"^ERROR (\S+\.py.*)$", re.MULTILINE)


class NotSetUp(Exception):
    """The tests could not be set up."""


@dataclass(slots=True)
class Guard:
    """One guard: `old` are the lines that it is, `new` those that stand there without it."""

    name: str
    file: str
    tests: tuple[str, ...]
    old: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)

    def removed(self, text: str) -> str:
        """The file without the guard. The lines must stand in it exactly once."""
        old, new = ("".join(f"{line}\n" for line in lines) for lines in (self.old, self.new))
        found = len(re.findall(f"^{re.escape(old)}", text, re.MULTILINE))
        if found != 1:
            raise SystemExit(f"{self.file}: {self.name}: its lines stand there {found} times, not once")
        return re.sub(f"^{re.escape(old)}", lambda _: new, text, count=1, flags=re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What noticed that a guard was gone; None: nothing did, or it could not be taken away."""

    guard: Guard
    noticed_by: str | None
    seconds: float
    not_set_up: str | None = None

    @property
    def says(self) -> str:
        return self.noticed_by or (f"NOT REMOVED: {self.not_set_up}" if self.not_set_up else "SURVIVED")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="guards whose name or file has this word")
    parser.add_argument("--list", action="store_true", help="show the guards and end")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time (default 1)")
    options = parser.parse_args()
    # Whoever ends it must leave no server behind, even where a shell has Ctrl-C ignored in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    known = read(GUARDS.read_text(encoding="utf-8"))
    guards = [guard for guard in known if options.only in f"{guard.name} {guard.file}"]
    for guard in guards:  # before anything is run
        guard.removed((ROOT / guard.file).read_text(encoding="utf-8"))
    if options.list or not guards:
        print(*[f"{guard.file}: {guard.name}" for guard in guards], sep="\n")
        return 0 if guards else 2
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pasys-m", dir=in_memory())))
        servers = stack.enter_context(running_servers(home, durable=False))
        os.environ[SERVERS] = json.dumps({"home": str(home), **servers})
        copies = [stack.enter_context(_copy()) for _ in range(options.jobs)]
        _check_unchanged(copies[0], guards)
        outcomes = _run(copies, guards)
    return _report(outcomes, time.monotonic() - began)


def read(text: str) -> list[Guard]:
    """The guards of a file in the format that scripts/ledger_guards.txt begins with."""
    guards: list[Guard] = []
    file, tests = "", ()
    for line in ("== " + text.partition("\n== ")[2]).splitlines():
        mark, rest = line[:1], line[1:]
        if line.startswith("== "):
            file = line[3:]
        elif line.startswith(":: "):
            tests = tuple(line[3:].split())
        elif mark == "-":
            guards[-1].old.append(rest)
        elif mark == "+":
            guards[-1].new.append(rest)
        elif line:
            guards.append(Guard(line, file, tests))
    return guards


@contextlib.contextmanager
def _copy() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="pasys-m"))
    try:
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, folder / name)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_unchanged(copy: Path, guards: list[Guard]) -> None:
    tests = dict.fromkeys(test for guard in guards for test in guard.tests)
    try:
        noticed, seconds = _tested(copy, list(tests), timeout_s=20 * TIMEOUT_S)
    except NotSetUp as error:
        raise SystemExit(f"the tests cannot be set up: {error}") from None
    if noticed is not None:
        raise SystemExit(f"the tests do not pass as it is: {noticed}")
    print(f"with all guards: {len(tests)} files and tests pass in {seconds:.0f} s", flush=True)


def _run(copies: list[Path], guards: list[Guard]) -> list[Outcome]:
    free: SimpleQueue[Path] = SimpleQueue()
    for copy in copies:
        free.put(copy)

    def one(guard: Guard) -> Outcome:
        copy = free.get()
        try:
            outcome = _without(copy, guard)
        finally:
            free.put(copy)
        print(f"{outcome.seconds:4.0f} s  {guard.name}: {outcome.says}", flush=True)
        return outcome

    with ThreadPoolExecutor(len(copies)) as pool:
        return list(pool.map(one, guards))


def _without(copy: Path, guard: Guard) -> Outcome:
    """Take the guard away, ask the nearest tests one after the other until one fails, and put it back."""
    target = copy / guard.file
    text = target.read_text(encoding="utf-8")
    target.write_text(guard.removed(text), encoding="utf-8")
    took = 0.0
    try:
        for test in guard.tests:
            noticed, seconds = _tested(copy, [test], timeout_s=TIMEOUT_S)
            took += seconds
            if noticed is not None:
                return Outcome(guard, noticed, took)
        return Outcome(guard, None, took)
    except NotSetUp as error:
        return Outcome(guard, None, took, not_set_up=str(error))
    finally:
        target.write_text(text, encoding="utf-8")


def _tested(copy: Path, tests: list[str], *, timeout_s: float) -> tuple[str | None, float]:
    """The test that failed, None where all passed; and the time that it took. No bytecode: two versions of a file may
    have one size and one second. Raises NotSetUp."""
    began = time.monotonic()
    place = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    words = [sys.executable, *PYTEST, *tests]
    running = subprocess.Popen(
        words, cwd=copy, env=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        said, _ = running.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return f"not done within {timeout_s:.0f} s", _end(running, began)
    except BaseException:
        _end(running, began)
        raise
    if running.returncode == 0:
        return None, time.monotonic() - began
    if running.returncode not in (1, 2):
        raise SystemExit(f"pytest ended with {running.returncode}:\n{said[-2000:]}")
    if failed := _FAILED.search(said):
        return failed[1], time.monotonic() - began
    wrong = _WRONG.search(said)
    raise NotSetUp(wrong[1] if wrong else said.strip().splitlines()[-1])


def _end(running: subprocess.Popen[str], began: float) -> float:
    """Interrupt it, so that it stops its servers; then whatever is left."""
    for number in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(running.pid, number)
            running.communicate(timeout=20)
            break
    return time.monotonic() - began


def _report(outcomes: list[Outcome], seconds: float) -> int:
    wide = max(len(outcome.guard.name) for outcome in outcomes)
    file = ""
    for outcome in outcomes:
        if outcome.guard.file != file:
            file = outcome.guard.file
            print(f"\n{file}")
        print(f"  {outcome.guard.name:<{wide}}  {outcome.says}")
    noticed = sum(outcome.noticed_by is not None for outcome in outcomes)
    not_removed = sum(outcome.not_set_up is not None for outcome in outcomes)
    survived = len(outcomes) - noticed - not_removed
    counted = f"{noticed} noticed, {survived} survived, {not_removed} not removed"
    print(f"\n{len(outcomes)} guards in {seconds:.0f} s: {counted}")
    return 0 if noticed == len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
