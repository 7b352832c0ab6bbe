"""Review: everything that waits for a person's decision in one list, longest first, and why it waits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.widgets import DataTable, Static

from pasys.db import Unit
from pasys.money import Money
from pasys.service import fraud as fraud_service
from pasys.service import refund_query, unknown
from pasys.service.fraud import ReviewRow
from pasys.service.refund_query import RefundRow
from pasys.service.unknown import UnknownRow
from pasys.tui import fraud, refund, transaction_action
from pasys.tui.action import Action
from pasys.tui.live import Live
from pasys.tui.rows import Rows, age, clock
from pasys.tui.transaction import TransactionDetail

EACH_MAX = 200  # of a kind; who has more to decide decides the oldest first
EMPTY = (
    "Nothing waits for a decision. Fraud reviews, refunds above the limit and outcomes that a PSP has not told"
    " come here by themselves; 2 shows every transaction."
)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Something that waits since `since`; `row` is what the service says of it."""

    row: ReviewRow | RefundRow | UnknownRow
    what: str
    id: str
    transaction_id: str
    amount: Money
    who: str
    why: str
    since: datetime


class ReviewScreen(Live):
    """The list, and under it the reasons of the row that the cursor is on."""

    TITLE = "Review"
    BINDINGS: ClassVar[list[BindingType]] = [
        ("y", "approve", "Approve"),
        ("x", "reject", "Reject"),
        ("k", "ask_again", "Ask PSP"),
    ]
    DEFAULT_CSS = """
    ReviewScreen #counts { height: auto; color: $text-muted; }
    ReviewScreen DataTable { height: 1fr; }
    ReviewScreen #why { height: auto; max-height: 50%; border-top: solid $primary; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._who = ""

    def body(self) -> ComposeResult:
        yield Static("", id="counts", markup=False)
        yield Rows[Waiting](
            ("waits", "what", "amount", "who", "why"), key=lambda row: row.id, cells=self._cells, id="waiting"
        )
        yield Static("", id="why", markup=False)

    def on_mount(self) -> None:
        self.rows.focus()

    @property
    def rows(self) -> Rows[Waiting]:
        return self.query_one("#waiting", Rows)

    async def fetch(self) -> list[Waiting]:
        async def whole(unit: Unit) -> list[Waiting]:
            self._who = unit.actor
            return [
                *map(of_review, await fraud_service.reviews(unit, limit=EACH_MAX)),
                *map(of_refund, await refund_query.waiting(unit, limit=EACH_MAX)),
                *map(of_unknown, await unknown.listing(unit, limit=EACH_MAX)),
            ]

        return sorted(await self.source.ask(whole), key=lambda one: one.since)

    def draw(self, answer: list[Waiting]) -> None:
        self.query_one("#counts", Static).update(counts(answer) if answer else EMPTY)
        self.rows.display = bool(answer)
        self.rows.show(answer)
        self._explain()

    def on_data_table_row_highlighted(self) -> None:
        self._explain()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        if (chosen := self.rows.chosen) is not None:
            self.app.push_screen(TransactionDetail(chosen.transaction_id))

    def _explain(self) -> None:
        chosen, why = self.rows.chosen, self.query_one("#why", Static)
        why.display = chosen is not None
        if chosen is not None:
            why.update(explained(chosen, self._who))

    @staticmethod
    def _cells(row: Waiting) -> list[Any]:
        return [
            Text(age(row.since, datetime.now(UTC)), justify="right"),
            row.what,
            Text(str(row.amount), justify="right"),
            Text(row.who),
            Text(row.why),
        ]

    def action_approve(self) -> None:
        self._decide({ReviewRow: fraud.approve, RefundRow: refund.approve})

    def action_reject(self) -> None:
        self._decide({ReviewRow: fraud.reject, RefundRow: refund.reject})

    def _decide(self, ways: dict[type, Callable[[Any], Action]]) -> None:
        chosen = self.rows.chosen
        way = ways.get(type(chosen.row)) if chosen else None
        otherwise = "Nobody can decide what a PSP has done: k asks it." if chosen else "Nothing waits here."
        self.offer(way(chosen.row) if chosen and way else None, otherwise=otherwise)

    def action_ask_again(self) -> None:
        chosen = self.rows.chosen
        row = chosen.row if chosen is not None else None
        action = transaction_action.ask_again(row.id, line(row)) if isinstance(row, UnknownRow) else None
        self.offer(action, otherwise="A PSP is asked only about what it has not told; y and x decide the others.")


def of_review(row: ReviewRow) -> Waiting:
    rules = ", ".join(reason["rule"] for reason in row.reasons)
    amount = Money(row.amount_minor, row.asset)
    return Waiting(row, "fraud review", row.transaction_id, row.transaction_id, amount, row.account, rules, row.since)


def of_refund(row: RefundRow) -> Waiting:
    why, who = row.reason or "above the limit", row.requested_by
    return Waiting(row, "refund to approve", row.id, row.transaction_id, row.amount, who, why, row.created_at)


def of_unknown(row: UnknownRow) -> Waiting:
    return Waiting(
        row, "unknown outcome", row.id, row.transaction_id, row.amount, row.psp, row.reason or row.step, row.since
    )


def counts(rows: list[Waiting]) -> str:
    """How many of each wait, and where a list is cut that it is."""
    said = []
    for kind, one, many in (
        (ReviewRow, "fraud review", "fraud reviews"),
        (RefundRow, "refund to approve", "refunds to approve"),
        (UnknownRow, "unknown outcome", "unknown outcomes"),
    ):
        count = sum(isinstance(row.row, kind) for row in rows)
        if count:
            said.append(f"{count}{' or more' if count == EACH_MAX else ''} {one if count == 1 else many}")
    return ", ".join(said)


def explained(waiting: Waiting, who: str) -> Text:
    """Why it waits, what is known of it, and what can be done."""
    row = waiting.row
    if isinstance(row, ReviewRow):
        lines = [
            f"{waiting.id}: {row.kind} of {waiting.amount} by {row.account}"
            + (f" with {row.payment_method}" if row.payment_method else "")
            + f"; score {row.score:.2f}, rules version {row.rules_version}, since {clock(row.since)}",
            *(_reason(reason, row.asset) for reason in row.reasons),
            "y: let it through   x: it is fraud   Enter: its story",
        ]
    elif isinstance(row, RefundRow):
        second = (
            f"You ({who}) asked for it: another person has to decide, for instance by pasys --actor NAME dash"
            if row.requested_by == who
            else "y: approve   x: reject   Enter: the payment's story"
        )
        lines = [
            f"{row.id}: {row.amount} of {row.transaction_id} back to the payer",
            f"asked for by {row.requested_by} at {clock(row.created_at)}"
            + (f", because: {row.reason}" if row.reason else ", without a reason"),
            second,
        ]
    else:
        lines = [f"{row.id}: {line(row)}", "k: ask it now   Enter: its story"]
    return Text("\n".join(lines))


def _reason(reason: dict[str, Any], asset: str) -> str:
    told = {name: value for name, value in reason["facts"].items() if name != "asset"}
    facts = ", ".join(_fact(name, value, asset) for name, value in told.items())
    return f"  {reason['rule']} ({reason['weight']:+.2f})" + (f": {facts}" if facts else "")


def _fact(name: str, value: Any, asset: str) -> str:
    stem = name.removesuffix("_minor")
    told = Money(value, asset) if stem != name and isinstance(value, int) else value
    return f"{stem.replace('_', ' ')} {told}"


def line(row: UnknownRow) -> str:
    """What was asked of a PSP, and how often."""
    following = f"again by itself at {clock(row.ask_after)}" if row.ask_after else "not again by itself"
    times = "once" if row.asked == 1 else f"{row.asked} times"
    about = f"{row.step}: {row.reason}" if row.reason else row.step
    return f"{row.psp} has not said what became of {row.amount} ({about}); asked {times}, {following}"
