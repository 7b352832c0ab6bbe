"""A draft is a transaction that is asked for: its accounts are looked up and its shape is checked before it is made."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from operator import eq
from typing import Any, NamedTuple

import msgspec

from pasys import ids
from pasys.adapters import Psp, open_psp
from pasys.config import Settings
from pasys.db import Unit, queries
from pasys.domain.account import receivable
from pasys.domain.ledger_columns import Columns
from pasys.domain.transaction import BOOK, Kind, Status, check_shape, infer_kind
from pasys.errors import AccountNotFound, IdempotencyMismatch, InvalidInput, Rejected, WrongAsset
from pasys.money import Money
from pasys.service import account, idempotency
from pasys.service.ledger import Answers

SQL = queries("transaction")
OPERATION = "transaction.create"
DEPOSITS, WITHDRAWALS = (
    "external:deposits",
    "external:withdrawals",
)  # the world outside
MET_MAX = 250_000  # accounts that a caller of many batches remembers
_encode = msgspec.json.Encoder().encode


class Draft(NamedTuple):
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


@dataclass(frozen=True, slots=True)
class Drafts:
    """Drafts as columns, a field of Draft each. `asset` has the codes of the amounts' assets."""

    amount: Sequence[Money]
    rail: Sequence[str]
    kind: Sequence[Kind | None]
    debit: Sequence[str | None]
    credit: Sequence[str | None]
    payment_method: Sequence[str | None]
    effective_at: Sequence[datetime | None]
    metadata: Sequence[dict[str, Any] | None]
    key: Sequence[str | None]
    batch_id: Sequence[str | None]
    asset: Sequence[str]

    @classmethod
    def of(cls, drafts: Sequence[Draft]) -> Drafts:
        columns = list(zip(*drafts, strict=True)) or [()] * len(Draft._fields)
        return cls(*columns, asset=[draft.amount.asset for draft in drafts])

    def __len__(self) -> int:
        return len(self.amount)

    def __getitem__(self, at: int) -> Draft:
        return Draft(*[getattr(self, name)[at] for name in Draft._fields])

    def minor(self) -> list[int]:
        return [amount.minor for amount in self.amount]

    def fingerprints(self, places: Iterable[int]) -> list[bytes]:
        """The hashes of the canonical bodies at these places: what must be the same for the same key."""
        columns = zip(
            self.minor(),
            self.asset,
            self.rail,
            self.kind,
            self.debit,
            self.credit,
            self.payment_method,
            self.effective_at,
            [sorted(said.items()) if said else [] for said in self.metadata],
            strict=True,
        )
        bodies = [*columns]
        return [hashlib.sha256(_encode(bodies[at])).digest() for at in places]


class Created(NamedTuple):
    """The answer to one draft: a transaction, one that the same key made before, or the rule that refused."""

    transaction_id: str | None
    status: Status | None
    replayed: bool = False
    refusal: Rejected | None = None


@dataclass(slots=True)
class Turn:
    """The place of a batch among several that one caller creates at a time, in order.

    Each claims its keys, and the system's accounts that it opens, once the one before it has claimed its own; it posts
    once that one has committed. So nobody waits for a lock of a later one, which waits for him. The accounts that a
    batch has `met` are not read by those to which its caller gives them. Of what is not `kept`, because its unit is to
    be rolled back, nobody is told, and no books are locked for it.
    """

    before: Turn | None = None
    met: dict[tuple[str | None, str], Party] = field(default_factory=dict)
    claimed: asyncio.Event = field(default_factory=asyncio.Event)
    committed: asyncio.Event = field(default_factory=asyncio.Event)
    kept: bool = True

    async def claim(self) -> None:
        if self.before is not None:
            await self.before.claimed.wait()

    async def post(self) -> None:
        if self.before is not None:
            await self.before.committed.wait()
            self.before = None  # or all of them would be kept


@dataclass(frozen=True, slots=True)
class Party:
    id: int
    name: str
    asset: str
    type: str
    status: str = "active"
    payment_method: str | None = None


Parties = Mapping[tuple[str | None, str], Party]  # by name or public id, and asset; there is none of nobody
PostMany = Callable[[Unit, Columns], Awaitable[Answers]]  # a door to the books, for a batch of one asset
Systems = Mapping[tuple[str, str], int]


