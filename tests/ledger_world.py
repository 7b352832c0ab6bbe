"""Real books beside the oracle's: what was asked at once is put into the order of the journal, and compared with it.

Whatever happens at once, the journal says in which order it happened. So the oracle gets the same batches in that
order, each at the time at which it was recorded, and then every answer, row, account and hold must be the oracle's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from pasys.config import Settings
from pasys.db import Database, Unit
from pasys.domain.ledger import Kind, Posted, Purpose, Result, Transfer
from pasys.domain.ledger_columns import Columns
from pasys.errors import PasysError
from pasys.ids import account_id
from pasys.service import account, ledger
from pasys.service.ledger_poster import Poster
from tests.ledger_batches import Batches, one_by_one
from tests.ledger_kit import T0, direct, unsealed
from tests.ledger_model import Model, ModelAccount, ModelRow
from tests.ledger_shape import Shape
from tests.support import owning

ASSETS = ("EUR", "USD")
USERS = 6
FLAGS = (1, 1, 1, 0, 2, 3)
COUNTERS = ("version", "debits_pending", "debits_posted", "credits_pending", "credits_posted")
SIDES = ("debit_version", "credit_version", "debit_balance", "credit_balance")
Answer = tuple[Result, bool, int]


@dataclass
class Asked:
    """A batch that somebody asked for: its answers, or what went wrong, and whether it may be in the journal then."""

    batch: list[Transfer]
    answers: list[Answer] | None = None
    error: BaseException | None = None
    lost: bool = True  # after an error the outcome is unknown; a unit that raised has left no row

    def part(self, asset: str) -> tuple[list[Transfer], list[Answer] | None]:
        """What it asks of one asset, with the answers."""
        at = [i for i, transfer in enumerate(self.batch) if transfer.asset == asset]
        return [self.batch[i] for i in at], self.answers and [self.answers[i] for i in at]


@dataclass
class Changed:
    """An account that was changed, or not, when the asset's journal ended at `after_seq`."""

    asset: str
    number: int
    wanted: str | int
    after_seq: int = -1
    epoch: int = 0
    refused: str | None = None


@dataclass
class Tally:
    """What all worlds of a run came to."""

    operations: int = 0
    seen: Counter[str] = field(default_factory=Counter)

    def add(self, *what: str) -> None:
        self.operations += 1
        self.seen.update(what)


class Stop(Exception):
    """A unit that thinks better of it."""


