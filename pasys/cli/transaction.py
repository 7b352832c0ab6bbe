"""pasys tx: transactions are created, looked at, waited for and undone here."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pasys.cli.console import Noun, ask, ask_database, confirm, money, poll, say, settings, show, show_refused
from pasys.cli.options import (
    FINAL,
    TABLE,
    Amount,
    AssetCode,
    AssetFilter,
    DryRun,
    IdempotencyKey,
    Limit,
    Metadata,
    Output,
    Timeout,
    TransactionId,
    Wait,
    Yes,
    moment,
    pairs,
)

if TYPE_CHECKING:
    from pasys.db import Unit
    from pasys.service.transaction_query import AttemptRow, HistoryRow, TransactionRow

app = Noun("tx", "Transactions: payments, transfers, deposits, withdrawals.")
COLUMNS = ["id", "kind", "rail", "status", "outcome", "amount", "debit", "credit", "reason", "created_at"]
CREATED = ["id", "kind", "rail", "status", "outcome", "review", "amount", "debit", "credit", "reason", "created_at"]
WAITS_FOR_APPROVAL = 11
BATCH_SIZE = 4_000  # rows of a file in one unit

From = Annotated[str | None, typer.Option("--from", metavar="NAME", help="The account that pays.")]
To = Annotated[str | None, typer.Option("--to", metavar="NAME", help="The account that receives.")]
Rail = Annotated[str, typer.Option("--rail", help="book, or the name of a PSP: stripe.")]
KindOption = Annotated[
    str | None,
    typer.Option("--kind", help="payment, transfer, deposit or withdrawal; else from the accounts and rail."),
]
Method = Annotated[
    str | None, typer.Option("--payment-method", metavar="TOKEN", help="The PSP's token; else the customer's own.")
]
Effective = Annotated[str | None, typer.Option("--effective-at", metavar="TIME", help="When it counts; else now.")]
Reason = Annotated[str | None, typer.Option("--reason", help="Kept in the history.")]


@dataclass(frozen=True)
class Detail:
    """A transaction with how it came to be."""

    transaction: TransactionRow
    history: list[HistoryRow]
    attempts: list[AttemptRow]


@app.command(
    "create",
    examples="pasys tx create --from alice --to shop --amount 12.50 --asset USD --rail stripe --wait\n"
    "pasys tx create --to alice --amount 100 --asset USD --json\n"
    "pasys tx create --from alice --to bob --amount 5 --asset USD --idempotency-key order-17",
)
def create(
    amount: Amount,
    asset: AssetCode,
    from_: From = None,
    to: To = None,
    rail: Rail = "book",
    kind: KindOption = None,
    payment_method: Method = None,
    effective_at: Effective = None,
    metadata: Metadata = None,
    key: IdempotencyKey = None,
    wait: Wait = None,
    timeout: Timeout = 30.0,
    output: Output = TABLE,
) -> None:
    """Create a transaction. By book it is final at once; by a PSP the daemons carry it on, and --wait waits."""
    from pasys import ids
    from pasys.service import transaction

    draft = transaction.Draft(
        amount=money(amount, asset),
        rail=rail,
        kind=_kind(kind),
        debit=from_,
        credit=to,
        payment_method=payment_method,
        effective_at=moment(effective_at, field="effective-at") if effective_at else None,
        metadata=pairs(metadata, field="metadata") or None,
        key=key or ids.new("key"),
    )
    created = ask(lambda unit: transaction.create(unit, draft))
    assert created.transaction_id is not None, "a refusal raises"
    if created.replayed:
        say(f"Idempotency key {draft.key} was used before, for the same request: this is its transaction.")
    elif key is None:
        say(f"Idempotency key: {draft.key}")
    _report(created.transaction_id, output, wait=wait, timeout_s=timeout)


def _kind(text: str | None) -> Any:
    from pasys.domain.transaction import Kind
    from pasys.errors import InvalidInput

    if text is None:
        return None
    try:
        return Kind(text)
    except ValueError:
        raise InvalidInput(field="kind", reason=f"{text!r} is none of {', '.join(Kind)}") from None


def _report(transaction_id: str, output: Any, *, wait: str | None, timeout_s: float) -> None:
    """Print the transaction, when it is what it was waited for; a refused one ends with its refusal's exit code."""
    from pasys.service import transaction_query

    if wait is None:
        show(ask(lambda unit: transaction_query.get(unit, transaction_id)), output, columns=CREATED)
        return
    row = poll(
        lambda unit: transaction_query.get(unit, transaction_id),
        until=_reached(wait),
        timeout_s=timeout_s,
        entity_id=transaction_id,
        status=lambda found: f"{found.status} ({found.outcome})" if found.outcome else found.status,
    )
    _show_final(row, output)


