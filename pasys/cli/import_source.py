"""A CSV file is read once and checked as a whole, and then read again a chunk at a time."""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from pasys.domain.import_row import BadRow, Layout, Rows, accounts_of, bad_row, read_header, reader
from pasys.domain.transaction import BOOK
from pasys.errors import InvalidInput, Rejected

FILE_BYTES_MAX = 512 * 2**20
BAD_ROWS_LISTED_MAX = 100
CHECKED_AT_ONCE = 4_000  # rows
PARTS = 16  # of rows of which one is bad: with fewer, many bad ones are met more often, and with more a single one
Progress = Callable[[str, int, int], None]  # what is being done, rows done, rows in all


class Source:
    """The bytes of a file, and the cells of its lines."""

    def __init__(self, path: Path, *, delimiter: str) -> None:
        if len(delimiter) != 1 or delimiter in '"\r\n':
            raise InvalidInput(field="delimiter", reason=f"{delimiter!r} is not one character that can separate")
        self.name, self._delimiter = path.name, delimiter
        try:
            with path.open("rb") as file:
                self._content = file.read(FILE_BYTES_MAX + 1)
        except OSError as error:
            raise InvalidInput(field="file", reason=f"{path}: {error.strerror}") from None
        if len(self._content) > FILE_BYTES_MAX:
            raise InvalidInput(field="file", reason=f"{path} has more than {FILE_BYTES_MAX >> 20} MiB; split it")
        if b"\0" in self._content:
            line = self._content.count(b"\n", 0, self._content.index(b"\0")) + 1
            raise InvalidInput(field="file", reason=f"line {line} has a NUL byte; save the file as UTF-8")
        self.hash = hashlib.sha256(self._content).digest()

    def lines(self) -> Iterator[tuple[int, list[str]]]:
        """The line on which a row begins, and its cells; the header comes first. Empty lines are left out."""
        text = io.TextIOWrapper(io.BytesIO(self._content), encoding="utf-8-sig", newline="")
        rows = csv.reader(text, delimiter=self._delimiter, strict=True)
        while True:
            line = rows.line_num + 1
            try:
                cells = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                raise InvalidInput(field="file", reason=f"line {line} is no CSV: {error}") from None
            except UnicodeDecodeError as error:
                raise InvalidInput(field="file", reason=f"at line {line} or soon after: {error}") from None
            if any(map(str.strip, cells)):
                yield line, cells

    def layout(self) -> Layout:
        """The header's. Raises InvalidInput, which names the column."""
        _, header = next(self.lines(), (1, []))
        if not header:
            raise InvalidInput(field="file", reason=f"{self.name} is empty")
        try:
            return read_header(header)
        except InvalidInput:
            other = next((other for other in ";\t|" if len(header) == 1 and other in header[0]), None)
            if other is None:
                raise
            reason = f"the columns are separated by {other!r}; say so with --delimiter"
            raise InvalidInput(field="delimiter", reason=reason) from None


@dataclass(slots=True)
class Survey:
    """What a file holds, found before anything is written."""

    layout: Layout
    rails: frozenset[str]
    rows: int = 0
    bad: list[BadRow] = field(default_factory=list)
    bad_lines: set[int] = field(default_factory=set)
    accounts: dict[tuple[str, str], str] = field(default_factory=dict)
    rails_used: set[str] = field(default_factory=set)
    assets_outside: set[str] = field(default_factory=set)  # of rows in which an account of the system's takes part


class _Surveyor:
    """Reads a file's rows for the first time."""

    def __init__(self, found: Survey, *, accounts: bool) -> None:
        self._found, self._accounts = found, accounts
        self._read = reader(found.layout, found.rails)
        self._lines: dict[str, int] = {}  # on which each key stands

    def check(self, lines: Sequence[int], cells: Sequence[list[str]]) -> None:
        """Check rows; where one of them is bad, in smaller parts, until it is alone and can be named."""
        try:
            self._take(self._read(lines, cells))
        except Rejected as no:
            if len(lines) == 1:
                return self._refuse(lines[0], cells[0], no)
            size = math.ceil(len(lines) / PARTS)
            for at in range(0, len(lines), size):
                self.check(lines[at : at + size], cells[at : at + size])

    def _take(self, rows: Rows) -> None:
        """What rows say that are valid as they stand; nothing is taken where one of them is not."""
        found = self._found
        keyed = [(key, line) for key, line in zip(rows.key, rows.line, strict=True) if key is not None]
        keys = dict(keyed)
        if len(keys) < len(keyed) or not self._lines.keys().isdisjoint(keys):
            key, _ = keyed[0]  # the only one, where somebody is told
            raise InvalidInput(field="key", reason=f"{key!r} stands on line {self._lines.get(key)} already")
        wanted = accounts_of(rows, found.accounts) if self._accounts else {}
        self._lines |= keys
        found.accounts |= wanted
        found.rails_used |= {*rows.rail}
        shapes = {*zip(rows.asset, map(_no_one, rows.debit), map(_no_one, rows.credit), rows.rail, strict=True)}
        found.assets_outside |= {asset for asset, *outside, rail in shapes if any(outside) or rail != BOOK}

    def _refuse(self, line: int, cells: Sequence[str], no: Rejected) -> None:
        found = self._found
        found.bad_lines.add(line)
        if len(found.bad) < BAD_ROWS_LISTED_MAX:
            at = found.layout.place.get("key", len(cells))
            key = cells[at].strip() if at < len(cells) else None
            found.bad.append(bad_row(line, key or None, no))


def _no_one(name: str | None) -> bool:
    return name is None


def survey(source: Source, rails: Collection[str], *, accounts: bool, progress: Progress) -> Survey:
    """Read the whole file and check every row of it. Raises InvalidInput for what is wrong with the file itself."""
    found = Survey(source.layout(), frozenset(rails))
    surveyor = _Surveyor(found, accounts=accounts)
    for chunk in _chunks(source, CHECKED_AT_ONCE):
        surveyor.check(*zip(*chunk, strict=True))
        found.rows += len(chunk)
        progress("checking", found.rows, 0)
    if not found.rows:
        raise InvalidInput(field="file", reason=f"{source.name} has a header and no rows")
    return found


def parsed(source: Source, found: Survey, *, done: int, size: int) -> Iterator[tuple[int, Rows]]:
    """The rows behind the first `done`, a chunk at a time: how many the file has there, and those that are valid."""
    read = reader(found.layout, found.rails)
    for chunk in _chunks(source, size, behind=done):
        valid = [row for row in chunk if row[0] not in found.bad_lines] if found.bad_lines else chunk
        yield len(chunk), read([line for line, _ in valid], [cells for _, cells in valid])


def _chunks(source: Source, size: int, *, behind: int = 0) -> Iterator[list[tuple[int, list[str]]]]:
    """The lines behind the header and so many rows, so many at a time."""
    lines = islice(source.lines(), 1 + behind, None)
    while chunk := list(islice(lines, size)):
        yield chunk