@dataclass(slots=True)
class Claims:
    """What a batch's keys say before anything is laid out, by place in the batch: `ours` stand for these drafts now."""

    ours: dict[str, int] = field(default_factory=dict)
    refusals: dict[int, Rejected] = field(default_factory=dict)
    replays: dict[int, str] = field(default_factory=dict)

    async def give_back(self, unit: Unit, made: Sequence[str], refused: Collection[int]) -> None:
        """What was refused after all takes no key."""
        keys = [key for key, at in self.ours.items() if at in refused]
        entities = [made[self.ours[key]] for key in keys]
        await idempotency.give_back(unit, operation=OPERATION, keys=keys, entities=entities)


async def claim(unit: Unit, drafts: Drafts, made: Sequence[str]) -> Claims:
    """Take the drafts' keys for the ids that are made for them, before anything else is locked: the later of two equal
    requests waits here."""
    claims = _claims(drafts.key)
    if not claims.ours:
        return claims
    taken = await idempotency.take_many(
        unit,
        operation=OPERATION,
        keys=list(claims.ours),
        hashes=drafts.fingerprints(claims.ours.values()),
        entities=[made[at] for at in claims.ours.values()],
    )
    for key, other in taken.items():
        at = claims.ours.pop(key)
        if isinstance(other, IdempotencyMismatch):
            claims.refusals[at] = other
        else:
            claims.replays[at] = other
    return claims


def _claims(keys: Sequence[str | None]) -> Claims:
    """The keys that a batch can ask for, and why it cannot ask for the others."""
    wanted = {key: at for at, key in enumerate(keys) if key is not None}
    if len(wanted) + keys.count(None) == len(keys) and idempotency.are_sound(wanted):
        return Claims(ours=wanted)
    claims = Claims()
    for at, key in enumerate(keys):
        if key is None:
            continue
        try:
            idempotency.check(key)
            if claims.ours.setdefault(key, at) != at:
                raise InvalidInput(field="key", reason=f"{key!r} stands twice in one batch")
        except InvalidInput as no:
            claims.refusals[at] = no
    return claims


async def answers(
    unit: Unit, fresh: list[Created], *, replays: Mapping[int, str], refusals: Mapping[int, Rejected]
) -> list[Created]:
    """The answers to a batch: those of what is new, but for the places that were replayed or refused."""
    found = await unit.rows(SQL["select"], ids=sorted(set(replays.values()))) if replays else []
    statuses = {row.id: Status(row.status) for row in found}
    for at, id in replays.items():
        fresh[at] = Created(id, statuses[id], replayed=True)
    for at, refusal in refusals.items():
        fresh[at] = Created(None, None, refusal=refusal)
    return fresh


async def parties(
    unit: Unit, drafts: Drafts, *, partial: bool, met: dict[tuple[str | None, str], Party] | None = None
) -> Parties:
    """The accounts that the drafts name, by (name or id, asset).

    Those that were `met` before are not read again, and the others are put to them: all but status and payment method
    stays as it is. So whoever needs those two gives none.
    """
    if met is None:
        met = {}
    elif len(met) > MET_MAX:
        met.clear()
    named = *zip(drafts.debit, drafts.asset, strict=True), *zip(drafts.credit, drafts.asset, strict=True)
    missing = {(name, asset) for name, asset in named if name is not None and (name, asset) not in met}
    if missing:
        met.update(await _read_parties(unit, missing))
    if len(drafts) == 1 and not partial:
        for name, asset in missing - met.keys():  # rare: say whether it exists in another asset
            await account.find(unit, name, asset)
    return met


async def _read_parties(unit: Unit, wanted: Collection[tuple[str, str]]) -> dict[tuple[str | None, str], Party]:
    numbers = {name: ids.account_number(name) for name, _ in wanted if name.startswith("acc_")}
    named = [(name, asset) for name, asset in wanted if numbers.get(name) is None]
    rows = await unit.rows(
        SQL["accounts"],
        names=[name for name, _ in named],
        assets=[asset for _, asset in named],
        numbers=[number for number in numbers.values() if number is not None],
    )
    found: dict[tuple[str | None, str], Party] = {(row.name, row.asset): Party(*row) for row in rows}
    by_number = {party.id: party for party in found.values()}
    for name, asset in wanted:
        party = by_number.get(numbers.get(name) or 0)
        if party is not None:
            found[name, asset] = party
    return found


