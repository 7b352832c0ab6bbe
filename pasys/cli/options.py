"""The options that mean the same on every command: how to print, how to wait, how to be sure.

Use them as annotations, with their defaults beside them:

    def list_(limit: Limit = 50, output: Output = TABLE) -> None: ...
    def create(amount: Amount, asset: AssetCode, key: IdempotencyKey = None, wait: Wait = None, timeout: Timeout = 30.0,
               output: Output = TABLE) -> None: ...
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any

import typer

from pasys.errors import InvalidInput


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"


TABLE = Format.TABLE
FINAL = "final"  # what a bare --wait waits for
_AGO = re.compile(r"(\d{1,9})([smhdw])")
_UNIT_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def complete_accounts(ctx: typer.Context, incomplete: str) -> list[str]:
    from pasys.cli.completion import account_names

    return account_names(ctx, incomplete)


def complete_transactions(ctx: typer.Context, incomplete: str) -> list[str]:
    from pasys.cli.completion import transaction_ids

    return transaction_ids(ctx, incomplete)


class By(StrEnum):
    EFFECTIVE = "effective"
    RECORDED = "recorded"


At = Annotated[str | None, typer.Option("--at", metavar="TIME", help="As of a time, or so long ago (2h).")]
Axis = Annotated[By, typer.Option("--by", help="By when entries counted, or when the books had them.")]
Output = Annotated[Format, typer.Option("-o", "--output", help="How data are printed.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many at most.")]
Amount = Annotated[str, typer.Option("--amount", metavar="DECIMAL", help="In major units: 12.50.")]
AssetCode = Annotated[str, typer.Option("--asset", metavar="CODE", help="ISO 4217, or a declared token: USD.")]
AssetFilter = Annotated[str | None, typer.Option("--asset", metavar="CODE", help="Only this asset.")]
AccountName = Annotated[str, typer.Argument(metavar="NAME", autocompletion=complete_accounts, help="Name or acc_… id.")]
TransactionId = Annotated[str, typer.Argument(metavar="TX", autocompletion=complete_transactions, help="tx_… id.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Answer yes to the question.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check and show; change nothing.")]
IdempotencyKey = Annotated[
    str | None,
    typer.Option("--idempotency-key", metavar="KEY", help="Same key, same effect. Made if absent."),
]
Wait = Annotated[
    str | None, typer.Option("--wait", metavar="[=STATUS]", help="Return when the status is final, or is STATUS.")
]
Timeout = Annotated[float, typer.Option("--timeout", min=0.0, metavar="SECONDS", help="Give up waiting after so long.")]
Metadata = Annotated[list[str] | None, typer.Option("--metadata", metavar="KEY=VALUE", help="May be repeated.")]


def moment(text: str, *, field: str) -> datetime:
    """A time in UTC, from ISO 8601 (local where it names no zone) or an age (90s, 10m, 2h, 3d). Raises InvalidInput."""
    if match := _AGO.fullmatch(text):
        return datetime.now(UTC) - timedelta(seconds=int(match[1]) * _UNIT_S[match[2]])
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        reason = f"{text!r} is neither a time (2026-01-31T12:00) nor an age (90s, 10m, 2h, 3d)"
        raise InvalidInput(field=field, reason=reason) from None


def pairs(items: list[str] | None, *, field: str) -> dict[str, Any]:
    """KEY=VALUE options as a dict. Raises InvalidInput."""
    found: dict[str, Any] = {}
    for item in items or []:
        key, equals, value = item.partition("=")
        if not (key and equals):
            raise InvalidInput(field=field, reason=f"{item!r} is not KEY=VALUE")
        found[key] = value
    return found