def _reached(wanted: str) -> Any:
    from pasys.domain.transaction import RESTING, Status
    from pasys.errors import InvalidInput

    if wanted != FINAL and wanted not in [str(status) for status in Status]:
        raise InvalidInput(field="wait", reason=f"{wanted!r} is none of {', '.join(Status)}")

    def reached(row: TransactionRow) -> bool:
        resting = row.status in RESTING or (row.review and row.status == Status.PENDING)
        return resting if wanted == FINAL else row.status == wanted or (resting and row.status != Status.SUCCEEDED)

    return reached


def _show_final(row: TransactionRow, output: Any) -> None:
    from pasys.domain.transaction import Status
    from pasys.errors import FlaggedAsFraud, PaymentDeclined

    if row.status == Status.FAILED:
        show_refused(row, output, PaymentDeclined(transaction_id=row.id, reason=row.reason), columns=CREATED)
    if row.status == Status.FRAUD:
        show_refused(row, output, FlaggedAsFraud(transaction_id=row.id, reason=row.reason), columns=CREATED)
    show(row, output, columns=CREATED)
    if row.review and row.status == Status.PENDING:
        say(f"It waits for a person: `pasys fraud review approve {row.id}` or `reject`.")
        raise typer.Exit(WAITS_FOR_APPROVAL)


@app.command("show", examples="pasys tx show tx_06f2…\npasys tx show tx_06f2… --json")
def show_(transaction_id: TransactionId, output: Output = TABLE) -> None:
    """Show a transaction, its history and every call of its PSP."""
    from pasys.service import transaction_query

    async def detail(unit: Any) -> Detail:
        return Detail(
            await transaction_query.get(unit, transaction_id),
            await transaction_query.history(unit, transaction_id),
            await transaction_query.attempts(unit, transaction_id),
        )

    found = ask(detail)
    show({**_fields(found.transaction), "history": found.history, "attempts": found.attempts}, output)


def _fields(row: Any) -> dict[str, Any]:
    from pasys.cli.output import fields_of

    return fields_of(row)


@app.command(
    "list", examples="pasys tx list --status failed --asset USD\npasys tx list --account alice --since 2h -o csv"
)
def list_(
    status: Annotated[str | None, typer.Option("--status", help="Only this status.")] = None,
    kind: Annotated[str | None, typer.Option("--kind", help="Only this kind.")] = None,
    rail: Annotated[str | None, typer.Option("--rail", help="Only this rail.")] = None,
    asset: AssetFilter = None,
    account: Annotated[str | None, typer.Option("--account", metavar="NAME", help="Paid or received by it.")] = None,
    batch: Annotated[str | None, typer.Option("--batch", help="Only this import.")] = None,
    unknown: Annotated[bool, typer.Option("--unknown", help="Only those whose outcome is unknown.")] = False,
    review: Annotated[bool, typer.Option("--review", help="Only those that wait for a fraud review.")] = False,
    since: Annotated[str | None, typer.Option("--since", metavar="TIME", help="Created at or after.")] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="Created before.")] = None,
    after: Annotated[
        str | None, typer.Option("--after", metavar="TX", help="Older than this id: the next page.")
    ] = None,
    limit: Limit = 50,
    output: Output = TABLE,
) -> None:
    """List transactions, newest first."""
    from pasys.service import refund_query, transaction_query

    async def question(unit: Unit) -> tuple[list[TransactionRow], int]:
        refunds = await refund_query.unknown_count(unit) if unknown else 0
        rows = await transaction_query.listing(
            unit,
            status=status,
            kind=kind,
            rail=rail,
            asset=asset,
            account=account,
            batch=batch,
            outcome="unknown" if unknown else None,
            review=True if review else None,
            since=_moment(since, "since"),
            until=_moment(until, "until"),
            after=after,
            limit=limit,
        )
        return rows, refunds

    rows, refunds = ask(question)
    show(rows, output, name="transactions", columns=COLUMNS)
    if refunds:
        told = "1 refund's outcome is" if refunds == 1 else f"{refunds} refunds' outcomes are"
        say(f"{told} unknown, too: `pasys refund list --unknown`")


def _moment(text: str | None, field: str) -> datetime | None:
    return moment(text, field=field) if text else None


@app.command("wait", examples="pasys tx wait tx_06f2… --timeout 60\npasys tx wait tx_06f2… --for succeeded")
def wait(
    transaction_id: TransactionId,
    wanted: Annotated[str, typer.Option("--for", metavar="STATUS", help="final, or one status.")] = FINAL,
    timeout: Timeout = 30.0,
    output: Output = TABLE,
) -> None:
    """Wait until a transaction is final, or has a status."""
    _report(transaction_id, output, wait=wanted, timeout_s=timeout)


@app.command("cancel", examples="pasys tx cancel tx_06f2… --reason 'ordered twice'")
def cancel(transaction_id: TransactionId, reason: Reason = None, output: Output = TABLE) -> None:
    """Withdraw a transaction that its PSP has not been asked about; its hold is released."""
    from pasys.service import transaction_state

    ask(lambda unit: transaction_state.cancel(unit, transaction_id, reason=reason))
    _report(transaction_id, output, wait=None, timeout_s=0)


