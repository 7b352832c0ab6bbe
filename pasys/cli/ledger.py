"""The books from the command line: prove them, weigh them, read the journal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pasys.cli.console import Noun, ask, say, show, show_refused
from pasys.cli.options import TABLE, AssetCode, Limit, Output, complete_accounts
from pasys.errors import BooksDoNotHold

if TYPE_CHECKING:
    from pasys.db import Unit

app = Noun("ledger", "The books: verify them, read them.")

COLUMNS = ("seq", "id", "kind", "purpose", "result", "debit_name", "credit_name", "amount", "recorded_at", "reference")


@app.command("verify", examples="pasys ledger verify\npasys ledger verify --json")
def verify(output: Output = TABLE) -> None:
    """Derive every balance, hold and limit again from the journal, and compare. Exits 9 when the books do not hold."""

    async def question(unit: Unit) -> Any:
        from pasys.service import ledger_verify

        return await ledger_verify.verify(unit, progress=_progress if sys.stderr.isatty() else None)

    found = ask(question)
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    if not found.ok:
        first = found.findings[0]
        show_refused(found, output, BooksDoNotHold(finding=f"{first.what}: {first.detail}"))
    show(found, output)
    if output is TABLE:
        say(f"The books hold: {found.transfers:,} transfers, {found.accounts:,} accounts.")


def _progress(asset: str, done: int, total: int) -> None:
    print(f"\r\x1b[K{asset} {done:,} of {total:,}", end="", file=sys.stderr, flush=True)


@app.command("trial-balance", examples="pasys ledger trial-balance\npasys ledger trial-balance -o csv")
def trial_balance(output: Output = TABLE) -> None:
    """Sum debits and credits by asset and type, system accounts by name.

    A clearing account that has not returned to zero shows since when.
    """

    async def question(unit: Unit) -> Any:
        from pasys.service import ledger_history

        return await ledger_history.trial_balance(unit)

    show(ask(question), output, name="rows", empty="The books are empty.")


@app.command(
    "transfers",
    examples="pasys ledger transfers --asset USD\npasys ledger transfers --asset USD --account shop --after 12 --json",
)
def transfers(
    asset: AssetCode,
    account: Annotated[
        str | None,
        typer.Option("--account", metavar="NAME", autocompletion=complete_accounts, help="Only those of this account."),
    ] = None,
    after: Annotated[int, typer.Option("--after", min=0, metavar="SEQ", help="Go on after this sequence number.")] = 0,
    limit: Limit = 100,
    output: Output = TABLE,
) -> None:
    """Read the journal of an asset in commit order: each transfer, and each refusal with its rule."""

    async def question(unit: Unit) -> Any:
        from pasys.service import account as accounts
        from pasys.service import ledger_history

        number = (await accounts.find(unit, account, asset)).number if account else None
        return await ledger_history.transfers(unit, asset=asset, account=number, after_seq=after, limit=limit)

    show(ask(question), output, name="transfers", columns=COLUMNS)
