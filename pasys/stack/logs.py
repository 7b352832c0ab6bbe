"""One stream out of many log files, in the order of time as far as the lines carry one."""

from __future__ import annotations

import heapq
import re
import time
from calendar import month_abbr
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pasys.errors import ServiceNotFound
from pasys.stack.home import Home

FOLLOW_EVERY_S = 0.2
ROTATIONS_MAX = 3
TAIL_BYTES = 64 * 1024  # of each log, for people to look at
_ISO = re.compile(r"(\d{4})[-/](\d\d)[-/](\d\d)[T ](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,6}))?")  # ours, PostgreSQL, NATS
_VALKEY = re.compile(r"(\d\d) (\w{3}) (\d{4}) (\d\d):(\d\d):(\d\d)\.(\d{3})")
_MONTHS = {name: number for number, name in enumerate(month_abbr) if number}


_NAMES = {
    "debug": "DEBUG DBG TRC TRACE VERBOSE DEBUG1 DEBUG2 DEBUG3 DEBUG4 DEBUG5",
    "info": "INFO INF LOG NOTICE STATEMENT DETAIL HINT CONTEXT",
    "warning": "WARNING WARN WRN",
    "error": "ERROR ERR FATAL FTL PANIC CRITICAL",
}
LEVELS = tuple(_NAMES)  # from the least
_LEVEL_OF = {name: level for level, names in _NAMES.items() for name in names.split()}
_LEVEL_OF |= {".": "debug", "-": "debug", "*": "info", "#": "warning"}  # Valkey's marks
# Behind its time: ours as a word, PostgreSQL's before a colon, NATS's in brackets, Valkey's as a mark.
_LEVEL = re.compile(r"Z ([A-Z]+) |\] ([A-Z]+\d?):  |\[([A-Z]{3})\] |^\d+:[A-Z] .{24} ([.\-*#]) ")


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line as it was written. `at` is its own time, or that of the nearest line above it that has one."""

    service: str
    at: datetime | None
    text: str


def logs(
    home: Path, names: list[str] | None = None, *, follow: bool = False, since: datetime | None = None
) -> Iterator[LogLine]:
    """The lines of the named services, or of all. With `follow` it goes on for ever. Raises ServiceNotFound."""
    place = Home(home.absolute())
    chosen = _chosen(place, names)
    ends = {name: _size(place.log(name)) for name in chosen}
    streams = [_past(place, name, ends[name]) for name in chosen]
    for line in heapq.merge(*streams, key=lambda line: line.at or datetime.min.replace(tzinfo=UTC)):
        if since is None or (line.at is not None and line.at >= since):
            yield line
    if follow:
        yield from _future(place, ends, everything=names is None)


class Newest:
    """The newest lines of all logs of a home and then, with each reading, those that have come since."""

    def __init__(self, home: Path, *, tail_bytes: int = TAIL_BYTES) -> None:
        self._place = Home(home.absolute())
        self._tail_bytes = tail_bytes
        self._read_to: dict[str, int] = {}
        self.skipped_bytes = 0  # of what came faster than it was read

    def read(self) -> list[LogLine]:
        """In the order of time; what one log has of more than `tail_bytes` a reading is passed over. Never waits."""
        found: list[LogLine] = []
        for name in _chosen(self._place, None):
            first = name not in self._read_to
            start, end = _unread(self._place, name, self._read_to)
            if end - start > self._tail_bytes:
                begin = _whole_lines(self._place.log(name), end - self._tail_bytes, end, first=True)
                self.skipped_bytes += 0 if first else begin - start
                start = begin
            found += _lines(self._place.log(name), name, start=start, end=end, at=None)
        return sorted(found, key=lambda line: line.at or datetime.min.replace(tzinfo=UTC))


def level_of(text: str) -> str | None:
    """How grave a log line is (one of LEVELS), by what its program wrote; None where it does not say."""
    found = _LEVEL.search(text[:200])
    return _LEVEL_OF.get(next(filter(None, found.groups()))) if found else None


def time_of(text: str) -> datetime | None:
    """The time that a log line carries near its beginning; every log of ours is written in UTC."""
    head = text[:200]
    with suppress(ValueError):
        if found := _ISO.search(head):
            year, month, day, hour, minute, second = map(int, found.groups()[:6])
            micros = int((found[7] or "").ljust(6, "0"))
            return datetime(year, month, day, hour, minute, second, micros, tzinfo=UTC)
        if (found := _VALKEY.search(head)) and found[2] in _MONTHS:
            day, year, hour, minute, second, millis = map(int, found.group(1, 3, 4, 5, 6, 7))
            return datetime(year, _MONTHS[found[2]], day, hour, minute, second, millis * 1000, tzinfo=UTC)
    return None


def _chosen(place: Home, names: list[str] | None) -> list[str]:
    known = sorted(path.stem for path in place.logs.glob("*.log"))
    if names is None:
        return known
    chosen: list[str] = []
    for name in names:
        found = [other for other in known if other == name or re.fullmatch(rf"{re.escape(name)}-\d+", other)]
        if not found:
            raise ServiceNotFound(name=name, known=", ".join(known))
        chosen += found
    return chosen


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _past(place: Home, name: str, end: int) -> Iterator[LogLine]:
    """What stands in a log and its rotations, up to `end` bytes of the newest file."""
    path = place.log(name)
    at: datetime | None = None
    for number in range(ROTATIONS_MAX, 0, -1):
        older = path.with_name(f"{path.name}.{number}")
        if older.exists():
            for line in _lines(older, name, start=0, end=_size(older), at=at):
                at = line.at
                yield line
    yield from _lines(path, name, start=0, end=end, at=at)


def _lines(path: Path, name: str, *, start: int, end: int, at: datetime | None) -> Iterator[LogLine]:
    with suppress(FileNotFoundError), path.open("rb") as file:
        file.seek(start)
        for raw in file:
            start += len(raw)
            if start > end:
                return
            text = raw.decode("utf-8", "replace").rstrip("\n")
            at = time_of(text) or at
            yield LogLine(name, at, text)


def _future(place: Home, read_to: dict[str, int], *, everything: bool) -> Iterator[LogLine]:
    while True:
        for name in _chosen(place, None) if everything else list(read_to):
            start, end = _unread(place, name, read_to)
            yield from _lines(place.log(name), name, start=start, end=end, at=None)
        time.sleep(FOLLOW_EVERY_S)


def _unread(place: Home, name: str, read_to: dict[str, int]) -> tuple[int, int]:
    """From where to where a log has whole lines that were not read before; from now on they were."""
    path = place.log(name)
    start, size = read_to.get(name, 0), _size(path)
    start = 0 if size < start else start  # rotated
    read_to[name] = _whole_lines(path, start, size)
    return start, read_to[name]


def _whole_lines(path: Path, start: int, end: int, *, first: bool = False) -> int:
    """The end of the last line that is finished, or of the first."""
    if end == start:
        return start
    with path.open("rb") as file:
        file.seek(start)
        block = file.read(end - start)
    return start + (block.find(b"\n") if first else block.rfind(b"\n")) + 1
