"""pasys refund: all or part of a payment goes back, and somebody else may have to agree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pasys.cli.console import Noun, ask, money, poll, say, show, show_refused
from pasys.cli.options import FINAL, TABLE, IdempotencyKey, Limit, Output, Timeout, TransactionId, Wait

if TYPE_CHECKING:
    from pasys.service.refund_query import RefundRow

app = Noun("refund", "Refunds: all or part of a payment goes back.")
COLUMNS = ["id", "transaction_id", "status", "outcome", "amount", "automatic", "requested_by", "reason", "created_at"]
WAITS_FOR_APPROVAL = 11

RefundId = Annotated[str, typer.Argument(metavar="REFUND", help="rf_… id.")]
Reason = Annotated[str | None, typer.Option("--reason", help="Kept in the history.")]


@app.command(
    "create",
    examples="pasys refund create tx_06f2… --amount 5.00 --wait\npasys refund create tx_06f2… --reason 'sent back'",
)
def create(
    transaction_id: TransactionId,
    amount: Annotated[
        str | None, typer.Option("--amount", metavar="DECIMAL", help="In major units; all that is left, if absent.")
    ] = None,
    reason: Reason = None,
    key: IdempotencyKey = None,
    wait: Wait = None,
    timeout: Timeout = 30.0,
    output: Output = TABLE,
) -> None:
    """Refund a payment, in whole or in part. Above the configured amount a second person has to approve."""
    from pasys import ids
    from pasys.service import refund, transaction_query

    used_key = key or ids.new("key")

    async def request(unit: Any) -> Any:
        asset = (await transaction_query.get(unit, transaction_id)).amount.asset
        asked = money(amount, asset) if amount is not None else None
        return await refund.request(unit, transaction_id, amount=asked, reason=reason, key=used_key)

    requested = ask(request)
    if requested.replayed:
        say(f"Idempotency key {used_key} was used before, for the same request: this is its refund.")
    elif key is None:
        say(f"Idempotency key: {used_key}")
    _report(requested.refund_id, output, wait=wait, timeout_s=timeout)


def _report(refund_id: str, output: Any, *, wait: str | None, timeout_s: float) -> None:
    from pasys.service import refund_query

    if wait is None:
        row = ask(lambda unit: refund_query.get(unit, refund_id))
    else:
        row = poll(
            lambda unit: refund_query.get(unit, refund_id),
            until=_reached(wait),
            timeout_s=timeout_s,
            entity_id=refund_id,
            status=lambda found: f"{found.status} ({found.outcome})" if found.outcome else found.status,
        )
    _show(row, output)


def _reached(wanted: str) -> Any:
    from pasys.domain.refund import FINAL as FINAL_STATUSES
    from pasys.domain.refund import Status
    from pasys.errors import InvalidInput

    if wanted != FINAL and wanted not in [str(status) for status in Status]:
        raise InvalidInput(field="wait", reason=f"{wanted!r} is none of {', '.join(Status)}")

    def reached(row: RefundRow) -> bool:
        rests = row.status in FINAL_STATUSES or row.status == Status.AWAITING_APPROVAL
        return rests or row.status == wanted

    return reached


def _show(row: RefundRow, output: Any) -> None:
    from pasys.domain.refund import Status
    from pasys.errors import RefundNotCompleted

    if row.status in (Status.RELEASED, Status.REJECTED, Status.DECLINED):
        why = row.decline_reason or "rejected"
        show_refused(row, output, RefundNotCompleted(refund_id=row.id, reason=why), columns=COLUMNS)
    show(row, output, columns=COLUMNS)
    if row.status == Status.AWAITING_APPROVAL:
        say(f"It waits for a second person: `pasys refund approve {row.id}` or `reject`.")
        raise typer.Exit(WAITS_FOR_APPROVAL)


@app.command(
    "approve",
    examples="pasys --actor bob refund approve rf_06f2… --wait\n"
    "pasys --actor bob refund approve rf_06f2… --reason 'as agreed with the customer'",
)
def approve(
    refund_id: RefundId, reason: Reason = None, wait: Wait = None, timeout: Timeout = 30.0, output: Output = TABLE
) -> None:
    """Approve a refund that waits; it must be somebody else's."""
    from pasys.service import refund

    ask(lambda unit: refund.approve(unit, refund_id, reason=reason))
    _report(refund_id, output, wait=wait, timeout_s=timeout)


@app.command("reject", examples="pasys --actor bob refund reject rf_06f2… --reason 'not agreed'")
def reject(
    refund_id: RefundId,
    reason: Annotated[str, typer.Option("--reason", help="Kept in the history.")],
    output: Output = TABLE,
) -> None:
    """Reject a refund that waits; it must be somebody else's."""
    from pasys.service import refund, refund_query

    ask(lambda unit: refund.reject(unit, refund_id, reason=reason))
    show(ask(lambda unit: refund_query.get(unit, refund_id)), output, columns=COLUMNS)


@app.command("show", examples="pasys refund show rf_06f2…")
def show_(refund_id: RefundId, output: Output = TABLE) -> None:
    """Show a refund and its history."""
    from pasys.cli.output import fields_of
    from pasys.service import refund_query

    async def detail(unit: Any) -> dict[str, Any]:
        row = await refund_query.get(unit, refund_id)
        return {**fields_of(row), "history": await refund_query.history(unit, refund_id)}

    show(ask(detail), output)


@app.command(
    "list",
    examples="pasys refund list --status awaiting_approval\npasys refund list --transaction tx_06f2…\n"
    "pasys refund list --unknown",
)
def list_(
    status: Annotated[str | None, typer.Option("--status", help="Only this status.")] = None,
    transaction: Annotated[str | None, typer.Option("--transaction", metavar="TX", help="Only of this one.")] = None,
    automatic: Annotated[bool, typer.Option("--automatic", help="Only those that a rule started.")] = False,
    unknown: Annotated[bool, typer.Option("--unknown", help="Only those whose outcome is unknown.")] = False,
    after: Annotated[str | None, typer.Option("--after", metavar="REFUND", help="Older than this id.")] = None,
    limit: Limit = 50,
    output: Output = TABLE,
) -> None:
    """List refunds, newest first."""
    from pasys.service import refund_query

    rows = ask(
        lambda unit: refund_query.listing(
            unit,
            status=status,
            transaction=transaction,
            automatic=True if automatic else None,
            unknown=unknown,
            after=after,
            limit=limit,
        )
    )
    show(rows, output, name="refunds", columns=COLUMNS)
