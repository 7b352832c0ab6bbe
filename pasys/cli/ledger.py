"""The books from the command line: prove them, weigh them, read the journal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pasys.cli.console import Noun, ask, say, show, show_refused
from pasys.cli.options import (
    TABLE,
    AssetCode,
    AssetFilter,
    At,
    Axis,
    By,
    DryRun,
    Limit,
    Output,
    Timeout,
    complete_accounts,
    moment,
)
from pasys.errors import BooksDoNotHold, InvalidInput

if TYPE_CHECKING:
    from pasys.db import Unit

app = Noun("ledger", "The books: verify them, read them.")

COLUMNS = ("seq", "id", "kind", "purpose", "result", "debit_name", "credit_name", "amount", "recorded_at", "reference")


@app.command(
    "verify",
    examples="pasys ledger verify\npasys ledger verify --full --json\n"
    "pasys ledger verify --full --checkpoint kept.json\npasys ledger verify --archives /srv/archive\n"
    "pasys ledger verify --proof march.proof --key 3b6a27…",
)
def verify(
    full: Annotated[
        bool, typer.Option("--full", help="From the first transfer, and not from the last checkpoint.")
    ] = False,
    kept: Annotated[
        Path | None,
        typer.Option("--checkpoint", metavar="FILE", help="Checkpoints kept elsewhere (`ledger checkpoint --json`)."),
    ] = None,
    archives: Annotated[
        Path | None,
        typer.Option("--archives", metavar="DIR", help="From the first transfer, across what is archived there."),
    ] = None,
    proof: Annotated[
        Path | None,
        typer.Option("--proof", metavar="FILE", help="Check this proof or archive instead; no database is needed."),
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="HEX", help="The public key that you trust, for --proof.")
    ] = None,
    output: Output = TABLE,
) -> None:
    """Derive every balance, hold, limit and seal again from the journal. Exits 9 when the books do not hold.

    It begins at the last signed checkpoint; --full begins at the first transfer that is not archived, --archives at the
    very first, and --checkpoint holds the journal against checkpoints that nobody who can write to the database could
    change.
    """
    from pasys.cli import proof as proofs

    if proof is not None:
        _answer(proofs.check(proof, key), output, "The proof holds: {0.transfers:,} transfers, signed {0.signed_at}.")
        return
    known = proofs.read_checkpoints(kept) if kept is not None else None

    async def question(unit: Unit) -> Any:
        from pasys.adapters.signer import open_signer
        from pasys.service import ledger_checkpoint, ledger_verify

        signer = open_signer(unit.settings)
        return await ledger_verify.verify(
            unit,
            progress=_progress if sys.stderr.isatty() else None,
            starts=None if full or known else await ledger_checkpoint.starts(unit, signer),
            known=known,
            vouched=await ledger_checkpoint.vouched(unit, signer),
            archives=archives,
        )

    found = ask(question)
    _answer(found, output, "The books hold: {0.transfers:,} transfers, {0.accounts:,} accounts.")
    if output is TABLE and (full or known):
        for asset, seq in found.archived.items():
            say(f"Transfers 1 to {seq:,} of {asset} are archived; --archives DIR reads them, too.")


def _answer(found: Any, output: Output, says: str) -> None:
    _end_progress()
    if not found.ok:
        show_refused(found, output, BooksDoNotHold(finding=str(found.findings[0])))
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


ARCHIVE_COLUMNS = ("asset", "first_seq", "last_seq", "action", "last_recorded_at", "file")


@app.command(
    "archive",
    examples="pasys ledger archive --dir /srv/archive --before 365d --dry-run\n"
    "pasys ledger archive --dir /srv/archive --asset USD --to 3000000 --json\n"
    "pasys ledger archive --list\n"
    "pasys ledger archive --restore /srv/archive/USD-000000001000001-000000002000000.archive.gz",
)
def archive(
    folder: Annotated[
        Path | None, typer.Option("--dir", metavar="DIR", help="The folder that the files go to; made if absent.")
    ] = None,
    asset: AssetFilter = None,
    before: Annotated[
        str | None,
        typer.Option("--before", metavar="TIME", help="Partitions that ended before a time, or so long ago."),
    ] = None,
    to: Annotated[
        int | None, typer.Option("--to", min=1, metavar="SEQ", help="Partitions that end here or before, of --asset.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Show what was archived and restored; change nothing.")] = False,
    restore: Annotated[
        Path | None, typer.Option("--restore", metavar="FILE", help="Bring a partition back, the last archived first.")
    ] = None,
    dry_run: DryRun = False,
    limit: Limit = 100,
    timeout: Timeout = 60.0,
    output: Output = TABLE,
) -> None:
    """Move old partitions of the journal to files: each is proven, signed, on the disk and read back before it goes.

    Balances, holds and ids stay, and all books answer as before for every time since. What is older is an error that
    names the file. `ledger verify --archives DIR` goes across the files, and `ledger verify --proof FILE` checks one
    without a database.
    """
    from pasys.cli import archive as archives

    if sum((folder is not None, list_, restore is not None)) != 1:
        raise InvalidInput(field="dir", reason="say one of --dir, --list and --restore")
    progress = _progress if sys.stderr.isatty() else None
    if list_:
        found, says = archives.listing(asset, limit=limit), "Nothing was ever archived."
    elif restore is not None:
        found, says = archives.restore(restore, timeout_s=timeout, progress=progress), ""
    else:
        assert folder is not None, "one of the three was said"
        far = {"asset": asset, "before": moment(before, field="before") if before else None, "to": to}
        says = "There is no partition that ended before."
        if dry_run:
            found = archives.plan(folder, **far)
        else:
            found = archives.run(folder, **far, timeout_s=timeout, progress=progress)
    _end_progress()
    show(found, output, name="archives", columns=ARCHIVE_COLUMNS if not dry_run else None, empty=says)


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
    after: Annotated[
        int | None, typer.Option("--after", min=0, metavar="SEQ", help="Go on after this sequence number.")
    ] = None,
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
