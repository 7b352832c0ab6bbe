"""Transactions are created all or nothing: key, row, hold or posting, and announcement in one unit.

Creation works on batches, because an import and a single command must not be two implementations; a single creation is
a batch of one, and there a refusal raises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import msgspec

from pasys import ids
from pasys.db import Unit, queries
from pasys.domain import posting
from pasys.domain.account import receivable
from pasys.domain.ledger import Result, Transfer
from pasys.domain.ledger_columns import Columns
from pasys.domain.transaction import BOOK, Kind, Status
from pasys.errors import AccountClosed, AccountFrozen, Rejected, TransferRefused
from pasys.events import Event, TransactionCreated, TransactionSucceeded
from pasys.service import ledger, transaction_book
from pasys.service.transaction_draft import (
    MET_MAX,
    OPERATION,
    Created,
    Draft,
    Drafts,
    Parties,
    Party,
    PostMany,
    Systems,
    Turn,
    answers,
    claim,
    outside,
    parties,
    rail_of,
    sides,
    systems,
)

__all__ = ["MET_MAX", "OPERATION", "Created", "Draft", "Drafts", "Party", "PostMany", "Turn", "create", "create_many"]

SQL = queries("transaction")
BOOK_FROM = 500  # drafts, all by book: below, columns cost more than objects


@dataclass(slots=True)
class _Plan:
    """A draft on its way: its accounts, its transfer, and the refusal that it met, if any."""

    draft: Draft
    id: str
    kind: Kind = Kind.PAYMENT
    debit: int = 0
    credit: int = 0
    payer: int = 0
    payment_method: str | None = None
    transfer: Transfer | None = None
    refusal: Rejected | None = None
    replay: str | None = None

    @property
    def status(self) -> Status:
        return Status.SUCCEEDED if self.draft.rail == BOOK else Status.PENDING

    @property
    def alive(self) -> bool:
        return self.refusal is None and self.replay is None


async def create(unit: Unit, draft: Draft) -> Created:
    """Create one transaction: checks, key, row, hold or posting, announcement. Raises the rule that refuses it."""
    (created,) = await create_many(unit, [draft], partial=False)
    return created


async def create_many(
    unit: Unit,
    drafts: Sequence[Draft] | Drafts,
    *,
    partial: bool,
    turn: Turn | None = None,
    post: PostMany = ledger.post_many,
) -> list[Created]:
    """Create a batch in order, in one unit. With `partial`, a refused draft leaves the others alone; else it raises.

    Whoever creates several batches at a time gives each its `turn`, and says when it has committed. `post` is the door
    by which partial batches come into the books: that of a Poster, for volume.
    """
    turn = turn or Turn()
    drafts = drafts if isinstance(drafts, Drafts) else Drafts.of(drafts)
    if partial and len(drafts) >= BOOK_FROM and {*drafts.rail} == {BOOK}:
        return await transaction_book.create_many(unit, drafts, turn=turn, post=post)
    named = ids.many("tx", len(drafts)) if len(drafts) > 1 else [ids.new("tx")]
    plans = [_Plan(drafts[at], named[at]) for at in range(len(drafts))]
    await turn.claim()
    async with unit.briefly():
        claims = await claim(unit, drafts, named)
        known = await parties(unit, drafts, partial=partial)
        others = await systems(unit, drafts)
    turn.claimed.set()
    for at, plan in enumerate(plans):
        plan.refusal, plan.replay = claims.refusals.get(at), claims.replays.get(at)
        if plan.alive:
            try:
                _lay_out(unit, plan, known, others)
            except Rejected as no:
                plan.refusal = no
        if plan.refusal is not None and not partial:
            raise plan.refusal
    await turn.post()
    if partial:
        await _post_some(unit, plans, post, kept=turn.kept)
    done = [plan for plan in plans if plan.alive]
    await _insert(unit, done)
    refusals = {at: plan.refusal for at, plan in enumerate(plans) if plan.refusal is not None}
    if partial:
        await claims.give_back(unit, named, refusals)
    else:  # last, because it locks the asset for everybody until the commit; a refusal undoes the rows
        await ledger.post(unit, [transfer for _, transfer in _transfers(plans)])
    if turn.kept:
        unit.emit(*(_announcement(unit, plan) for plan in done))
    fresh = [Created(plan.id, plan.status) for plan in plans]
    return await answers(unit, fresh, replays=claims.replays, refusals=refusals)


def _lay_out(unit: Unit, plan: _Plan, known: Parties, others: Systems) -> None:
    """Decide kind, accounts and transfer of a draft. Raises the rule that refuses it."""
    draft, asset = plan.draft, plan.draft.amount.asset
    plan.kind, debit, credit = sides(draft, known)
    if draft.rail == BOOK:
        plan.debit = debit.id if debit else others[outside(draft)]
        plan.credit = credit.id if credit else others[outside(draft)]
        (plan.transfer,) = posting.book_transfer(
            debit=plan.debit,
            credit=plan.credit,
            amount_minor=draft.amount.minor,
            asset=asset,
            reference=plan.id,
            purpose=posting.BOOK_PURPOSES[plan.kind],
            effective_at=draft.effective_at,
        )
        return
    rail_of(draft.rail, unit.settings).check(draft.amount)
    debtor = others[receivable(draft.rail), asset]
    payer = credit if debit is None else debit
    assert payer is not None, "check_shape has seen to it"
    if credit is not None and credit.status != "active":  # the hold names the payer only
        raise (AccountFrozen if credit.status == "frozen" else AccountClosed)(account=credit.name)
    plan.debit, plan.credit = debit.id if debit else debtor, credit.id if credit else debtor
    plan.payer = payer.id
    plan.payment_method = draft.payment_method or payer.payment_method
    (plan.transfer,) = posting.payment_hold(
        receivable=debtor,
        customer=payer.id,
        amount_minor=draft.amount.minor,
        asset=asset,
        reference=plan.id,
        expires_at=unit.now + timedelta(seconds=unit.settings.hold_ttl_s),
    )


def _transfers(plans: list[_Plan]) -> list[tuple[_Plan, Transfer]]:
    return [(plan, plan.transfer) for plan in plans if plan.alive and plan.transfer is not None]


async def _post_some(unit: Unit, plans: list[_Plan], post: PostMany, *, kept: bool) -> None:
    """Post what no rule refuses; the others are refused."""
    parts: dict[str, list[tuple[_Plan, Transfer]]] = {}
    for plan, transfer in _transfers(plans):
        parts.setdefault(transfer.asset, []).append((plan, transfer))
    if len(parts) > 1 and kept:
        await ledger.lock(unit, parts)
    for asset in sorted(parts):
        answers = await post(unit, Columns.of([transfer for _, transfer in parts[asset]]))
        for (plan, transfer), result in zip(parts[asset], answers.result.tolist(), strict=True):
            if result:
                plan.refusal = TransferRefused(transfer_id=transfer.id, rule=Result(result).rule)


async def _insert(unit: Unit, plans: list[_Plan]) -> None:
    if not plans:
        return
    encode = msgspec.json.encode
    await unit.rows(
        SQL["insert"],
        actor=unit.actor,
        now=unit.now,
        ids=[plan.id for plan in plans],
        kinds=[plan.kind.value for plan in plans],
        rails=[plan.draft.rail for plan in plans],
        statuses=[plan.status.value for plan in plans],
        assets=[plan.draft.amount.asset for plan in plans],
        amounts=[plan.draft.amount.minor for plan in plans],
        debits=[plan.debit for plan in plans],
        credits=[plan.credit for plan in plans],
        methods=[plan.payment_method for plan in plans],
        parents=[None] * len(plans),
        batches=[plan.draft.batch_id for plan in plans],
        metadata=[encode(plan.draft.metadata).decode() if plan.draft.metadata else None for plan in plans],
        transfers=[plan.transfer.id if plan.transfer else None for plan in plans],
        effective=[plan.draft.effective_at or unit.now for plan in plans],
    )


def _announcement(unit: Unit, plan: _Plan) -> Event:
    amount = plan.draft.amount
    if plan.status is Status.SUCCEEDED:
        return TransactionSucceeded(
            transaction_id=plan.id, kind=plan.kind, rail=BOOK, amount_minor=amount.minor, asset=amount.asset
        )
    return TransactionCreated(
        transaction_id=plan.id,
        kind=plan.kind,
        rail=plan.draft.rail,
        amount_minor=amount.minor,
        asset=amount.asset,
        account_id=ids.account_id(plan.payer),
        payment_method=plan.payment_method,
        created_at=unit.now,
    )