class World:
    """One database, two posters and any number of units on it, and the oracle of each asset."""

    def __init__(self, settings: Settings, shape: Shape, seed: int, tally: Tally) -> None:
        self.settings, self.shape, self.tally = settings, shape, tally
        self.now = T0
        self.models = {asset: Model(asset) for asset in ASSETS}
        for model in self.models.values():
            model.others = [other for other in self.models.values() if other is not model]
            model.taken = self.models[ASSETS[0]].taken
        self.batches = {asset: Batches(seed + i, [], asset, huge=shape.huge) for i, asset in enumerate(ASSETS)}
        self.random = self.batches["USD"].random
        self.recorded: dict[str, list[Transfer]] = {asset: [] for asset in ASSETS}
        self.db = Database(settings, connections_max=8)
        self.posters: list[Poster] = []
        self._checks = 0

    async def open(self) -> None:
        async with owning(self.db) as unit:
            name = await unit.value("select current_database()")
            await unit.rows(f"alter database {name} set pasys.partition_rows = '{self.shape.partition_rows}'")
        await self.db.close()  # so that every connection has it
        for asset in ASSETS:
            await self.open_account(asset, name="external:deposits")
            for flags in FLAGS[:USERS]:
                await self.open_account(asset, flags=flags)
        for model in self.models.values():
            foreign = next(iter(model.others[0].accounts))
            model.accounts[foreign] = ModelAccount(model.others[0].asset)
        self.posters = [self.poster(0), self.poster(1)]
        for asset in ASSETS:
            await self.settle([await self.by_unit(self.funding(asset))])

    async def close(self, *, well: bool) -> None:
        """`well`: nothing was wrong until now."""
        for poster in self.posters:
            await poster.__aexit__()
        if well:
            await self.check()
            await self.prove()
        await self.db.close()

    def poster(self, which: int) -> Poster:
        def clock() -> datetime:
            return self.now - timedelta(seconds=self.shape.skew_s * which)

        return Poster(self.db, group_max=self.shape.group_max, now=clock)

    # What is asked ----------------------------------------------------------------------------------------------------

    def funding(self, asset: str) -> list[Transfer]:
        source, *own = self.batches[asset].accounts
        return [direct(source, number, 300, asset=asset, purpose=Purpose.DEPOSIT) for number in own]

    def batch(self, asset: str, size: int, *, plain: bool = False) -> list[Transfer]:
        """A random batch; now and then it names an id, a hold or an account of the other asset.

        `plain` ones come by COPY.
        """
        made = self.batches[asset].batch(size, self.now)
        other = self.models[asset].others[0]
        theirs = self.recorded[other.asset]
        for i, transfer in enumerate(made):
            if theirs and self.random.random() < 0.02:
                name = "id" if transfer.pending_id is None else "pending_id"
                made[i] = with_(transfer, **{name: self.random.choice(theirs[-50:]).id})
            elif self.random.random() < 0.005:
                made[i] = with_(transfer, credit=next(iter(other.accounts)))
        if plain:
            bare = {"kind": Kind.DIRECT, "linked": False, "pending_id": None, "corrects": None, "expires_at": None}
            made = [with_(transfer, **bare, reference=None) for transfer in made]
        return made

    async def by_poster(self, which: int, batch: list[Transfer]) -> Asked:
        asked = Asked(batch)
        try:
            answers = one_by_one(await self.posters[which].post_many(Columns.of(batch)))
            asked.answers = [(Result(result), replayed, seq) for result, replayed, seq in answers]
        except PasysError as error:
            asked.error = error
        return asked

    async def by_caller(self, which: int, transfer: Transfer) -> Asked:
        asked = Asked([transfer])
        try:
            asked.answers = _answers([await self.posters[which].post(transfer)])
        except PasysError as error:
            asked.error = error
        return asked

    async def by_unit(self, batch: list[Transfer], *, refuse: bool = False, back: bool = False) -> Asked:
        """`back`: the unit posts, and is rolled back."""
        asked = Asked(batch, lost=False)
        try:
            async with self.db.unit(now=self.now) as unit:
                answers = await ledger.post(unit, batch, refuse=refuse)
                if back:
                    raise Stop
            asked.answers = _answers(answers)
        except (PasysError, Stop) as error:
            asked.error = error
        return asked

    async def by_both(self, which: int, batch: list[Transfer], *, back: bool = False) -> Asked:
        """A unit posts through a poster. `back`: and is rolled back."""
        asked = Asked(batch)
        try:
            async with self.db.unit(now=self.now) as unit:
                answers = await post_in(unit, self.posters[which], batch)
                if back:
                    raise Stop
            asked.answers = answers
        except (PasysError, Stop) as error:
            asked.error, asked.lost = error, not isinstance(error, Stop)
        return asked

    async def change(self, changed: Changed, *, alone: bool) -> Changed:
        """Change an account. Where others post meanwhile, the asset is locked first, to learn the place."""
        try:
            async with self.db.unit(now=self.now) as unit:
                if not alone:
                    await ledger.project(unit, changed.asset)
                    await self._place(unit, changed)
                await _change(unit, changed)
                await self._place(unit, changed)
        except PasysError as error:
            changed.refused = type(error).__name__
        if changed.after_seq < 0:
            changed.after_seq = len(self.models[changed.asset].journal)
        return changed

    async def _place(self, unit: Unit, changed: Changed) -> None:
        row = await unit.row("select last_seq, epoch from asset where code = %(code)s", code=changed.asset)
        changed.after_seq, changed.epoch = row.last_seq, row.epoch

    async def open_account(self, asset: str, *, flags: int = 0, name: str | None = None) -> int:
        model = self.models[asset]
        async with self.db.unit(now=self.now) as unit:
            if name is not None:
                number = await account.system(unit, name, asset)
            else:
                limits: dict[str, Any] = {"type": "merchant", "debits_must_not_exceed_credits": bool(flags & 1)}
                limits["credits_must_not_exceed_debits"] = bool(flags & 2)
                row = await account.open(unit, name=f"user_{len(model.accounts)}", asset=asset, **limits)
                number = row.number
        model.accounts[number] = ModelAccount(asset, flags)
        self.batches[asset].accounts.append(number)
        return number

    # What became of it ------------------------------------------------------------------------------------------------

    async def settle(self, asks: list[Asked], changes: list[Changed] | None = None) -> None:
        """Tell the oracle what was asked, in the order of the journal, and compare everything."""
        rows = {asset: await self._new_rows(asset) for asset in ASSETS}
        taken = self.models[ASSETS[0]].taken
        taken.update({row.id: asset for asset in ASSETS for row in rows[asset]})
        for asset in ASSETS:
            self._settle(asset, rows[asset], asks, [one for one in changes or [] if one.asset == asset])
        for asked in asks:
            self._count(asked)
        for changed in changes or []:
            self.tally.add("change", f"change {changed.refused or changed.wanted}")
        await self.check()

    def _settle(self, asset: str, rows: list[Any], asks: list[Asked], changes: list[Changed]) -> None:
        model = self.models[asset]
        before = len(model.journal)
        time_of = {row.seq: row.recorded_at for row in rows}
        events: list[tuple[tuple[int, int, int], Callable[[], None]]] = []
        owned: dict[UUID, int] = {}
        for asked in sorted(asks, key=lambda asked: asked.answers is None):  # what is known first
            seqs = self._seqs(asset, asked, rows, owned)
            at = min(seqs, default=10**9)
            events.append(((at, 0, 0), lambda asked=asked, at=at: _tell(model, asked, time_of.get(at))))
        for one in changes:
            events.append(((one.after_seq, 1, one.epoch), lambda one=one: _tell_change(model, one)))
        for _, tell in sorted(events, key=lambda event: event[0]):
            tell()
        wanted = model.journal[before:]
        assert [_row(row) for row in rows] == [_wanted(asset, row) for row in wanted]
        self.recorded[asset] += [row.transfer for row in wanted]

    def _seqs(self, asset: str, asked: Asked, rows: list[Any], owned: dict[UUID, int]) -> list[int]:
        """The rows that belong to a batch: those of its answers, or where they are unknown, of its ids."""
        batch, answers = asked.part(asset)
        if answers is not None:
            mine = {t.id: seq for t, (_, again, seq) in zip(batch, answers, strict=True) if seq and not again}
        elif asked.lost:
            ids = {t.id for t in batch}
            mine = {row.id: row.seq for row in rows if row.id in ids and row.id not in owned}
        else:
            mine = {}
        assert not owned.keys() & mine.keys(), "one id, recorded for two"
        owned |= mine
        return list(mine.values())

    def _count(self, asked: Asked) -> None:
        for i, transfer in enumerate(asked.batch):
            said = "unknown" if asked.answers is None else asked.answers[i][0].rule
            again = asked.answers is not None and asked.answers[i][1]
            named = (transfer.kind.name.lower(), "replayed" if again else said, *["linked"] * transfer.linked)
            self.tally.add(*named)

    async def _new_rows(self, asset: str) -> list[Any]:
        async with self.db.unit() as unit:
            rows = "select * from transfer where asset = %(asset)s and seq > %(seq)s order by seq"
            return await unit.rows(rows, asset=asset, seq=len(self.models[asset].journal))

    # What must be so --------------------------------------------------------------------------------------------------

    async def check(self) -> None:
        """Accounts as everybody reads them, open holds and the heads of the books are the oracle's."""
        async with self.db.unit() as unit:
            rows = {row.id: row for row in await unit.rows("select * from account_now")}
            some = sorted(rows)[self._checks % 2 :: 2]  # the others are their counterparties
            self._checks += 1
            alone = await unit.rows("select * from account_state(%(some)s) order by id", some=some)
            holds = await unit.rows("select * from hold order by id")
            heads = {row.code: row.last_seq for row in await unit.rows("select code, last_seq from asset")}
        assert alone == [rows[number] for number in some]
        for asset, model in self.models.items():
            own = {number: one for number, one in model.accounts.items() if one.asset == asset}
            found = {number: _account(rows[number]) for number in own}
            assert found == {n: (one.status, one.flags, *_counters(one)) for n, one in own.items()}
            assert heads[asset] == len(model.journal)
        known = [hold for model in self.models.values() for hold in model.holds.values()]
        assert [(h.id, h.asset, h.debit, h.credit, h.amount, h.expires_at, h.reference) for h in holds] == sorted(
            (h.id, h.asset, h.debit, h.credit, h.amount_minor, h.expires_at, h.reference) for h in known
        )

    async def prove(self) -> None:
        """The books verify, every row is sealed, and no account row is ahead of the journal."""
        async with self.db.unit() as unit:
            assert (await ledger.verify(unit)).findings == []
            for asset in ASSETS:
                assert await unsealed(unit, asset) == []
            keys = await unit.rows("select id, asset, seq from transfer_key order by id")
        journal = [(r.transfer.id, asset, r.seq) for asset, model in self.models.items() for r in model.journal]
        assert [tuple(key) for key in keys] == sorted(journal)


