"""pasys demo: realistic traffic through the real system, to look at and to learn from."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pasys.cli.console import Noun, ask_database, say, settings, show
from pasys.cli.options import TABLE, Format, Output

if TYPE_CHECKING:
    from pasys.db import Database
    from pasys.service.import_batch import Tally, Wanted
    from pasys.service.transaction import Draft

app = Noun("demo", "Realistic traffic through the real system.")

LOOK_EVERY_S = 0.5
SAY_EVERY_S = 5.0
DRAIN_S, HURRIED_DRAIN_S = 20.0, 2.0
AT_ONCE_MAX = 4
INTERRUPTED = 130
NAMES = "ada ben cleo dan eve finn gus hana ivo june kofi lena mika noor omar pia quinn rosa sam tara uma vik wen zoe"
SHOPS = ("bakery", "books", "bikes", "flowers")
# Currency: how often, a usual price, one that a person looks at, and the step, in minor units. Cards take KWD in tens.
PRICES = {
    "USD": (40, 3_500, 620_000, 1),
    "EUR": (25, 3_200, 610_000, 1),
    "JPY": (20, 4_800, 910_000, 1),
    "KWD": (15, 11_000, 1_810_000, 10),
}
DECLINED = ("pm_card_visa_chargeDeclined", "pm_card_visa_chargeDeclinedInsufficientFunds")
DECLINED_SHARE, REVIEWED_SHARE = 0.06, 0.015
PAYMENTS_A_MINUTE_MAX = 12  # of one customer, so that the fraud check sees nothing unusual in the usual

Rate = Annotated[float, typer.Option("--rate", min=0.1, max=500.0, metavar="N", help="Payments a second, on average.")]
Seconds = Annotated[float, typer.Option("--seconds", min=1.0, max=86_400.0, metavar="N", help="How long.")]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="The same customers and prices again.")]
Share = Annotated[float, typer.Option("--refund-share", min=0.0, max=1.0, metavar="SHARE", help="That goes back.")]


@dataclass
class Seen:
    """What has happened so far. Times are from creation until the money had moved."""

    batch: str
    seconds: float = 0.0
    created: int = 0
    refused: int = 0
    tally: Tally | None = None
    examples: dict[str, str] = field(default_factory=dict)


@app.command("demo", examples="pasys demo\npasys demo --rate 20 --seconds 60\npasys demo --seed 7 --json")
def demo(
    rate: Rate = 5.0,
    seconds: Seconds = 30.0,
    seed: Seed = None,
    refund_share: Share = 0.1,
    output: Output = TABLE,
) -> None:
    """Let demo customers pay demo shops by card, with some declines, refunds and reviews, and watch. Ctrl-C ends it."""
    from pasys.cli.health import look
    from pasys.errors import StackNotRunning

    chosen = settings()
    if not look(chosen)["running"]:
        raise StackNotRunning(home=chosen.home)
    with _view(output) as view:
        traffic = ask_database(lambda db: _let_run(db, _Traffic(db, rate, refund_share, seed), seconds, view))
    facts = _summary(traffic.seen)
    show(facts, output, columns=[name for name in facts if name != "examples"] if output is TABLE else None)
    if output is TABLE:
        _advise(traffic.seen)
    if traffic.interrupted:
        raise typer.Exit(INTERRUPTED)


async def _let_run(db: Database, traffic: _Traffic, seconds: float, view: Any) -> _Traffic:
    """Let them pay for so long, or until Ctrl-C; then wait a little for what is on its way."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, traffic.interrupt, stop)
    await traffic.open_accounts()
    ends = asyncio.create_task(_after(seconds, stop))
    creating = asyncio.create_task(traffic.create_until(stop))
    try:
        while not creating.done():
            await traffic.look(view)
            await asyncio.wait({creating}, timeout=LOOK_EVERY_S)
        await creating
        traffic.seen.seconds = round(time.monotonic() - traffic.began, 1)
        await traffic.drain(view)
    finally:
        ends.cancel()
    return traffic


async def _after(seconds: float, stop: asyncio.Event) -> None:
    await asyncio.sleep(seconds)
    stop.set()


# The traffic ---------------------------------------------------------------------------------------------------------


