"""Transactions are created all or nothing: key, row, hold or posting, and announcement in one unit.

Creation works on batches, because an import and a single command must not be two implementations; a single creation is
a batch of one, and there a refusal raises.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec

from pasys import ids
from pasys.adapters import Psp, open_psp
from pasys.config import Settings
from pasys.db import Unit, queries
from pasys.domain import posting
from pasys.domain.account import receivable
from pasys.domain.ledger import Purpose, Transfer
from pasys.domain.transaction import BOOK, Kind, Status, check_shape, infer_kind
from pasys.errors import (
    AccountClosed,
    AccountFrozen,
    AccountNotFound,
    IdempotencyMismatch,
    InvalidInput,
    Rejected,
    TransferRefused,
    WrongAsset,
)
from pasys.events import Event, TransactionCreated, TransactionSucceeded
from pasys.money import Money
from pasys.service import account, idempotency, ledger

SQL = queries("transaction")
OPERATION = "transaction.create"


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What a caller asks for. Accounts are names or acc_ ids; `key` is the caller's idempotency key."""

    amount: Money
    rail: str = BOOK
    kind: Kind | None = None
    debit: str | None = None
    credit: str | None = None
    payment_method: str | None = None
    effective_at: datetime | None = None
    metadata: dict[str, Any] | None = None
    key: str | None = None
    batch_id: str | None = None

    def fingerprint(self) -> bytes:
        """The hash of the canonical body: what must be the same for the same key."""
        body = (
            self.amount.minor,
            self.amount.asset,
            self.rail,
            self.kind,
            self.debit,
            self.credit,
            self.payment_method,
            self.effective_at,
            sorted((self.metadata or {}).items()),
        )
        return hashlib.sha256(msgspec.json.encode(body)).digest()


@dataclass(frozen=True, slots=True)
class Created:
    """The answer to one draft: a transaction, one that the same key made before, or the rule that refused."""

    transaction_id: str | None
    status: Status | None
    replayed: bool = False
    refusal: Rejected | None = None


@dataclass(frozen=True, slots=True)
class _Party:
    id: int
    name: str
    asset: str
    type: str
    status: str
    payment_method: str | None


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
    unit: Unit, drafts: Sequence[Draft], *, partial: bool, turn: Callable[[], Awaitable[None]] | None = None
) -> list[Created]:
    """Create a batch in order, in one unit. With `partial`, a refused draft leaves the others alone; else it raises.

    `turn` is awaited when all is laid out and nothing is posted: whoever creates several batches at a time puts them in
    order there.
    """
    named = ids.many("tx", len(drafts)) if len(drafts) > 1 else [ids.new("tx")]
    plans = [_Plan(draft, id) for draft, id in zip(drafts, named, strict=False)]
    claimed = await _take_keys(unit, plans)
    parties = await _parties(unit, drafts)
    systems = await _systems(unit, drafts)
    for plan in plans:
        if plan.alive:
            try:
                _lay_out(unit, plan, parties, systems)
            except Rejected as no:
                plan.refusal = no
        if plan.refusal is not None and not partial:
            raise plan.refusal
    if turn is not None:
        await turn()
    if partial:
        await _post(unit, plans, partial=True)
    done = [plan for plan in plans if plan.alive]
    await _insert(unit, done)
    if partial:
        await _give_back_keys(unit, [plan for plan in claimed if plan.refusal is not None])
    else:  # last, because it locks the asset for everybody until the commit; a refusal undoes the rows
        await _post(unit, plans, partial=False)
    unit.emit(*(_announcement(unit, plan) for plan in done))
    return await _answers(unit, plans)


async def _take_keys(unit: Unit, plans: list[_Plan]) -> list[_Plan]:
    """Claim the drafts' keys before anything else is locked; the later of two equal requests waits here.

    Returns the plans whose keys are theirs now.
    """
    keyed: dict[str, _Plan] = {}
    for plan in plans:
        if plan.draft.key is None:
            continue
        try:
            idempotency.check(plan.draft.key)
        except InvalidInput as no:
            plan.refusal = no
            continue
        if keyed.setdefault(plan.draft.key, plan) is not plan:
            plan.refusal = InvalidInput(field="key", reason=f"{plan.draft.key!r} stands twice in one batch")
    if not keyed:
        return []
    hashes = {key: plan.draft.fingerprint() for key, plan in keyed.items()}
    taken = await unit.rows(
        SQL["take_keys"],
        actor=unit.actor,
        operation=OPERATION,
        now=unit.now,
        keys=list(keyed),
        hashes=list(hashes.values()),
        entities=[plan.id for plan in keyed.values()],
    )
    others = keyed.keys() - {row.key for row in taken}
    if others:
        known = await unit.rows(SQL["keys_taken"], actor=unit.actor, operation=OPERATION, keys=sorted(others))
        for row in known:
            if bytes(row.body_hash) == hashes[row.key]:
                keyed[row.key].replay = row.entity_id
            else:
                keyed[row.key].refusal = IdempotencyMismatch(key=row.key, entity_id=row.entity_id)
    return [plan for key, plan in keyed.items() if key not in others]


async def _give_back_keys(unit: Unit, refused: list[_Plan]) -> None:
    keyed = {plan.id: plan.draft.key for plan in refused}
    if keyed:
        values = {"keys": list(keyed.values()), "entities": list(keyed)}
        await unit.rows(SQL["give_back_keys"], actor=unit.actor, operation=OPERATION, **values)


