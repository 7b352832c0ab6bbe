"""One run: payments and refunds while the PSP misbehaves and the worker dies; then everything is final, and right.

A seed decides everything but the clock: the point, the number of the passage, the payments, the PSP's faults.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from pasys.bus import Bus
from pasys.config import Settings
from pasys.db import Database
from pasys.domain.transaction import Kind
from pasys.errors import NothingToResolve, RefundNotPossible, RefundTooLarge
from pasys.money import Money
from pasys.service import account, refund, refund_unknown, settlement, transaction
from tests.faults_invariants import unfinished, unknown_attempts, violations, what_is_unfinished
from tests.faults_points import NEEDS_DOUBT, POINTS, Kill
from tests.faults_worker import Worker
from tests.simulator_process import KEY, SECRET, Simulator, free_port

DOOMED_S = 6.0  # so long a worker may take to reach its point
FINAL_S = 45.0
ASK_EVERY_S = 0.6
POLL_S = 0.06
WALK_IN = "walk-in"
CARDS = ("pm_card_visa",) * 7 + ("pm_card_visa_chargeDeclined", "pm_card_pendingRefund", "pm_card_visa_debit")


@dataclass(frozen=True)
class Pay:
    """One payment, and what is asked back of it once it has succeeded, as shares of a hundred."""

    amount_minor: int
    card: str
    refunds: tuple[int, ...] = ()
    spent: bool = False  # its merchant has a limit and spends the money before the refund is asked for


@dataclass(frozen=True)
class Plan:
    """What a seed stands for."""

    seed: int
    kills: tuple[Kill, ...]
    payments: tuple[Pay, ...]
    faults: tuple[dict[str, Any], ...]

    def __str__(self) -> str:
        dies = " then ".join(map(str, self.kills))
        faults = ", ".join(f"{rule['kind']} {rule.get('operation', '*')}" for rule in self.faults) or "no faults"
        return f"seed {self.seed}: {dies}; {faults}; {len(self.payments)} payments"


def plan(seed: int, *, point: tuple[str, str] | None = None, doubt: bool | None = None) -> Plan:
    """The run of a seed; points are taken in turn, everything else is drawn."""
    draw = random.Random(seed)
    point = point or POINTS[seed % len(POINTS)]
    kills = [_kill(draw, *point)]
    if draw.random() < 0.3:
        kills.append(_kill(draw, *draw.choice(POINTS)))
    faults = _faults(draw, certain=point[1] in NEEDS_DOUBT if doubt is None else doubt, about=point[1])
    payments = [_payment(draw, index) for index in range(draw.randint(4, 7))]
    return Plan(seed, tuple(kills), tuple(payments), tuple(faults))


def quiet(wanted: Plan) -> Plan:
    """The same, with a PSP that works, and one death only."""
    return dataclasses.replace(wanted, faults=(), kills=(dataclasses.replace(wanted.kills[0], nth=1),))


def _kill(draw: random.Random, name: str, where: str) -> Kill:
    return Kill(name, where, draw.choice((1, 1, 1, 1, 2)), draw.uniform(0.0, 0.02))


def _payment(draw: random.Random, index: int) -> Pay:
    amount_minor = draw.randint(200, 20_000)
    if index == 0:  # every run has one that is refunded, one that is declined, and a refund that is refused
        return Pay(amount_minor, "pm_card_visa", (40,))
    if index == 1:
        return Pay(amount_minor, "pm_card_visa_chargeDeclined")
    if index == 2:
        return Pay(amount_minor, "pm_card_visa", (100,), spent=True)
    return Pay(amount_minor, draw.choice(CARDS), draw.choice(((), (100,), (30, 70), (60, 60), (50, 25))))


def _faults(draw: random.Random, *, certain: bool, about: str) -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = []
    if certain:
        operation = "refunds.create" if about.startswith("refund") else "payment_intents.*"
        rules.append({**_call_fault(draw), "operation": operation, "rate": 1.0, "times": draw.randint(2, 4)})
    for _ in range(draw.choice((0, 1, 1, 2))):
        rules.append(_call_fault(draw))
    if draw.random() < 0.5:
        kind = draw.choice(("webhook_lost", "webhook_duplicated", "webhook_delayed"))
        rules.append({"kind": kind, "rate": 0.5, "delay_s": 0.2, "seed": draw.randrange(1_000)})
    return rules


def _call_fault(draw: random.Random) -> dict[str, Any]:
    kind = draw.choice(
        ("delay", "timeout_before", "timeout_after", "error_before", "error_after", "disconnect_before",
         "disconnect_after")
    )  # fmt: skip
    operation = draw.choice(
        ("*", "payment_intents.create", "payment_intents.capture", "refunds.create", "payment_intents.*")
    )
    rule: dict[str, Any] = {"kind": kind, "operation": operation, "rate": draw.choice((0.3, 0.6, 1.0))}
    rule |= {"times": draw.randint(1, 3), "seed": draw.randrange(1_000)}
    if kind == "delay":
        rule |= {"delay_s": draw.choice((0.02, 0.1, 0.6))}
    if kind.startswith("error_"):
        rule |= {"status": draw.choice((500, 500, 502, 503, 504))}
    return rule


@dataclass
class Seen:
    """What a run came to."""

    wrong: list[str]
    died_at: list[str]
    missed: list[str]
    seconds: float


@dataclass
class Place:
    """A database, streams, a PSP and a merchant of one's own, on which runs follow each other."""

    settings: Settings
    simulator: Simulator
    db: Database
    bus: Bus
    runs: int = 0
    _asked: dict[str, float] = field(default_factory=dict)
    _worker: Worker | None = None

    @classmethod
    async def open(cls, settings: Settings, simulator: Simulator, *, webhook_port: int | None = None) -> Place:
        """`webhook_port` is where the simulator was told to send its webhooks."""
        chosen = settings_for(settings, simulator, webhook_port=webhook_port or free_port())
        place = cls(chosen, simulator, Database(chosen, connections_max=4), await Bus(chosen).connect())
        async with place.db.unit() as unit:
            await account.open(unit, name="shop", type="merchant", asset="USD")
            await account.open(unit, name=WALK_IN, type="customer", asset="USD")
        return place

    async def close(self) -> None:
        if self._worker is not None:
            self._worker.kill()
        for stream in (self.bus.events, self.bus.dead):
            await self.bus.js.delete_stream(stream)
        await self.bus.close()
        await self.db.close()

    # One run ---------------------------------------------------------------------------------------------------------

    async def run(self, wanted: Plan) -> Seen:
        """Die as planned, then let a sound worker finish, then look."""
        began = time.monotonic()
        self.runs += 1
        await asyncio.to_thread(self.simulator.control, "PUT", "faults", list(wanted.faults))
        story = _Story(self, wanted)
        first, *others = wanted.kills
        died_at: list[str] = []
        missed: list[str] = []
        self._alive().die_at(first)
        await story.create()
        for kill in (first, *others):
            (died_at if await self._until_dead(story, kill) else missed).append(f"{kill.point}@{kill.where}")
        wrong = await self._finish(story)
        await asyncio.to_thread(self.simulator.control, "DELETE", "faults")  # or they would strike who looks
        if not wrong:
            wrong = await violations(self.db, self.simulator, kept=frozenset({WALK_IN}))
            parked = (await self.bus.js.stream_info(self.bus.dead)).state.messages
            wrong += [f"{parked} messages are parked"] if parked else []
        return Seen(wrong, died_at, missed, time.monotonic() - began)

    def _alive(self) -> Worker:
        """The worker of the run before, when it did not have to die, or a new one."""
        if self._worker is None or not self._worker.alive:
            self._worker = Worker(self.settings, webhooks=True)
        return self._worker

    async def _until_dead(self, story: _Story, kill: Kill) -> bool:
        """Whether the worker got to its point before there was nothing left to do."""
        doomed = self._alive()
        doomed.die_at(kill)
        deadline = time.monotonic() + DOOMED_S
        done = False
        while doomed.alive and not done and time.monotonic() < deadline:
            done = await story.go_on() and await self._idle()
            await asyncio.sleep(POLL_S)
        if doomed.alive:
            doomed.die_at(None)
            return False
        assert doomed.killed, f"the worker ended by itself with {doomed.process.exitcode}"
        return True

    async def _finish(self, story: _Story) -> list[str]:
        deadline = time.monotonic() + FINAL_S
        while not (await story.go_on() and await self._idle()):
            worker = self._alive()
            await self.ask_again()
            await asyncio.sleep(POLL_S)
            if not worker.alive and not worker.killed:
                return [f"a sound worker ended with {worker.process.exitcode}"]
            if time.monotonic() > deadline:
                return [f"not final within {FINAL_S:g} s", await what_is_unfinished(self.db)]
        return []

    async def _idle(self) -> bool:
        async with self.db.unit() as unit:
            return await unfinished(unit) == 0

    async def ask_again(self) -> None:
        """What an operator does with `tx resolve`, so that no run waits for the resolver's patience."""
        now = time.monotonic()
        async with self.db.unit() as unit:
            rows = await unknown_attempts(unit)
        for row in rows:
            if now - self._asked.get(row.entity_id, 0.0) > ASK_EVERY_S:
                self._asked[row.entity_id] = now
                with contextlib.suppress(NothingToResolve):
                    async with self.db.unit() as unit:
                        await (refund_unknown if row.step == "refund" else settlement).ask_again(unit, row.entity_id)