def _tell(model: Model, asked: Asked, at: datetime | None) -> None:
    batch, answers = asked.part(model.asset)
    if not batch or (answers is None and at is None):
        return  # it has left nothing, and may: nobody was told otherwise
    length = len(model.journal)
    wanted = model.post(batch, at or T0)
    assert answers is None or answers == wanted
    assert at is not None or len(model.journal) == length, "an answer without its row"


def _tell_change(model: Model, one: Changed) -> None:
    assert model.change(one.number, one.wanted) == one.refused


async def _change(unit: Unit, changed: Changed) -> None:
    name = account_id(changed.number)
    if isinstance(changed.wanted, int):
        limits = {
            "debits_must_not_exceed_credits": bool(changed.wanted & 1),
            "credits_must_not_exceed_debits": bool(changed.wanted & 2),
        }
        await account.change_limits(unit, name, **limits)
        return
    verb = {"frozen": account.freeze, "active": account.unfreeze, "closed": account.close}[changed.wanted]
    await verb(unit, name)


async def post_in(unit: Unit, poster: Poster, batch: Sequence[Transfer]) -> list[Answer]:
    """What a batch, perhaps of several assets, is answered through a poster."""
    answers: dict[int, Answer] = {}
    assets = {transfer.asset for transfer in batch}
    if len(assets) > 1:
        await ledger.lock(unit, assets)
    for asset in sorted(assets):
        at = [i for i, transfer in enumerate(batch) if transfer.asset == asset]
        found = one_by_one(await poster.post_in(unit, Columns.of([batch[i] for i in at])))
        answers.update({i: (Result(result), *more) for i, (result, *more) in zip(at, found, strict=True)})
    return [answers[i] for i in range(len(batch))]


def _answers(posted: list[Posted]) -> list[Answer]:
    return [(one.result, one.replayed, one.seq) for one in posted]


def with_(transfer: Transfer, **values: Any) -> Transfer:
    return type(transfer)(**({name: getattr(transfer, name) for name in transfer.__slots__} | values))


def _account(row: Any) -> tuple[Any, ...]:
    return (row.status, row.flags, *_counters(row))


def _counters(one: Any) -> list[int]:
    return [getattr(one, name) for name in COUNTERS]


def _row(r: Any) -> tuple[Any, ...]:
    """A row of the journal as it is compared; all of it but the seal."""
    asked = (r.asset, r.seq, r.id, r.debit, r.credit, r.amount, r.kind, r.code, r.pending_id, r.corrects, r.reference)
    return (*asked, r.result, *(getattr(r, side) for side in SIDES), r.effective_at, r.recorded_at, r.expires_at)


def _wanted(asset: str, row: ModelRow) -> tuple[Any, ...]:
    t = row.transfer
    asked = (t.debit, t.credit, t.amount_minor, t.kind, t.purpose, t.pending_id, t.corrects, t.reference)
    return (asset, row.seq, t.id, *asked, row.result, *row.sides, t.effective_at or row.at, row.at, t.expires_at)
