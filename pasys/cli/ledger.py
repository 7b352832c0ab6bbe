"""The books from the command line: prove them, weigh them, read the journal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pasys.cli.console import Noun, ask, say, show, show_refused
from pasys.cli.options import TABLE, AssetCode, At, Axis, By, Limit, Output, complete_accounts, moment
from pasys.errors import BooksDoNotHold

if TYPE_CHECKING:
    from pasys.db import Unit

app = Noun("ledger", "The books: verify them, read them.")

COLUMNS = ("seq", "id", "kind", "purpose", "result", "debit_name", "credit_name", "amount", "recorded_at", "reference")


@app.command(
    "verify",
    examples="pasys ledger verify\npasys ledger verify --full --json\n"
    "pasys ledger verify --full --checkpoint kept.json\npasys ledger verify --proof march.proof --key 3b6a27…",
)
def verify(
    full: Annotated[
        bool, typer.Option("--full", help="From the first transfer, and not from the last checkpoint.")
    ] = False,
    kept: Annotated[
        Path | None,
        typer.Option("--checkpoint", metavar="FILE", help="Checkpoints kept elsewhere (`ledger checkpoint --json`)."),
    ] = None,
    proof: Annotated[
        Path | None, typer.Option("--proof", metavar="FILE", help="Check this proof instead; no database is needed.")
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="HEX", help="The public key that you trust, for --proof.")
    ] = None,
    output: Output = TABLE,
) -> None:
    """Derive every balance, hold, limit and seal again from the journal. Exits 9 when the books do not hold.

    It begins at the last signed checkpoint; --full begins at the first transfer, and --checkpoint holds the journal
    against checkpoints that nobody who can write to the database could change.
    """
    from pasys.cli import proof as proofs

    if proof is not None:
        _answer(proofs.check(proof, key), output, "The proof holds: {0.transfers:,} transfers, signed {0.signed_at}.")
        return
    known = proofs.read_checkpoints(kept) if kept is not None else None

    async def question(unit: Unit) -> Any:
        from pasys.adapters.signer import open_signer
        from pasys.service import ledger_checkpoint, ledger_verify

        starts = None if full or known else await ledger_checkpoint.starts(unit, open_signer(unit.settings))
        progress = _progress if sys.stderr.isatty() else None
        return await ledger_verify.verify(unit, progress=progress, starts=starts, known=known)

    _answer(ask(question), output, "The books hold: {0.transfers:,} transfers, {0.accounts:,} accounts.")


def _answer(found: Any, output: Output, says: str) -> None:
    _end_progress()
    if not found.ok:
        first = found.findings[0]
        show_refused(found, output, BooksDoNotHold(finding=f"{first.what}: {first.detail}"))
    show(found, output)
    if output is TABLE:
        say(says.format(found))


@app.command(
    "checkpoint",
    examples="pasys ledger checkpoint\npasys ledger checkpoint --json\npasys ledger checkpoint --list",
)
def checkpoint(
    list_: Annotated[bool, typer.Option("--list", help="Show those that there are; sign nothing.")] = False,
    limit: Limit = 50,
    output: Output = TABLE,
) -> None:
    """Verify what is new in the books, and sign where they stand.

    Keep what it prints outside the database: `ledger verify --checkpoint FILE` finds any change of what is signed.
    """

    async def question(unit: Unit) -> Any:
        from pasys.adapters.signer import open_signer
        from pasys.service import ledger_checkpoint

        if not list_:
            signer = open_signer(unit.settings)
            await ledger_checkpoint.checkpoint(unit, signer, progress=_progress if sys.stderr.isatty() else None)
            return await ledger_checkpoint.latest(unit)
        return await ledger_checkpoint.checkpoints(unit, limit=limit)

    found = ask(question)
    _end_progress()
    columns = ("asset", "seq", "hash", "at", "key_id")
    show(found, output, name="checkpoints", columns=columns, empty="The books are empty.")


@app.command(
    "export",
    examples="pasys ledger export --proof march.proof --asset USD\n"
    "pasys ledger export --proof march.proof --asset USD --from 1000 --to 2000",
)
def export(
    proof: Annotated[Path, typer.Option("--proof", metavar="FILE", help="Where to write the proof.")],
    asset: AssetCode,
    first: Annotated[int, typer.Option("--from", min=1, metavar="SEQ", help="The first transfer.")] = 1,
    last: Annotated[
        int | None, typer.Option("--to", min=1, metavar="SEQ", help="The last; the journal's if absent.")
    ] = None,
    output: Output = TABLE,
) -> None:
    """Write a range of the journal so that an outsider can check it with only the public key.

    `pasys ledger verify --proof FILE` checks it, on any machine, without a database.
    """
    from pasys.cli import proof as proofs

    progress = _progress if sys.stderr.isatty() else None
    header = proofs.export(proof, asset=asset, first=first, last=last, progress=progress)
    _end_progress()
    show(header, output)
    if output is TABLE:
        say(f"Anybody can check it: pasys ledger verify --proof {proof} --key {header.public_key}")


def _end_progress() -> None:
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)


def _progress(asset: str, done: int, total: int) -> None:
    print(f"\r\x1b[K{asset} {done:,} of {total:,}", end="", file=sys.stderr, flush=True)


@app.command(
    "trial-balance",
    examples="pasys ledger trial-balance\npasys ledger trial-balance --at 2026-01-31T23:59:59 -o csv",
)
def trial_balance(at: At = None, by: Axis = By.EFFECTIVE, output: Output = TABLE) -> None:
    """Sum debits and credits by asset and type, system accounts by name.

    A clearing account that has not returned to zero shows since when.
    """
    time = moment(at, field="at") if at else None

    async def question(unit: Unit) -> Any:
        from pasys.service import ledger_history

        return await ledger_history.trial_balance(unit, at=time, by=by.value)

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