@app.command("reverse", examples="pasys tx reverse tx_06f2… --reason 'wrong account'")
def reverse(transaction_id: TransactionId, reason: Reason = None, output: Output = TABLE) -> None:
    """Undo a book transaction by its mirror image."""
    from pasys.service import transaction_state

    reversal_id = ask(lambda unit: transaction_state.reverse(unit, transaction_id, reason=reason))
    _report(reversal_id, output, wait=None, timeout_s=0)


@app.command("resolve", examples="pasys tx resolve tx_06f2… --timeout 30")
def resolve(transaction_id: TransactionId, timeout: Timeout = 30.0, output: Output = TABLE) -> None:
    """Ask the PSP again what became of a transaction, or of a refund (rf_…), whose outcome is unknown."""
    from pasys.service import refund_query, unknown

    ask(lambda unit: unknown.ask_again(unit, transaction_id))
    if transaction_id.startswith("rf_"):
        row = poll(
            lambda unit: refund_query.get(unit, transaction_id),
            until=lambda found: found.status != "sent",
            timeout_s=timeout,
            entity_id=transaction_id,
        )
        show(row, output)
        return
    _report(transaction_id, output, wait=FINAL, timeout_s=timeout)


@app.command(
    "import",
    examples="pasys tx import payments.csv --open-accounts\npasys tx import payments.csv --dry-run -o csv\n"
    "pasys tx import payments.csv --atomic --delimiter ';' --json",
)
def import_(
    file: Annotated[str, typer.Argument(metavar="FILE.csv", help="UTF-8, with a header.")],
    open_accounts: Annotated[
        bool, typer.Option("--open-accounts", help="Open unknown accounts: payers customers, payees merchants.")
    ] = False,
    atomic: Annotated[bool, typer.Option("--atomic", help="All rows, or none.")] = False,
    dry_run: DryRun = False,
    skip_invalid: Annotated[bool, typer.Option("--skip-invalid", help="Leave out rows that are not valid.")] = False,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, max=10_000, help="Rows in one unit.")] = BATCH_SIZE,
    delimiter: Annotated[str, typer.Option("--delimiter", metavar="CHARACTER", help="Between columns.")] = ",",
    output: Output = TABLE,
) -> None:
    """Turn the rows of a CSV file into transactions. The same file again goes on where it stopped, without duplicates.

    Columns: key, kind, from, to, amount, asset, rail, payment_method, effective_at; others become metadata. With
    --atomic the whole file is one unit: whoever else posts in its assets waits until it is over. --dry-run keeps nobody
    waiting who posts, and answers by the books as they are meanwhile.
    """
    from pathlib import Path

    from pasys.cli import import_file
    from pasys.cli.import_report import bar, report
    from pasys.cli.import_source import Source

    settings()  # the tokens of pasys.toml are assets too
    source = Source(Path(file), delimiter=delimiter)
    options = import_file.Options(
        open_accounts=open_accounts,
        atomic=atomic,
        dry_run=dry_run,
        skip_invalid=skip_invalid,
        batch_size=batch_size,
    )
    with bar() as progress:
        found = import_file.prepare(source, options, progress)
        outcome = ask_database(lambda db: import_file.run(db, source, found, options, progress))
    report(outcome, output, dry_run=dry_run)


@app.command("undo", examples="pasys tx undo imp_06f2… --yes")
def undo(
    batch: Annotated[str, typer.Argument(metavar="BATCH", help="imp_… id of an import.")],
    yes: Yes = False,
    output: Output = TABLE,
) -> None:
    """Reverse every book transaction of an import, or none of them."""
    from pasys.cli.import_report import bar
    from pasys.service import transaction_state

    confirm(f"Reverse every transaction of {batch}?", yes)
    with bar() as progress:
        reversals = ask(lambda unit: transaction_state.undo(unit, batch, progress=progress))
    show({"batch": batch, "reversed": len(reversals), "reversals": reversals}, output, columns=["batch", "reversed"])


@app.command(
    "key",
    examples="pasys tx key --id order-17 --timestamp 2026-11-21T05:00:00Z --from alice --to shop --amount 12.50",
)
def key(
    request_id: Annotated[str, typer.Option("--id", help="The caller's id of the request.")],
    timestamp: Annotated[str, typer.Option("--timestamp", metavar="TEXT", help="When it was made, as it was sent.")],
    from_: Annotated[str, typer.Option("--from", metavar="NAME", help="The account that pays, as it was sent.")],
    to: Annotated[str, typer.Option("--to", metavar="NAME", help="The account that receives, as it was sent.")],
    amount: Amount,
    output: Output = TABLE,
) -> None:
    """Derive the idempotency key SHA256(id + request_timestamp + debit + credit + amount) of a request."""
    from pasys.domain.transaction import request_key

    derived = request_key(id=request_id, request_timestamp=timestamp, debit=from_, credit=to, amount=amount)
    show({"key": derived}, output)
