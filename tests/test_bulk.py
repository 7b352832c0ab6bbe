"""What COPY is sent is what the columns say, whatever they are held in."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pasys.bulk import copy_rows
from pasys.db import Database, copy_into
from pasys.domain.transaction import Kind

Cells = Sequence[str | bytes | None]


SHAPES: list[tuple[str, Cells]] = [
    ("text", ["a", "b"]),
    ("text", ["a", "bcd", "", "ü"]),
    ("text", ["ü", "é", "ab"]),
    ("text", [None, "a", None]),
    ("text", [None, None]),
    ("text", ["", ""]),
    ("text", [Kind.DEPOSIT, Kind.TRANSFER]),
    ("text", [Kind.DEPOSIT, Kind.DEPOSIT]),
    ("bytea", [b"a", b"b"]),
    ("bytea", [b"a", b"", b"bcd"]),
    ("bytea", [None, b"ab", b"cd"]),
    ("text", []),
]


@pytest.mark.parametrize("held", [list, tuple])
async def test_cells_arrive_as_they_are(held: type, db: Database) -> None:
    """Of one length or of many, with nulls or without, beside another column of any kind."""
    for kind, cells in SHAPES:
        others: list[Cells] = [["x"] * len(cells), ["y" * n for n in range(len(cells))]]
        async with db.unit() as unit:
            await unit.rows(f"create temp table {kind}_cell (n text, a {kind}, b text) on commit drop")
            for other in others:
                columns = {"a": held(cells), "b": held(other), "n": "1"}
                await copy_into(unit.driver, f"{kind}_cell", copy_rows(len(cells), columns))
            found = await unit.rows(f"select a, b from {kind}_cell")
        plain = [bytes(row.a) if isinstance(row.a, memoryview) else row.a for row in found]
        assert plain == [*cells, *cells]
        assert [row.b for row in found] == [*others[0], *others[1]]
