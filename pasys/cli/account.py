"""Accounts from the command line: open, look, freeze, unfreeze, close, and what is on them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pasys.cli.console import Noun, ask, say, show
from pasys.cli.options import (
    TABLE,
    AccountName,
    AssetCode,
    AssetFilter,
    At,
    Axis,
    By,
    Format,
    Limit,
    Metadata,
    Output,
    moment,
    pairs,
)
from pasys.errors import InvalidInput

if TYPE_CHECKING:
    from pasys.db import Unit
    from pasys.domain.account import Balance
    from pasys.money import Money

app = Noun("account", "Accounts: open, look, freeze, close.")

COLUMNS = ["id", "name", "type", "asset", "status", "available", "posted", "pending"]


class Type(StrEnum):
    CUSTOMER = "customer"
    MERCHANT = "merchant"
    PROVIDER = "provider"


class AnyType(StrEnum):
    CUSTOMER = "customer"
    MERCHANT = "merchant"
    PROVIDER = "provider"
    SYSTEM = "system"


class Status(StrEnum):
    ACTIVE = "active"
    FROZEN = "frozen"
    CLOSED = "closed"


NewName = Annotated[str, typer.Argument(metavar="NAME", help="1 to 64 letters, digits and . _ : @ -")]


@dataclass(frozen=True, slots=True)
class Balances:
    account: str
    balances: list[Balance]


@dataclass(frozen=True, slots=True)
class BalanceAt:
    asset: str
    posted: Money


@dataclass(frozen=True, slots=True)
class BalancesAt:
    account: str
    at: datetime
    by: By
    balances: list[BalanceAt]


@app.command(
    "open",
    examples="pasys account open alice --type customer --asset USD\n"
    "pasys account open shop --type merchant --asset USD --metadata city=Lagos\n"
    "pasys account open shop --type merchant --asset JPY --no-overdraft",
)
def open_(
    name: NewName,
    asset: AssetCode,
    type: Annotated[Type, typer.Option("--type", help="Whose account it is.")] = Type.CUSTOMER,
    overdraft: Annotated[
        bool | None,
        typer.Option("--overdraft/--no-overdraft", help="Whether it may go below zero; else only a merchant's may."),
    ] = None,
    metadata: Metadata = None,
    output: Output = TABLE,
) -> None:
    """Open an account in one asset. Asked again with the same properties, it answers with the account that exists."""

    async def question(unit: Unit) -> Any:
        from pasys.service import account

        limit = None if overdraft is None else not overdraft
        properties = pairs(metadata, field="metadata") or None
        return await account.open(
            unit, name=name, asset=asset, type=type, debits_must_not_exceed_credits=limit, metadata=properties
        )

    show(ask(question), output)


@app.command("show", examples="pasys account show alice\npasys account show shop --asset JPY --json")
def show_(name: AccountName, asset: AssetFilter = None, output: Output = TABLE) -> None:
    """Show one account: its status, limits and balance."""

    async def question(unit: Unit) -> Any:
        from pasys.service import account

        return await account.find(unit, name, asset)

    show(ask(question), output)


@app.command("list", examples="pasys account list\npasys account list --type merchant --asset USD --json")
def list_(
    type: Annotated[AnyType | None, typer.Option("--type", help="Only this type.")] = None,
    status: Annotated[Status | None, typer.Option("--status", help="Only this status.")] = None,
    asset: AssetFilter = None,
    like: Annotated[str | None, typer.Option("--like", metavar="TEXT", help="Only names that contain this.")] = None,
    after: Annotated[str | None, typer.Option("--after", metavar="ACC", help="Go on after this account's id.")] = None,
    limit: Limit = 50,
    output: Output = TABLE,
) -> None:
    """List accounts, in the order in which they were opened."""

    async def question(unit: Unit) -> Any:
        from pasys.service import account

        return await account.listing(
            unit, type=type, status=status, asset=asset, name_like=like, limit=limit, after=after
        )

    show(ask(question), output, name="accounts", columns=COLUMNS)


@app.command("freeze", examples="pasys account freeze alice --asset USD")
def freeze(name: AccountName, asset: AssetFilter = None, output: Output = TABLE) -> None:
    """Let the account start nothing new. What has begun still finishes; `unfreeze` lifts it."""
    move("freeze", name, asset, output)


@app.command("unfreeze", examples="pasys account unfreeze alice --asset USD")
def unfreeze(name: AccountName, asset: AssetFilter = None, output: Output = TABLE) -> None:
    """Let a frozen account start things again."""
    move("unfreeze", name, asset, output)


@app.command("close", examples="pasys account close alice --asset USD")
def close(name: AccountName, asset: AssetFilter = None, output: Output = TABLE) -> None:
    """Close an empty account, for good."""
    move("close", name, asset, output)


def move(verb: str, name: str, asset: str | None, output: Format) -> None:
    async def question(unit: Unit) -> Any:
        from pasys.service import account

        return await getattr(account, verb)(unit, name, asset)

    show(ask(question), output)


@app.command(
    "balance",
    examples="pasys account balance shop\npasys account balance shop --json\n"
    "pasys account balance shop --at 2026-01-31T23:59:59",
)
def balance(name: AccountName, at: At = None, by: Axis = By.EFFECTIVE, output: Output = TABLE) -> None:
    """Show what an account holds: available, posted and pending, one row for each asset. With --at, what was posted."""

    async def question(unit: Unit) -> Balances | BalancesAt:
        from pasys.service import account, ledger_history

        held = await account.balance(unit, name)
        if time is None:
            return Balances(name, held)
        found = []
        for row in held:
            number = (await account.find(unit, name, row.asset)).number
            found.append(BalanceAt(row.asset, await ledger_history.balance_at(unit, number, time, by=by.value)))
        return BalancesAt(name, time, by, found)

    time = moment(at, field="at") if at else None
    found = ask(question)
    if output in (Format.TABLE, Format.CSV):
        show(found.balances, output, name="balances")
    else:
        show(found, output)


@app.command(
    "statement",
    examples="pasys account statement shop --asset USD --from 30d\n"
    "pasys account statement alice --from 2026-01-01 --to 2026-02-01 --json\n"
    "pasys account statement shop --limit 100 --after 4711",
)
def statement(
    name: AccountName,
    asset: AssetFilter = None,
    since: Annotated[
        str | None, typer.Option("--from", "--since", metavar="TIME", help="From here: a time, or an age.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--to", "--until", metavar="TIME", help="Up to here, without it.")
    ] = None,
    by: Axis = By.EFFECTIVE,
    after: Annotated[
        int | None, typer.Option("--after", min=1, metavar="SEQ", help="The page behind this row: `next` of the last.")
    ] = None,
    limit: Limit = 1_000,
    output: Output = TABLE,
) -> None:
    """Show an account's movements, with the balance before, after, and after each."""
    start = moment(since, field="since") if since else None
    end = moment(until, field="until") if until else None
    if start and end and start >= end:
        raise InvalidInput(field="until", reason="the period ends before it begins")

    async def question(unit: Unit) -> Any:
        from pasys.service import account, ledger_history

        found = await account.find(unit, name, asset)
        return await ledger_history.statement(
            unit, found.number, since=start, until=end, by=by.value, limit=limit, after=after
        )

    found = ask(question)
    if output is Format.CSV:
        show(found.lines, output, name="lines")
    else:
        show(found, output)
    if found.truncated and output in (Format.TABLE, Format.CSV):
        say(f"There is more: --after {found.next}")
