"""Rows by the thousand travel to PostgreSQL as COPY takes them in binary: it writes pages where INSERT writes rows.

A column is a numpy array (int64, any big-endian integers, or V16 for uuids), a list of texts or bytes with None for
null, or one value that stands in every row, None among them.
Format: https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-FILE-FORMATS
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

Column = NDArray[Any] | Sequence[str | bytes | None] | str | bytes | datetime | None
_Fixed = NDArray[Any] | bytes | None  # the cells of a column, all of one length
_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END = b"\xff\xff"
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_ONE_UUID = struct.pack(">iiiiii", 1, 0, 2950, 1, 1, 16)  # dimensions, no null, uuid, one of them, from 1, its length


def copy_rows(count: int, columns: Mapping[str, Column]) -> tuple[list[str], bytes]:
    """So many rows; the names of their columns in the order in which they are laid out, and the data for COPY."""
    laid = {name: _cells(column) for name, column in columns.items()}
    fixed = {name: cells for name, cells in laid.items() if not isinstance(cells, list)}
    free = {name: cells for name, cells in laid.items() if isinstance(cells, list)}  # behind the others
    if not free:
        return [*fixed], _HEADER + _fixed(count, fixed, fields=len(laid)).tobytes() + _END
    first, *others = free.values()
    rows = _fixed(count, fixed, fields=len(laid), sizes=np.array(_sizes(first)))
    data, width = rows.tobytes(), rows.itemsize
    parts: list[list[bytes]] = [[data[at : at + width] for at in range(0, len(data), width)], _filled(first)]
    for cells in others:
        parts.append([size.to_bytes(4, "big", signed=True) for size in _sizes(cells)])
        parts.append(_filled(cells))
    return [*fixed, *free], b"".join([_HEADER, *chain.from_iterable(zip(*parts, strict=True)), _END])


def copy_pairs(count: int, first: Mapping[str, Column], second: Mapping[str, Column]) -> tuple[list[str], bytes]:
    """Two rows of the same columns for each of so many, one behind the other; each column has cells of one length."""
    halves = []
    for columns in (first, {name: second[name] for name in first}):
        laid = {name: _cells(column) for name, column in columns.items()}
        fixed = {name: cells for name, cells in laid.items() if not isinstance(cells, list)}
        assert len(fixed) == len(laid), "all cells of a column are of one length"
        halves.append(_fixed(count, fixed, fields=len(laid)).view(np.uint8).reshape(count, -1))
    return [*first], _HEADER + np.hstack(halves).tobytes() + _END


def _filled(cells: list[bytes | None]) -> list[bytes]:
    return [cell or b"" for cell in cells] if None in cells else cast("list[bytes]", cells)


def one_uuid_arrays(ids: NDArray[np.void]) -> NDArray[np.void]:
    """For each id the uuid[] that holds it alone."""
    cells = np.empty((len(ids), len(_ONE_UUID) + 16), np.uint8)
    cells[:, : len(_ONE_UUID)] = np.frombuffer(_ONE_UUID, np.uint8)
    cells[:, len(_ONE_UUID) :] = np.ascontiguousarray(ids).view(np.uint8).reshape(-1, 16)
    return cells.view(f"V{cells.shape[1]}").reshape(-1)


def _cells(column: Column) -> _Fixed | list[bytes | None]:
    """A column as bytes: of one length each where that is so, else one by one."""
    if isinstance(column, str):
        return column.encode()
    if isinstance(column, datetime):
        return struct.pack(">q", (column - _EPOCH) // timedelta(microseconds=1))
    if isinstance(column, np.ndarray):
        return column.astype(">i8") if column.dtype == np.int64 else column  # what is big-endian is ready
    if column is None or isinstance(column, bytes):
        return column
    with suppress(TypeError):  # which it raises where not all are texts
        texts = cast("Sequence[str]", column)
        text, widths = "".join(texts), set(map(len, texts))
        if text and text.isascii() and len(widths) == 1:
            return np.frombuffer(text.encode(), f"V{widths.pop()}")
    ready = {*map(type, column)} <= {bytes, type(None)}
    encoded = [*column] if ready else [cell.encode() if isinstance(cell, str) else cell for cell in column]
    cells = cast("list[bytes | None]", encoded)
    widths = set(_sizes(cells))
    if len(widths) != 1 or widths <= {0, -1}:
        return cells
    return np.frombuffer(b"".join(_filled(cells)), f"V{widths.pop()}")


def _sizes(cells: Sequence[bytes | None]) -> list[int]:
    if None in cells:
        return [-1 if cell is None else len(cell) for cell in cells]
    return [*map(len, cast("Sequence[bytes]", cells))]


def _fixed(
    count: int, columns: Mapping[str, _Fixed], *, fields: int, sizes: NDArray[Any] | None = None
) -> NDArray[np.void]:
    """Rows as far as their cells are of one length; `sizes` are those of the cells that follow."""
    layout: list[tuple[str, Any]] = [("fields", ">i2")]
    for name, cells in columns.items():
        layout.append((f"{name} size", ">i4"))
        if cells is not None:
            layout.append((name, f"V{len(cells)}" if isinstance(cells, bytes) else cells.dtype))
    if sizes is not None:
        layout.append(("next size", ">i4"))
    rows = np.empty(count, np.dtype(layout))
    rows["fields"] = fields
    for name, cells in columns.items():
        if cells is not None:
            rows[name] = np.void(cells) if isinstance(cells, bytes) else cells
        rows[f"{name} size"] = -1 if cells is None else rows.dtype[name].itemsize
    if sizes is not None:
        rows["next size"] = sizes
    return rows