class _Traffic:
    """Customers who pay at random moments, and some who want their money back."""

    def __init__(self, db: Database, rate: float, refund_share: float, seed: int | None) -> None:
        from pasys import ids

        self.seen = Seen(ids.new("demo"))
        self.interrupted = False
        self.began = time.monotonic()
        self._db, self._rate, self._refund_share = db, rate, refund_share
        self._dice = random.Random(seed)
        self._customers = _customers(rate)
        self._wants_back: set[str] = set()
        self._room = asyncio.Semaphore(AT_ONCE_MAX)

    def interrupt(self, stop: asyncio.Event) -> None:
        self.interrupted = True
        stop.set()

    async def open_accounts(self) -> None:
        from pasys.service import import_batch

        async with self._db.unit() as unit:
            await import_batch.open_accounts(unit, _accounts(self._customers))
        self.began = time.monotonic()

    async def create_until(self, stop: asyncio.Event) -> None:
        """Payments as a Poisson process: the gaps are exponential."""
        async with asyncio.TaskGroup() as group:
            due = time.monotonic()
            while not stop.is_set():
                due += self._dice.expovariate(self._rate)
                try:
                    await asyncio.wait_for(stop.wait(), max(due - time.monotonic(), 0))
                except TimeoutError:
                    group.create_task(self._pay(self._draft()))

    def _draft(self) -> Draft:
        from pasys.money import Money
        from pasys.service.transaction import Draft

        dice = self._dice
        asset, customer = dice.choice(self._customers)
        _, usual, reviewed, step = PRICES[asset]
        kind = dice.random()
        minor = round(usual * min(dice.lognormvariate(0, 0.6), 8)) // step * step + step
        if kind < REVIEWED_SHARE:
            minor = reviewed
        declined = REVIEWED_SHARE <= kind < REVIEWED_SHARE + DECLINED_SHARE
        return Draft(
            amount=Money(minor, asset),
            rail="stripe",
            debit=customer,
            credit=f"demo-{dice.choice(SHOPS)}",
            payment_method=dice.choice(DECLINED) if declined else "pm_card_visa",
            batch_id=self.seen.batch,
        )

    async def _pay(self, draft: Draft) -> None:
        from pasys.errors import Rejected
        from pasys.service import transaction

        wants_back = self._dice.random() < self._refund_share
        async with self._room:
            try:
                async with self._db.unit() as unit:
                    created = await transaction.create(unit, draft)
            except Rejected as no:
                self.seen.refused += 1
                self.seen.examples.setdefault("refusal", str(no))
                return
        assert created.transaction_id is not None
        self.seen.created += 1
        if wants_back:
            self._wants_back.add(created.transaction_id)

    async def look(self, view: Any) -> Tally:
        """See how everything stands, show it, and ask for the refunds that are due."""
        from pasys.service import import_batch, transaction_query

        async with self._db.unit() as unit:
            self.seen.tally = await import_batch.tally(unit, self.seen.batch)
            done = await transaction_query.listing(unit, batch=self.seen.batch, status="succeeded", limit=500)
            reviewed = await transaction_query.listing(unit, batch=self.seen.batch, review=True, limit=1)
        self.seen.seconds = round(time.monotonic() - self.began, 1)
        view(self.seen)
        for row in done:
            self.seen.examples.setdefault("payment", row.id)
            if row.id in self._wants_back:
                self._wants_back.discard(row.id)
                await self._ask_back(row.id, row.amount)
        for row in reviewed:
            self.seen.examples.setdefault("review", row.id)
        return self.seen.tally

    async def _ask_back(self, transaction_id: str, paid: Any) -> None:
        from pasys.errors import Rejected
        from pasys.money import Money
        from pasys.service import refund

        step = PRICES[paid.asset][3]
        steps = paid.minor // step
        part = steps if self._dice.random() < 0.5 else self._dice.randint(1, steps)
        try:
            async with self._db.unit() as unit:
                asked = await refund.request(
                    unit, transaction_id, amount=Money(part * step, paid.asset), reason="demo", key=transaction_id
                )
        except Rejected:  # somebody else was faster, by hand
            return
        self.seen.examples.setdefault("refund", asked.refund_id)

    async def drain(self, view: Any) -> None:
        """Wait for what is on its way; whoever pressed Ctrl-C does not wait long."""
        deadline = time.monotonic() + (HURRIED_DRAIN_S if self.interrupted else DRAIN_S)
        seconds = self.seen.seconds
        while time.monotonic() < deadline:
            tally = await self.look(view)
            if not tally.pending and not tally.refunding:
                break
            await asyncio.sleep(LOOK_EVERY_S)
        self.seen.seconds = seconds


