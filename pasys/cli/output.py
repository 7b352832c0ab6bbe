"""Rows become a table for a person, or JSON, JSON lines or CSV for a program. Data go to stdout, sentences to stderr.

In JSON a Money is {"amount": "12.50", "amount_minor": 1250, "asset": "USD"}, and a row's own `amount` stands flat in
the row; a row with `<name>_minor` and `asset` gets `<name>` beside it. Times are ISO 8601 in UTC. A list is an object
with one named array; in JSON lines and CSV each row is a line.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from typing import Any

from pasys.cli.options import Format
from pasys.money import Money, format_minor

MINOR = "_minor"
WIDE = 100_000  # no terminal: nothing is cut or wrapped


def show(
    what: Any, output: Format, *, name: str | None = None, columns: Sequence[str] | None = None, empty: str = ""
) -> None:
    """Print a row, or with `name` a list of rows.

    `columns` chooses and orders the columns of a table and of CSV; JSON has every field. `empty` says that none is.
    """
    if output is Format.JSON:
        write_json({name: [plain(row) for row in what]} if name else plain(what))
    elif output is Format.JSONL:
        for row in what if name else [what]:
            print(json.dumps(plain(row), ensure_ascii=False))
    elif output is Format.CSV:
        _write_csv([plain(row) for row in (what if name else [what])], columns)
    elif name:
        _print_list(list(what), name, columns, empty)
    else:
        _print_one(what, columns)


def write_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None))


def say(sentence: str) -> None:
    """A sentence for the person at the terminal."""
    print(sentence, file=sys.stderr)


def fields_of(row: Any) -> dict[str, Any]:
    """The fields of a row, by name: a dataclass, a struct, a named tuple or a mapping."""
    if isinstance(row, Mapping):
        return dict(row)
    if dataclasses.is_dataclass(row):
        return {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
    names = getattr(row, "__struct_fields__", None) or getattr(row, "_fields", None)
    assert names is not None, f"{type(row).__name__} is not a row"
    return {name: getattr(row, name) for name in names}


def is_row(value: Any) -> bool:
    """Whether a value has fields of its own. Money has, and is a value all the same."""
    if isinstance(value, type | Money):
        return False
    return (
        isinstance(value, Mapping)
        or dataclasses.is_dataclass(value)
        or hasattr(value, "__struct_fields__")
        or (isinstance(value, tuple) and hasattr(value, "_fields"))
    )


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, Money):
        return {"amount": value.decimal, "amount_minor": value.minor, "asset": value.asset}
    if is_row(value):
        return _plain_row(fields_of(value))
    if isinstance(value, Enum):
        return _word(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, set | frozenset):
        return sorted(plain(item) for item in value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _word(member: Enum) -> str:
    """The word for a member of an enumeration: its text, or where it is stored as a number, its name."""
    return member.value if isinstance(member.value, str) else member.name.lower()


def _asset_of(fields: dict[str, Any]) -> str | None:
    """The asset that a row's minor units are in."""
    amount = fields.get("amount")
    asset = amount.asset if isinstance(amount, Money) else fields.get("asset")
    return asset if isinstance(asset, str) else None


def _plain_row(fields: dict[str, Any]) -> dict[str, Any]:
    asset, found = _asset_of(fields), {}
    for name, value in fields.items():
        stem = name.removesuffix(MINOR)
        if name == "amount" and isinstance(value, Money):
            found |= plain(value)
            continue
        if stem != name and isinstance(value, int) and asset is not None and stem not in fields:
            found[stem] = format_minor(value, asset)
        found[str(name)] = plain(value)
    return found


# For programs that read columns --------------------------------------------------------------------------------------


def _write_csv(rows: list[dict[str, Any]], columns: Sequence[str] | None) -> None:
    import csv

    flat = [_flatten(row) for row in rows]
    header = list(dict.fromkeys(key for row in flat for key in row))
    if columns:
        header = [key for column in columns for key in header if key == column or key.startswith(f"{column}_")]
        header = list(dict.fromkeys(header))
    writer = csv.DictWriter(sys.stdout, header, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)