async def _parties(unit: Unit, drafts: Sequence[Draft]) -> dict[tuple[str, str], _Party]:
    """The accounts that the drafts name, by (name or id, asset)."""
    wanted = {(name, d.amount.asset) for d in drafts for name in (d.debit, d.credit) if name is not None}
    numbers = {name: ids.account_number(name) for name, _ in wanted if name.startswith("acc_")}
    named = [(name, asset) for name, asset in wanted if numbers.get(name) is None]
    rows = await unit.rows(
        SQL["accounts"],
        names=[name for name, _ in named],
        assets=[asset for _, asset in named],
        numbers=[number for number in numbers.values() if number is not None],
    )
    found = {(row.name, row.asset): _Party(*row) for row in rows}
    by_number = {party.id: party for party in found.values()}
    for name, asset in wanted:
        party = by_number.get(numbers.get(name) or 0)
        if party is not None:
            found[name, asset] = party
    for name, asset in wanted - found.keys():  # rare: say whether it exists in another asset
        if len(drafts) == 1:
            await account.find(unit, name, asset)
    return found


async def _systems(unit: Unit, drafts: Sequence[Draft]) -> dict[tuple[str, str], int]:
    """The system accounts on the other side: PSP receivables, and the world outside for deposits and withdrawals."""
    wanted: set[tuple[str, str]] = set()
    for draft in drafts:
        names: Iterable[str] = [receivable(draft.rail)] if _known(draft.rail, unit.settings) else []
        if draft.rail == BOOK and (draft.debit is None or draft.kind is Kind.DEPOSIT):
            names = ["external:deposits"]
        elif draft.rail == BOOK and (draft.credit is None or draft.kind is Kind.WITHDRAWAL):
            names = ["external:withdrawals"]
        wanted |= {(name, draft.amount.asset) for name in names}
    return {key: await account.system(unit, *key) for key in sorted(wanted)}


def _lay_out(
    unit: Unit, plan: _Plan, parties: dict[tuple[str, str], _Party], systems: dict[tuple[str, str], int]
) -> None:
    """Decide kind, accounts and transfer of a draft. Raises the rule that refuses it."""
    draft, asset = plan.draft, plan.draft.amount.asset
    if draft.amount.minor < 1:
        raise InvalidInput(field="amount", reason=f"{draft.amount} is not positive")
    debit, credit = (_party(parties, name, asset) for name in (draft.debit, draft.credit))
    plan.kind = draft.kind or infer_kind(
        debit_type=debit.type if debit else None, credit_type=credit.type if credit else None, rail=draft.rail
    )
    check_shape(plan.kind, debit=debit is not None, credit=credit is not None, rail=draft.rail)
    if debit is not None and credit is not None and debit.id == credit.id:
        raise InvalidInput(field="to", reason=f"{credit.name} is the account that pays")
    if draft.rail == BOOK:
        outside = "external:deposits" if debit is None else "external:withdrawals"
        plan.debit = debit.id if debit else systems[outside, asset]
        plan.credit = credit.id if credit else systems[outside, asset]
        plan.transfer = _book(plan, draft, asset)
        return
    _rail(draft.rail, unit.settings).check(draft.amount)
    debtor = systems[receivable(draft.rail), asset]
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


def _book(plan: _Plan, draft: Draft, asset: str) -> Transfer:
    purposes = {Kind.DEPOSIT: Purpose.DEPOSIT, Kind.WITHDRAWAL: Purpose.WITHDRAWAL}
    (transfer,) = posting.book_transfer(
        debit=plan.debit,
        credit=plan.credit,
        amount_minor=draft.amount.minor,
        asset=asset,
        reference=plan.id,
        purpose=purposes.get(plan.kind, Purpose.BOOK),
        effective_at=draft.effective_at,
    )
    return transfer


def _party(parties: dict[tuple[str, str], _Party], name: str | None, asset: str) -> _Party | None:
    if name is None:
        return None
    party = parties.get((name, asset))
    if party is None:
        raise AccountNotFound(account=name)
    if party.asset != asset:
        raise WrongAsset(account=party.name, account_asset=party.asset, asset=asset)
    return party


_rails: dict[tuple[str, int], Psp] = {}


def _rail(name: str, settings: Settings) -> Psp:
    """The adapter of a rail, opened once. Raises UnknownRail or PspMisconfigured."""
    key = (name, id(settings))
    if key not in _rails:
        _rails[key] = open_psp(name, settings)
    return _rails[key]


def _known(rail: str, settings: Settings) -> bool:
    """True for the rail of a PSP that can be opened; the others are refused when their drafts are laid out."""
    try:
        return rail != BOOK and _rail(rail, settings) is not None
    except Rejected:
        return False


async def _post(unit: Unit, plans: list[_Plan], *, partial: bool) -> None:
    posting_plans = [(plan, plan.transfer) for plan in plans if plan.alive and plan.transfer is not None]
    posted = await ledger.post(unit, [transfer for _, transfer in posting_plans], refuse=not partial)
    for (plan, transfer), answer in zip(posting_plans, posted, strict=True):
        if answer.result:
            plan.refusal = TransferRefused(transfer_id=transfer.id, rule=answer.result.rule)


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


async def _answers(unit: Unit, plans: list[_Plan]) -> list[Created]:
    replays = {plan.replay for plan in plans if plan.replay}
    rows = await unit.rows(SQL["select"], ids=sorted(replays)) if replays else []
    statuses = {row.id: Status(row.status) for row in rows}
    return [
        Created(None, None, refusal=plan.refusal)
        if plan.refusal
        else Created(plan.replay, statuses[plan.replay], replayed=True)
        if plan.replay
        else Created(plan.id, plan.status)
        for plan in plans
    ]