def _customers(rate: float) -> list[tuple[str, str]]:
    """Customers with the currency that each of them pays in: enough for the rate."""
    count = max(len(NAMES.split()), round(rate * 60 / PAYMENTS_A_MINUTE_MAX) + 1)
    dice = random.Random("demo")  # the same people at every rate and seed, so that their accounts are found again
    found = []
    for number in range(count):
        name = NAMES.split()[number % len(NAMES.split())]
        asset = dice.choices(list(PRICES), [price[0] for price in PRICES.values()])[0]
        found.append((asset, f"demo-{name}" if number < len(NAMES.split()) else f"demo-{name}-{number}"))
    return found


def _accounts(customers: list[tuple[str, str]]) -> list[Wanted]:
    from pasys.service.import_batch import Wanted

    shops = [Wanted(f"demo-{shop}", asset, "merchant") for shop in SHOPS for asset in PRICES]
    return sorted([*shops, *(Wanted(name, asset, "customer") for asset, name in customers)])


# What one sees -------------------------------------------------------------------------------------------------------


@contextmanager
def _view(output: Format) -> Iterator[Any]:
    """A live table on a terminal, else a line every few seconds; nothing for a program."""
    if output is not TABLE:
        yield lambda _: None
    elif sys.stdout.isatty():
        from rich.live import Live

        with Live(auto_refresh=False, transient=True) as live:
            yield lambda seen: live.update(_table(seen), refresh=True)
    else:
        yield _Lines()


class _Lines:
    """Says how it goes, from time to time."""

    def __init__(self) -> None:
        self._next_s = SAY_EVERY_S

    def __call__(self, seen: Seen) -> None:
        if seen.seconds >= self._next_s:
            self._next_s = seen.seconds + SAY_EVERY_S
            facts = _summary(seen)
            words = ("created", "succeeded", "failed", "fraud", "review", "refunded", "p50_ms", "p95_ms")
            say(f"{seen.seconds:5.0f} s  " + "  ".join(f"{word} {facts[word]}" for word in words if facts[word]))


def _table(seen: Seen) -> Any:
    from rich.table import Table

    facts = _summary(seen)
    table = Table(
        box=None, pad_edge=False, show_header=False, title=f"demo, {seen.seconds:.0f} s", title_justify="left"
    )
    table.add_column(style="bold")
    table.add_column(justify="right")
    styles = {"succeeded": "green", "failed": "red", "fraud": "red", "review": "yellow", "pending": "yellow"}
    for name, value in facts.items():
        if name not in ("batch", "seconds", "examples", "in_flight"):
            table.add_row(name.replace("_", " "), "" if value is None else str(value), style=styles.get(name, ""))
    table.add_row("in flight", ", ".join(map(str, facts["in_flight"])) or "nothing")
    return table


def _summary(seen: Seen) -> dict[str, Any]:
    tally = seen.tally
    assert tally is not None, "it was looked at"
    return {
        "batch": seen.batch,
        "seconds": seen.seconds,
        "created": seen.created,
        "rate": round(seen.created / max(seen.seconds, 0.1), 1),
        "succeeded": tally.succeeded,
        "pending": tally.pending,
        "failed": tally.failed,
        "fraud": tally.fraud,
        "review": tally.review,
        "refunded": tally.refunded,
        "refused": seen.refused,
        "p50_ms": tally.p50_s and round(tally.p50_s * 1000),
        "p95_ms": tally.p95_s and round(tally.p95_s * 1000),
        "in_flight": tally.in_flight,
        "examples": seen.examples,
    }


def _advise(seen: Seen) -> None:
    """What to try next."""
    from pasys.cli.stack import again

    wanted = {"payment": "trace {}", "refund": "refund show {}", "review": "fraud review approve {} --reason demo"}
    commands = [command.format(seen.examples[what]) for what, command in wanted.items() if what in seen.examples]
    if "payment" in seen.examples and "refund" not in seen.examples:
        commands.append(f"refund create {seen.examples['payment']} --wait")
    say("Next:")
    for command in [*commands, "reconcile run --psp stripe", "ledger verify"]:
        say(f"  {again(command)}")