def _flatten(row: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict) and value and not any(isinstance(inner, dict | list) for inner in value.values()):
            found |= {f"{key}_{inner}": item for inner, item in value.items()}
        else:
            found[key] = _cell(value)
    return found


def _cell(value: Any) -> Any:
    if isinstance(value, list) and not any(isinstance(item, dict | list) for item in value):
        return " ".join(str(item) for item in value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value


# For people ----------------------------------------------------------------------------------------------------------


def _print_list(rows: list[Any], name: str, columns: Sequence[str] | None, empty: str) -> None:
    if not rows:
        say(empty or f"No {name.replace('_', ' ')}.")
        return
    _print_table(rows, columns)


def _print_table(rows: list[Any], columns: Sequence[str] | None, *, title: str | None = None) -> None:
    from rich.table import Table
    from rich.text import Text

    texts = [_texts(fields_of(row)) for row in rows]
    header = list(columns) if columns else list(texts[0])
    table = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left", title_style="bold")
    for column in header:
        kinds = [fields_of(row).get(column, fields_of(row).get(f"{column}{MINOR}")) for row in rows]
        right = all(isinstance(kind, int | float | Money) or kind is None for kind in kinds)
        table.add_column(column.replace("_", " "), justify="right" if right else "left", overflow="fold")
    for row in texts:
        table.add_row(*(Text(row.get(column, ""), style=_style(row.get(column, ""))) for column in header))
    _print_drawn(table)


def _print_one(row: Any, columns: Sequence[str] | None) -> None:
    from rich.table import Table
    from rich.text import Text

    fields = fields_of(row)
    nested = {name: value for name, value in fields.items() if isinstance(value, list) and value and is_row(value[0])}
    shown = {name: value for name, value in fields.items() if name not in nested and value != []}
    texts = _texts(shown)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name in columns or texts:
        if name in texts:
            table.add_row(name.replace("_", " "), Text(texts[name], style=_style(texts[name])))
    _print_drawn(table)
    for name, rows in nested.items():
        print()
        _print_table(list(rows), None, title=name.replace("_", " "))


def _texts(fields: dict[str, Any]) -> dict[str, str]:
    """What a person reads: minor units with their asset become one amount; a row inside a row lends it its fields."""
    asset, found = _asset_of(fields), {}
    for name, value in fields.items():
        stem = name.removesuffix(MINOR)
        if stem != name and isinstance(value, int) and asset is not None:
            found[stem] = str(Money(value, asset))
        elif is_row(value) and not isinstance(value, Mapping):
            found |= {inner: item for inner, item in _texts(fields_of(value)).items() if inner not in fields}
        else:
            found[str(name)] = text(value)
    return found


def text(value: Any) -> str:
    """A value as a person reads it: money with its currency, times in the local zone."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, timedelta):
        return duration(value.total_seconds())
    if isinstance(value, Enum):
        return _word(value)
    if is_row(value):
        return ", ".join(f"{key}={text(item)}" for key, item in fields_of(value).items())
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(text(item) for item in value)
    return str(value)


def duration(seconds: float) -> str:
    """A length of time in its two largest units: 3 h 12 min."""
    whole = int(seconds)
    for size, unit, smaller_size, smaller in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller_size} {smaller}"
    return f"{whole} s"


_STYLES = {
    "red": {"failed", "fraud", "declined", "flagged", "broken", "down", "crashed", "closed", "rejected"},
    "yellow": {"pending", "unknown", "review", "open", "frozen", "starting", "backoff", "stopped", "awaiting_approval"},
    "green": {"succeeded", "completed", "cleared", "running", "ready", "up", "active", "matched", "resolved"},
}


def _style(word: str) -> str:
    return next((style for style, words in _STYLES.items() if word in words), "")


def _print_drawn(table: Any) -> None:
    """Print a table. Without a terminal it is as wide as it must be, so that no id is cut, and nothing trails."""
    from rich.console import Console

    if sys.stdout.isatty():
        return Console(highlight=False).print(table)
    drawn = Console(highlight=False, width=WIDE)
    with drawn.capture() as captured:
        drawn.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))