class _Story:
    """The payments of a run, and the refunds that follow from them."""

    def __init__(self, place: Place, wanted: Plan) -> None:
        self._place = place
        self._open: dict[str, Pay] = {}
        self._wanted = wanted

    async def create(self) -> None:
        run = self._place.runs
        async with self._place.db.unit() as unit:
            for index, pay in enumerate(self._wanted.payments):
                payer = f"payer-{run}-{index}"
                await account.open(unit, name=payer, type="customer", asset="USD")
                shop = f"kiosk-{run}-{index}" if pay.spent else "shop"
                if pay.spent:
                    await account.open(
                        unit, name=shop, type="merchant", asset="USD", debits_must_not_exceed_credits=True
                    )
                draft = transaction.Draft(
                    amount=Money(pay.amount_minor, "USD"), rail="stripe", debit=payer, credit=shop,
                    payment_method=pay.card, key=f"{run}-{index}",
                )  # fmt: skip
                made = await transaction.create(unit, draft)
                assert made.transaction_id is not None
                self._open[made.transaction_id] = pay

    async def go_on(self) -> bool:
        """Ask for the refunds of what has succeeded; whether everything was asked for."""
        if not self._open:
            return True
        async with self._place.db.unit() as unit:
            rows = await unit.rows(
                "select t.id, t.status, a.name as shop from transaction t join account a on a.id = t.credit_account"
                " where t.id = any(%(ids)s::text[]) and t.status <> 'pending'",
                ids=sorted(self._open),
            )
        for row in rows:
            pay = self._open.pop(row.id)
            if row.status == "succeeded":
                await self._ask_back(row.id, pay, row.shop)
        return not self._open

    async def _ask_back(self, transaction_id: str, pay: Pay, shop: str) -> None:
        if pay.spent:
            async with self._place.db.unit() as unit:
                spend = transaction.Draft(
                    amount=Money(pay.amount_minor, "USD"), kind=Kind.TRANSFER, debit=shop, credit=WALK_IN
                )
                await transaction.create(unit, spend)
        for share in pay.refunds:
            try:
                async with self._place.db.unit() as unit:
                    amount = Money(max(pay.amount_minor * share // 100, 1), "USD")
                    await refund.request(unit, transaction_id, amount=amount)
            except (RefundTooLarge, RefundNotPossible):
                continue


def started_simulator(folder: Path, *, webhook_port: int) -> Simulator:
    """A PSP that sends its webhooks to this port, and settles slow refunds soon."""
    url = f"http://127.0.0.1:{webhook_port}/webhooks/stripe"
    return Simulator(folder, "--webhook-url", url, "--webhook-secret", SECRET, "--refund-delay-s", "0.3")


def settings_for(settings: Settings, simulator: Simulator, *, webhook_port: int) -> Settings:
    """The settings of a test, with this PSP, and impatient."""
    return msgspec.structs.replace(
        settings,
        stripe_api_key=KEY,
        stripe_api_base=simulator.url,
        stripe_webhook_secret=SECRET,
        webhook_url=f"http://127.0.0.1:{webhook_port}/webhooks/stripe",
        ack_wait_s=1.0,
        resolve_every_s=0.25,
        psp_timeout_s=0.5,
    )