async def systems(unit: Unit, drafts: Drafts) -> dict[tuple[str, str], int]:
    """The system accounts on the other side: PSP receivables, and the world outside for deposits and withdrawals."""
    named = [name is None for name in drafts.debit], [name is None for name in drafts.credit]
    shapes = {*zip(drafts.rail, drafts.kind, *named, drafts.asset, strict=True)}
    wanted: set[tuple[str, str]] = set()
    for rail, kind, no_payer, no_payee, asset in shapes:
        if rail == BOOK and (no_payer or kind is Kind.DEPOSIT):
            wanted.add((DEPOSITS, asset))
        elif rail == BOOK and (no_payee or kind is Kind.WITHDRAWAL):
            wanted.add((WITHDRAWALS, asset))
        elif _known(rail, unit.settings):
            wanted.add((receivable(rail), asset))
    return {key: await account.system(unit, *key) for key in sorted(wanted)}


def sides(draft: Draft, found: Parties) -> tuple[Kind, Party | None, Party | None]:
    """A draft's kind, who pays and who receives. Raises the rule that refuses it."""
    asset = draft.amount.asset
    if draft.amount.minor < 1:
        raise InvalidInput(field="amount", reason=f"{draft.amount} is not positive")
    debit, credit = _party(found, draft.debit, asset), _party(found, draft.credit, asset)
    kind = _kind(draft.kind, debit.type if debit else None, credit.type if credit else None, draft.rail)
    if debit is not None and credit is not None and debit.id == credit.id:
        raise InvalidInput(field="to", reason=f"{credit.name} is the account that pays")
    return kind, debit, credit


def all_sides(drafts: Drafts, found: Parties) -> tuple[list[Kind], list[int], list[int]] | None:
    """The same for a batch: kinds, and numbers of who pays and who receives, 0 for the world outside. None where some
    rule refuses one of them."""
    debit, credit = _side(drafts.debit, drafts.asset, found), _side(drafts.credit, drafts.asset, found)
    if debit is None or credit is None or any(map(eq, debit[0], credit[0])) or min(drafts.minor(), default=1) < 1:
        return None
    shapes = [*zip(drafts.kind, debit[1], credit[1], drafts.rail, strict=True)]
    try:
        kinds = {shape: _kind(*shape) for shape in {*shapes}}
    except Rejected:
        return None
    return [kinds[shape] for shape in shapes], debit[0], credit[0]


def _side(
    names: Sequence[str | None], assets: Sequence[str], found: Parties
) -> tuple[list[int], list[str | None]] | None:
    """Numbers and types of the accounts on one side; 0 and None where nobody is named. None where one is not found."""
    side = [found.get(named) for named in zip(names, assets, strict=True)]
    numbers = [party.id if party else 0 for party in side]
    theirs = {(party.asset, asset) for party, asset in zip(side, assets, strict=True) if party}
    if numbers.count(0) != names.count(None) or any(own != asset for own, asset in theirs):
        return None
    return numbers, [party.type if party else None for party in side]


@lru_cache(1_000)
def _kind(said: Kind | None, debit_type: str | None, credit_type: str | None, rail: str) -> Kind:
    kind = said or infer_kind(debit_type=debit_type, credit_type=credit_type, rail=rail)
    check_shape(kind, debit=debit_type is not None, credit=credit_type is not None, rail=rail)
    return kind


def outside(draft: Draft) -> tuple[str, str]:
    """The account of the world outside on the other side of a deposit or a withdrawal by book, by name and asset."""
    return DEPOSITS if draft.debit is None else WITHDRAWALS, draft.amount.asset


def _party(found: Parties, name: str | None, asset: str) -> Party | None:
    if name is None:
        return None
    party = found.get((name, asset))
    if party is None:
        raise AccountNotFound(account=name)
    if party.asset != asset:
        raise WrongAsset(account=party.name, account_asset=party.asset, asset=asset)
    return party


_rails: dict[tuple[str, int], Psp] = {}


def rail_of(name: str, settings: Settings) -> Psp:
    """The adapter of a rail, opened once. Raises UnknownRail or PspMisconfigured."""
    key = (name, id(settings))
    if key not in _rails:
        _rails[key] = open_psp(name, settings)
    return _rails[key]


def _known(rail: str, settings: Settings) -> bool:
    """True for the rail of a PSP that can be opened; the others are refused when their drafts are laid out."""
    try:
        return rail != BOOK and rail_of(rail, settings) is not None
    except Rejected:
        return False
