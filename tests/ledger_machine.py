"""A state machine does to the ledger what its users, its operators and bad luck do, in any order, and at once.

Each rule is one round: something is asked, some of it at the same time, and then all books are compared with the oracle
(ledger_world.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, ExitStack
from datetime import timedelta
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from pasys.config import Settings
from pasys.domain.ledger import Kind, Purpose, Result
from pasys.errors import DatabaseUnavailable, OutcomeUnknown
from pasys.service import ledger
from tests.ledger_killed import POINTS, Doomed, Orders
from tests.ledger_kit import direct
from tests.ledger_shape import Shape
from tests.ledger_world import ASSETS, Asked, Changed, Stop, Tally, World, with_
from tests.support import owning

SHAPES = st.builds(
    Shape,
    lag_from=st.sampled_from([1, 1, 40, 1_000]),
    lag_max=st.sampled_from([8, 64, 99_999]),
    copy_from=st.sampled_from([1, 20, 2_000]),
    accounts_max=st.sampled_from([4, 1_000_000]),
    holds_max=st.sampled_from([3, 100_000]),
    wary=st.sampled_from([0, 1, 8]),
    group_max=st.sampled_from([16, 8_192]),
    partition_rows=st.sampled_from([40, 400, 1_000_000]),
    skew_s=st.sampled_from([0, 0, 7]),
    huge=st.sampled_from([0.0, 0.0, 0.003]),
    idle_ms=st.sampled_from([2, 60_000]),
)
asset, which = st.sampled_from(ASSETS), st.integers(0, 1)
some, few = st.sampled_from([1, 3, 20, 60, 120]), st.integers(1, 12)
sizes = st.lists(few, min_size=1, max_size=3)
WANTED = st.sampled_from(["frozen", "active", "active", "closed", 0, 1, 1, 2, 3])


class LedgerMachine(RuleBasedStateMachine):
    """Needs `spaces`, which makes databases, and `tally`; a subclass has them."""

    spaces: ClassVar[Callable[[], AbstractContextManager[Settings]]]
    tally: ClassVar[Tally]

    def __init__(self) -> None:
        super().__init__()
        self._open = ExitStack()
        self._world: World | None = None
        self._well = True
        self._cut = 0  # connections that were cut, and that nobody has met yet

    @property
    def world(self) -> World:
        assert self._world is not None
        return self._world

    @initialize(shape=SHAPES, seed=st.integers(0, 2**32))
    def begin(self, shape: Shape, seed: int) -> None:
        patch = self._open.enter_context(pytest.MonkeyPatch.context())
        shape.put_on(patch)
        settings = self._open.enter_context(type(self).spaces())
        self._runner = self._open.enter_context(asyncio.Runner(loop_factory=asyncio.new_event_loop))
        self._world = World(settings, shape, seed, type(self).tally)
        self._do(self.world.open())

    def teardown(self) -> None:
        try:
            if self._world is not None:
                self._do(self.world.close(well=self._well))
        finally:
            self._open.close()

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        async def within() -> Any:
            async with asyncio.timeout(20):
                return await work

        try:
            return self._runner.run(within())
        except BaseException:
            self._well = False
            raise

    # Posting ----------------------------------------------------------------------------------------------------------

    @rule(asset=asset, which=which, size=some, plain=st.integers(0, 3))
    def post(self, asset: str, which: int, size: int, plain: int) -> None:
        """One poster posts a batch."""

        async def go() -> None:
            await self._settle([await self.world.by_poster(which, self.world.batch(asset, size, plain=not plain))])

        self._do(go())

    @rule(asset=asset, which=which, size=few, times=st.integers(2, 4))
    def post_on_and_on(self, asset: str, which: int, size: int, times: int) -> None:
        """One poster, several batches behind each other: one is judged while the other is written."""
        batches = [self.world.batch(asset, size) for _ in range(times)]
        self._do(self._at_once([self.world.by_poster(which, batch) for batch in batches]))

    @rule(asset=asset, which=which, size=some)
    def call(self, asset: str, which: int, size: int) -> None:
        """Many callers of one poster, with a transfer each, some of them with the same."""
        batch = [with_(transfer, linked=False) for transfer in self.world.batch(asset, size)]
        self._do(self._at_once([self.world.by_caller(which, transfer) for transfer in batch + batch[:3]]))

    @rule(size=some, both=st.booleans())
    def post_in_a_unit(self, size: int, both: bool) -> None:
        """A unit posts a batch, perhaps of two assets."""
        batch = self.world.batch("EUR", size) + (self.world.batch("USD", size) if both else [])

        async def go() -> None:
            asked = await self.world.by_unit(batch)
            assert asked.error is None
            await self.world.settle([asked])

        self._do(go())

    @rule(which=which, size=some, both=st.booleans(), back=st.booleans(), plain=st.booleans())
    def post_in_a_unit_by_memory(self, which: int, size: int, both: bool, back: bool, plain: bool) -> None:
        """A unit posts through a poster, perhaps in two assets, and is perhaps rolled back; others come behind it."""
        world = self.world
        batch = world.batch("EUR", size, plain=plain) + (world.batch("USD", size, plain=plain) if both else [])
        works = [world.by_both(which, batch, back=back), world.by_poster(which, world.batch("EUR", 3))]
        works += [world.by_both(which, world.batch("EUR", 3)), world.by_both(which, world.batch("USD", 3))]
        self._do(self._at_once(works))

    @rule(asset=asset, size=few)
    def refuse(self, asset: str, size: int) -> None:
        """A unit that raises at the first refusal writes nothing; one without a refusal writes all."""

        async def go() -> None:
            asked = await self.world.by_unit(self.world.batch(asset, size), refuse=True)
            if asked.answers is not None:
                assert {result for result, _, _ in asked.answers} == {Result.ACCEPTED}
            await self.world.settle([asked])

        self._do(go())

    @rule(
        size=few, sizes=st.lists(few, min_size=1, max_size=3), back=st.booleans(), changes=st.lists(WANTED, max_size=2)
    )
    def post_at_once(self, size: int, sizes: list[int], back: bool, changes: list[str | int]) -> None:
        """Both posters, units, with a poster and without, some that are rolled back, and an operator, over both assets
        at the same time."""
        world = self.world
        works = [world.by_poster(which, world.batch(asset, size)) for which in (0, 1) for asset in ASSETS]
        works += [world.by_unit(world.batch("EUR", n) + world.batch("USD", n)) for n in sizes]
        works += [world.by_both(n % 2, world.batch("EUR", n) + world.batch("USD", n)) for n in sizes]
        if back:
            works += [world.by_unit(world.batch("USD", size), back=True)]
            works += [world.by_both(0, world.batch("EUR", size) + world.batch("USD", size), back=True)]
        twice = world.batch("USD", size)
        works += [world.by_poster(0, twice), world.by_poster(1, twice)]
        changed = [self._change(ASSETS[i % 2], wanted) for i, wanted in enumerate(changes)]
        self._do(self._at_once(works, [world.change(one, alone=False) for one in changed]))

    @rule(which=which)
    def post_one_id_in_two_assets(self, which: int) -> None:
        """Of one id that is posted in two assets at once, one is recorded and the other is a conflict."""
        world = self.world
        one, other = (world.batch(asset, 1)[0] for asset in ASSETS)
        other = direct(other.debit, other.credit, 5, asset="USD", id=one.id)
        works = [world.by_poster(which, [one]), world.by_poster(1 - which, [other])]
        self._do(self._at_once(works))

    # Operators --------------------------------------------------------------------------------------------------------

    @rule(asset=asset, wanted=WANTED)
    def change(self, asset: str, wanted: str | int) -> None:
        """An account is frozen, unfrozen, closed or gets other limits, where the oracle does not refuse it."""

        async def go() -> None:
            changed = await self.world.change(self._change(asset, wanted), alone=True)
            await self.world.settle([], [changed])

        self._do(go())

    def _change(self, asset: str, wanted: str | int) -> Changed:
        accounts = self.world.models[asset].accounts
        own = [number for number, one in accounts.items() if one.asset == asset][1:]
        return Changed(asset, self.world.random.choice(own), wanted)

    @rule(asset=asset, flags=st.sampled_from([0, 1, 1, 2]))
    def open_account(self, asset: str, flags: int) -> None:
        """An account is opened, and funded by its first transfer."""

        async def go() -> None:
            number = await self.world.open_account(asset, flags=flags)
            source = self.world.batches[asset].accounts[0]
            funds = direct(source, number, 100, asset=asset, purpose=Purpose.DEPOSIT)
            await self._settle([await self.world.by_poster(0, [funds])])

        self._do(go())

    @rule(seconds=st.sampled_from([1, 4, 6, 30, 60]))
    def pass_time(self, seconds: int) -> None:
        """Deadlines come nearer."""
        self.world.now += timedelta(seconds=seconds)

    @rule(asset=asset, which=which)
    def expire(self, asset: str, which: int) -> None:
        """The holds that are past their deadline are listed, and voided."""
        world = self.world

        async def go() -> None:
            async with world.db.unit(now=world.now) as unit:
                listed = await ledger.expired_holds(unit, 1_000)
            known = [hold for model in world.models.values() for hold in model.holds.values()]
            late = [hold for hold in known if hold.expires_at is not None and hold.expires_at <= world.now]
            assert {hold.id for hold in listed} == {hold.id for hold in late}
            voids = [
                direct(hold.debit, hold.credit, hold.amount_minor, asset=asset, kind=Kind.VOID, pending_id=hold.id)
                for hold in listed
                if hold.asset == asset
            ]
            if voids:
                asked = await world.by_poster(which, voids)
                assert asked.error or {result for result, _, _ in asked.answers or []} == {Result.ACCEPTED}
                await self._settle([asked])

        self._do(go())

    @rule()
    def rest(self) -> None:
        """Nobody comes, and the posters bring the account rows up to date."""

        async def go() -> None:
            await asyncio.sleep(0.02)
            await self.world.check()

        self._do(go())

    @rule(asset=asset)
    def project(self, asset: str) -> None:
        """Somebody else brings the account rows up to date."""

        async def go() -> None:
            async with self.world.db.unit() as unit:
                await ledger.project(unit, asset)
            await self.world.check()

        self._do(go())

    @rule(which=which)
    def restart(self, which: int) -> None:
        """A poster goes, and another comes."""

        async def go() -> None:
            await self.world.posters[which].__aexit__()
            self.world.posters[which] = self.world.poster(which)

        self._do(go())

    @rule()
    def prove(self) -> None:
        """In the middle of it all the books verify."""
        self._do(self.world.prove())

    # Bad luck ---------------------------------------------------------------------------------------------------------

    @rule(asset=asset, which=which, sizes=sizes, wait_ms=st.sampled_from([0, 1, 2, 4]))
    def cut(self, asset: str, which: int, sizes: list[int], wait_ms: int) -> None:
        """The connections of the posters are cut at any moment; who asks again with the same ids gets the truth."""
        world = self.world
        batches = [world.batch(asset, size) for size in sizes]

        async def go() -> None:
            tasks = [asyncio.create_task(world.by_poster(which, batch)) for batch in batches]
            await asyncio.sleep(wait_ms / 1_000)
            await self._end_backends()
            await self._settle([await task for task in tasks])

        self._do(go())

    @rule(
        asset=asset,
        sizes=sizes,
        at_once=st.booleans(),
        by=st.sampled_from(["poster", "unit", "both"]),
        point=st.sampled_from(POINTS),
        nth=st.integers(1, 3),
    )
    def kill(self, asset: str, sizes: list[int], at_once: bool, by: str, point: str, nth: int) -> None:
        """A process that posts is killed with SIGKILL; what it was answered is there, and the rest wholly or not."""
        world = self.world
        batches = [world.batch(asset, size) for size in sizes]
        orders = Orders(batches, at_once and by != "unit", by, point, min(nth, len(sizes)), world.now)

        async def go() -> None:
            mine = await self._backends()
            doomed = await (self._killed_waiting(orders, asset) if point == "waiting" else self._killed(orders))
            while await self._backends() - mine:  # a server that has a query in hand finishes it
                await asyncio.sleep(0.002)
            world.tally.seen[f"kill {point}" if doomed.killed else "kill not reached"] += 1
            await self._settle(doomed.asked)

        self._do(go())

    async def _killed(self, orders: Orders) -> Doomed:
        doomed = Doomed(self.world.settings, self.world.shape, orders)
        await asyncio.to_thread(doomed.hear)
        return doomed

    async def _killed_waiting(self, orders: Orders, asset: str) -> Doomed:
        """It waits for the lock of its asset, in the middle of a call; the lock is free only when it is dead."""
        waits = "select count(*) from pg_locks where not granted"
        async with self.world.db.unit() as unit:
            await unit.rows("select from asset where code = %(code)s for update", code=asset)
            doomed = Doomed(self.world.settings, self.world.shape, orders)
            while not doomed.ended and not await unit.value(waits):
                await asyncio.sleep(0.002)
            doomed.kill()
            await asyncio.to_thread(doomed.hear)
        return doomed

    async def _backends(self) -> set[int]:
        async with self.world.db.unit() as unit:
            rows = await unit.rows("select pid from pg_stat_activity where datname = current_database()")
        return {row.pid for row in rows}

    async def _end_backends(self) -> None:
        """End the posters' connections, and wait until what they had in hand is done or undone."""
        ours = "pg_stat_activity where application_name = 'pasys poster' and datname = current_database()"
        async with owning(self.world.db) as unit:
            ended = [row.pid for row in await unit.rows(f"select pid, pg_terminate_backend(pid) from {ours}")]
        self._cut += len(ended)
        while ended and set(ended) & await self._backends():
            await asyncio.sleep(0.002)

    # Together ---------------------------------------------------------------------------------------------------------

    async def _at_once(
        self, works: list[Coroutine[Any, Any, Asked]], changes: list[Coroutine[Any, Any, Changed]] | None = None
    ) -> None:
        changing = asyncio.gather(*(changes or []))
        asks = await asyncio.gather(*works)
        await self._settle(list(asks), list(await changing))

    async def _settle(self, asks: list[Asked], changes: list[Changed] | None = None) -> None:
        """Compare what is there; then ask again for all that is lost, until it has an answer."""
        await self.world.settle(asks, changes)
        self._forgive(asks)
        for asked in (asked for asked in asks if asked.lost and asked.answers is None):
            again = asked
            while again.answers is None:
                several = len({transfer.asset for transfer in asked.batch}) > 1
                ask = self.world.by_both if several else self.world.by_poster
                again = await ask(self.world.random.randint(0, 1), asked.batch)
                await self.world.settle([again])
                self._forgive([again])

    def _forgive(self, asks: list[Asked]) -> None:
        """Only those fail who meet a connection that was cut, and units that want to."""
        assert not [asked.error for asked in asks if not asked.lost and not isinstance(asked.error, Stop | None)]
        errors = [asked.error for asked in asks if asked.lost and asked.error is not None]
        for error in errors:
            assert isinstance(error, DatabaseUnavailable | OutcomeUnknown) and self._cut, error
        self._cut -= bool(errors)
