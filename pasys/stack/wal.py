"""The archived WAL as files: which timelines follow one another, where one left the other, what is missing.

A segment is named TTTTTTTTLLLLLLLLSSSSSSSS: its timeline, and its place. TTTTTTTT.history has a line for each timeline
that came before, with the place where it was left (PostgreSQL documentation, "Timelines").
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

SEGMENT_BYTES = 16 * 1024 * 1024
_SEGMENTS_EACH = 0x1_0000_0000 // SEGMENT_BYTES
_SEGMENT = re.compile(r"[0-9A-F]{24}")
_END = 1 << 64


@dataclass(frozen=True, slots=True)
class Line:
    """A history: its newest timeline, and up to which byte of the WAL each of its timelines goes."""

    timeline: int
    ends: dict[int, int]

    @classmethod
    def of(cls, wal: Path, timeline: int | None = None) -> Line:
        """The history that ends in a timeline: in the newest that the archive knows, unless told otherwise."""
        known = [int(path.stem, 16) for path in wal.glob("*.history")]
        chosen = timeline or max(known, default=1)
        path = wal / f"{chosen:08X}.history"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        entries = [line.split() for line in lines if line[:1].isdigit()]
        return cls(chosen, {int(words[0]): position(words[1]) for words in entries} | {chosen: _END})

    def has(self, timeline: int, lsn: str) -> bool:
        """Whether this history goes through a place of a timeline."""
        return position(lsn) <= self.ends.get(timeline, -1)


def position(lsn: str) -> int:
    """A place in the WAL, in bytes from its beginning."""
    high, low = lsn.split("/")
    return (int(high, 16) << 32) | int(low, 16)


def number(name: str) -> int:
    """The place of a segment in the WAL, counted in segments, whatever its timeline."""
    return int(name[8:16], 16) * _SEGMENTS_EACH + int(name[16:24], 16)


def label(number: int) -> str:
    """The part of a segment's name that says its place."""
    return f"{number // _SEGMENTS_EACH:08X}{number % _SEGMENTS_EACH:08X}"


def segments(wal: Path, line: Line | None = None) -> dict[int, str]:
    """The archived segments by number, each with its name; only those of one history, if it is given."""
    found: dict[int, str] = {}
    for name in sorted(path.name for path in wal.glob("0*")):
        if not _SEGMENT.fullmatch(name):
            continue
        place = number(name)
        if line is None or place * SEGMENT_BYTES < line.ends.get(int(name[:8], 16), -1):
            found[place] = name
    return found


def gap(wal: Path, line: Line, *, behind: str) -> str:
    """The first segment that the archive lacks between a place and its own end; empty where it has all."""
    kept = segments(wal, line)
    for place in range(position(behind) // SEGMENT_BYTES + 1, max(kept, default=0) + 1):
        if place not in kept:
            return f"segment {label(place)}"
    return ""


def waiting_since(data: Path) -> datetime | None:
    """When the segment was closed that waits longest for the archive; None where none waits."""
    closed = []
    for ready in (data / "pg_wal" / "archive_status").glob("*.ready"):
        with suppress(FileNotFoundError):  # archived at this moment
            closed.append(ready.stat().st_mtime)
    return datetime.fromtimestamp(min(closed), UTC) if closed else None


def reach(wal: Path, line: Line) -> int:
    """The place up to which a history can be replayed from its archived segments, if each of them can be read."""
    kept = segments(wal, line)
    whole = (min((place + 1) * SEGMENT_BYTES, line.ends[int(name[:8], 16)]) for place, name in kept.items())
    return max(whole, default=0)


def forget_before(wal: Path, lsn: str) -> int:
    """Delete the segments that end before a place; how many. Histories stay: they are small, and are needed."""
    first = position(lsn) // SEGMENT_BYTES
    old = 0
    for path in wal.glob("0*"):
        name = path.name[:24]
        if _SEGMENT.fullmatch(name) and number(name) < first:
            path.unlink()
            old += 1
    return old
