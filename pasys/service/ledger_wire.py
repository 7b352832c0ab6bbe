"""numpy columns travel to and from PostgreSQL as binary arrays, without becoming Python objects on the way.

An array on the wire is a header (dimensions, null flag, element type, length, lower bound) and then, for each element,
its length and its bytes, all big-endian: https://www.postgresql.org/docs/current/protocol-overview.html and array_send.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any
from weakref import WeakSet

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg.adapt import Dumper
from psycopg.pq import Format

_INT8 = np.dtype([("size", ">i4"), ("value", ">i8")])
_INT2 = np.dtype([("size", ">i4"), ("value", ">i2")])
_UUID = np.dtype([("size", ">i4"), ("value", "V16")])
_FEW = [struct.Struct(">5i" + length * "iq") for length in range(3)]  # int8[] of so many: header, size and value


class Int8s(bytes):
    """An int8[] as it is sent."""


class Int2s(bytes):
    """An int2[] as it is sent."""


class Uuids(bytes):
    """A uuid[] as it is sent."""


class Times(bytes):
    """A timestamptz[] as it is sent."""


class Texts(bytes):
    """A text[] as it is sent."""


class _Array(Dumper):
    format = Format.BINARY

    def dump(self, obj: bytes) -> bytes:
        return obj


class _Int8Array(_Array):
    oid = 1016


class _Int2Array(_Array):
    oid = 1005


class _UuidArray(_Array):
    oid = 2951


class _TimeArray(_Array):
    oid = 1185


class _TextArray(_Array):
    oid = 1009


_DUMPERS = ((Int8s, _Int8Array), (Int2s, _Int2Array), (Uuids, _UuidArray), (Times, _TimeArray), (Texts, _TextArray))


_prepared: WeakSet[psycopg.AsyncConnection[Any]] = WeakSet()


def cursor(driver: psycopg.AsyncConnection[Any]) -> psycopg.AsyncCursor[Any]:
    """A cursor that knows these arrays, and answers in binary."""
    if driver not in _prepared:  # once for each connection: nobody else has these types
        for kind, dumper in _DUMPERS:
            driver.adapters.register_dumper(kind, dumper)
        _prepared.add(driver)
    return driver.cursor(binary=True)


def _header(element_oid: int, length: int, has_null: bool = False) -> bytes:
    if not length:
        return struct.pack(">iii", 0, 0, element_oid)
    return struct.pack(">iiiii", 1, has_null, element_oid, length, 1)


def _packed(values: Any, layout: np.dtype[Any], element_oid: int) -> bytes:
    cells = np.empty(len(values), layout)
    cells["size"] = layout["value"].itemsize
    cells["value"] = values
    return _header(element_oid, len(values)) + cells.tobytes()


def int8s(values: NDArray[np.int64]) -> Int8s:
    if 1 <= len(values) <= 2:  # a transfer that comes alone has a dozen of these, and its accounts half a dozen
        cells = [part for value in values.tolist() for part in (8, value)]
        return Int8s(_FEW[len(values)].pack(1, 0, 20, len(values), 1, *cells))
    return Int8s(_packed(values, _INT8, 20))


def int2s(values: NDArray[np.int64]) -> Int2s:
    return Int2s(_packed(values, _INT2, 21))


def uuids(values: NDArray[np.void]) -> Uuids:
    """Ids of 16 bytes each; none travels as the zero uuid."""
    return Uuids(_packed(values, _UUID, 2950))


def times(values: NDArray[np.int64]) -> Times:
    """Points in time, in microseconds since 2000; the largest number is infinity, which stands for none."""
    return Times(_packed(values, _INT8, 1184))


def texts(values: Sequence[str | None]) -> Texts:
    """Texts, with their nulls."""
    cells = []
    for value in values:
        if value is None:
            cells.append(b"\xff\xff\xff\xff")
        else:
            data = value.encode()
            cells.append(len(data).to_bytes(4, "big") + data)
    return Texts(_header(25, len(values), has_null=None in values) + b"".join(cells))


def read_int8s(sent: bytes | None) -> NDArray[np.int64]:
    """The numbers of an array_send(int8[]) without nulls; none for a null. Times come as microseconds since 2000."""
    return read(sent, _INT8["value"]).astype(np.int64)


def read(sent: bytes | None, kind: np.dtype[Any]) -> NDArray[Any]:
    """The elements of an array_send without nulls, as they stand there (big-endian); none for a null."""
    if sent is None or len(sent) <= 12:
        return np.zeros(0, kind)
    assert not struct.unpack_from(">i", sent, 4)[0], "a null in an array that has none"
    return np.frombuffer(sent, np.dtype([("size", ">i4"), ("value", kind)]), offset=20)["value"]


def read_time(sent: bytes) -> int:
    """The microseconds since 2000 of a timestamptz_send."""
    return int.from_bytes(sent, "big", signed=True)
