"""Rows by the thousand travel to PostgreSQL as COPY takes them in binary: it writes pages where INSERT writes rows.

A column is a numpy array (int64, any big-endian integers, or V16 for uuids), a list of texts or bytes with None for
null, or one value that stands in every row.
Format: https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-FILE-FORMATS
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

Column = NDArray[Any] | Sequence[str | bytes | None] | str | bytes | datetime
_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END = b"\xff\xff"
_NULL = b"\xff\xff\xff\xff"
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_ONE_UUID = struct.pack(">iiiiii", 1, 0, 2950, 1, 1, 16)  # dimensions, no null, uuid, one of them, from 1, its length


def copy_rows(count: int, columns: Mapping[str, Column]) -> tuple[list[str], bytes]:
    """So many rows; the names of their columns in the order in which they are laid out, and the data for COPY."""
    laid = {name: _cells(column) for name, column in columns.items()}
    fixed = {name: cells for name, cells in laid.items() if not isinstance(cells, list)}
    free = {name: cells for name, cells in laid.items() if isinstance(cells, list)}  # behind the others
    data = _fixed(count, fixed, fields=len(laid))
    if not free:
        return [*fixed], _HEADER + data + _END
    width = len(data) // count
    parts: list[list[bytes]] = [[data[at : at + width] for at in range(0, len(data), width)]]
    for cells in free.values():
        parts.append([_NULL if cell is None else len(cell).to_bytes(4, "big") for cell in cells])
        parts.append([cell or b"" for cell in cells])
    rows = b"".join([piece for row in zip(*parts, strict=True) for piece in row])
    return [*fixed, *free], _HEADER + rows + _END


def one_uuid_arrays(ids: NDArray[np.void]) -> NDArray[np.void]:
    """For each id the uuid[] that holds it alone."""
    cells = np.empty((len(ids), len(_ONE_UUID) + 16), np.uint8)
    cells[:, : len(_ONE_UUID)] = np.frombuffer(_ONE_UUID, np.uint8)
    cells[:, len(_ONE_UUID) :] = np.ascontiguousarray(ids).view(np.uint8).reshape(-1, 16)
    return cells.view(f"V{cells.shape[1]}").reshape(-1)


def _cells(column: Column) -> NDArray[Any] | bytes | list[bytes | None]:
    """A column as bytes: of one length each where that is so, else one by one."""
    if isinstance(column, str):
        return column.encode()
    if isinstance(column, datetime):
        return struct.pack(">q", (column - _EPOCH) // timedelta(microseconds=1))
    if isinstance(column, np.ndarray):
        return column.astype(">i8") if column.dtype == np.int64 else column  # what is big-endian is ready
    if isinstance(column, bytes):
        return column
    cells = [cell.encode() if isinstance(cell, str) else cell for cell in column]
    whole = [cell for cell in cells if cell is not None]
    if len(whole) < len(cells) or len(set(map(len, whole))) != 1 or not whole[0]:
        return cells
    return np.frombuffer(b"".join(whole), f"V{len(whole[0])}")


def _fixed(count: int, columns: Mapping[str, NDArray[Any] | bytes], *, fields: int) -> bytes:
    layout: list[tuple[str, Any]] = [("fields", ">i2")]
    for name, cells in columns.items():
        kind = f"V{len(cells)}" if isinstance(cells, bytes) else cells.dtype
        layout += [(f"{name} size", ">i4"), (name, kind)]
    rows = np.empty(count, np.dtype(layout))
    rows["fields"] = fields
    for name, cells in columns.items():
        rows[name] = np.void(cells) if isinstance(cells, bytes) else cells
        rows[f"{name} size"] = rows.dtype[name].itemsize
    return rows.tobytes()
