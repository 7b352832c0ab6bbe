"""Accounts: the chart of accounts with what each holds, and one account's movements, balance and past."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.widgets import DataTable, Sparkline, Static

from pasys.db import Unit
from pasys.money import Money, format_minor
from pasys.service import account, ledger_history, ledger_movement
from pasys.service.account import AccountRow
from pasys.service.ledger_history import StatementLine
from pasys.tui import account_filter
from pasys.tui.ledger import JournalScreen, VerifyScreen
from pasys.tui.transaction import TransactionDetail
from pasys.tui.window import WINDOW, Windowed

POINTS = 240  # of the plot: as many as a wide terminal has cells
NOTHING = "There are no accounts. Open one: pasys account open alice --type customer --asset USD"


class AccountScreen(Windowed):
    """The chart of accounts. Enter goes to an account, `j` to the journal of its asset, `v` proves the books."""

    TITLE = "Accounts"
    COLUMNS = ("name", "asset", "available", "posted", "pending", "type", "id")
    HINT = "type:customer status:frozen asset:USD alice"
    NOTHING = NOTHING
    BINDINGS: ClassVar[list[BindingType]] = [
        ("j", "journal", "Journal"),
        ("v", "verify", "Verify"),
        ("escape", "rows", "List"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._asked: dict[str, Any] = {}

    def narrow(self, text: str) -> None:
        self._asked = account_filter.parse(text)

    async def window(self, unit: Unit, after: Any) -> list[AccountRow]:
        return await account.listing(unit, **self._asked, after=after, limit=WINDOW + 1)

    def key(self, row: AccountRow) -> str:
        return row.id

    def cells(self, row: AccountRow) -> list[Text | str]:
        held = row.balance
        kind = row.type if row.status == "active" else f"{row.type}, {row.status} !"
        amounts = [_right(digits(amount)) for amount in (held.available, held.posted, held.pending)]
        return [Text(row.name), row.asset, *amounts, kind, row.id]

    def action_journal(self) -> None:
        row = self.chosen()
        self.app.push_screen(JournalScreen(row.asset if row else None))

    def action_verify(self) -> None:
        self.app.push_screen(VerifyScreen())

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        self.app.push_screen(AccountDetail(str(event.row_key.value)))


@dataclass(frozen=True, slots=True)
class Answer:
    """An account with a window of its movements. `then` is what was posted at the time that was typed: by when
    transfers counted, and by when the books had them."""

    row: AccountRow
    lines: list[StatementLine]
    then: tuple[Money, Money] | None


class AccountDetail(Windowed):
    """One account: what it holds, its movements with the running balance, a plot of it, and the same at any time."""

    TITLE = "Account"
    COLUMNS = ("recorded", "amount", "balance", "with", "for", "reference", "seq")
    HINT = "as of 2026-01-31T12:00, or so long ago: 2h"
    NOTHING = "Nothing has moved on it."
    BINDINGS: ClassVar[list[BindingType]] = [("j", "journal", "Journal"), ("escape", "back", "Back")]
    DEFAULT_CSS = """
    AccountDetail #facts { height: auto; }
    AccountDetail #plot { height: 3; }
    AccountDetail #plot-says { height: 1; color: $text-muted; }
    """

    def __init__(self, account_id: str) -> None:
        super().__init__()
        self._id = account_id
        self._asset: str | None = None
        self._at: datetime | None = None

    def body(self) -> ComposeResult:
        yield Static(id="facts", markup=False)
        yield Static(id="plot-says", markup=False)
        yield Sparkline([], id="plot", summary_function=_last)
        yield from super().body()

    def narrow(self, text: str) -> None:
        self._at = self.source.moment(text) if text else None

    async def fetch(self) -> Answer:
        after = self._afters[-1] if self._afters else None

        async def whole(unit: Unit) -> Answer:
            row = await account.find(unit, self._id)
            lines = await ledger_movement.latest(unit, row, at=self._at, before=after, limit=WINDOW + 1)
            return Answer(row, lines, None if self._at is None else await held_at(unit, row, self._at))

        return await self.source.ask(whole)

    def draw(self, answer: Any) -> None:
        self._asset = answer.row.asset
        self.query_one("#facts", Static).update(self._facts(answer))
        plotted = answer.lines[:WINDOW]
        self.query_one("#plot-says", Static).update(plot_says(plotted))
        self.query_one(Sparkline).data = [float(level) for level in levels(plotted, POINTS)]
        super().draw(answer.lines)

    def _facts(self, answer: Answer) -> Text:
        until = [] if self._at is None else ["--until", self._at.isoformat(timespec="seconds")]
        words = ("account", "statement", answer.row.name, "--asset", answer.row.asset, *until)
        return facts(answer.row, self._at, answer.then, self.source.in_a_shell(*words))

    def key(self, row: StatementLine) -> int:
        return row.seq

    def cells(self, row: StatementLine) -> list[Text | str]:
        amount = f"+{digits(row.amount)}" if row.amount.minor > 0 else digits(row.amount)
        return [
            f"{row.at.astimezone():%m-%d %H:%M:%S}",
            _right(amount),
            _right(digits(row.balance)),
            Text(row.counterparty or ""),
            row.purpose.name.lower().replace("_", " "),
            row.reference or "",
            _right(f"{row.seq:,}"),
        ]

    def action_back(self) -> None:
        """From the field to the list, from the list to where one came from."""
        if self.table.has_focus:
            self.app.pop_screen()
        else:
            self.table.focus()

    def action_journal(self) -> None:
        row = self.chosen()
        self.app.push_screen(JournalScreen(self._asset, row.seq if row else None))

    def on_data_table_row_selected(self) -> None:
        row = self.chosen()
        if row and row.reference and row.reference.startswith("tx_"):
            self.app.push_screen(TransactionDetail(row.reference))


async def held_at(unit: Unit, row: AccountRow, at: datetime) -> tuple[Money, Money]:
    """What was posted at a time: by when transfers counted, and by when the books had them. Raises HistoryMissing."""
    counted = await ledger_history.balance_at(unit, row.number, at, by="effective")
    return counted, await ledger_history.balance_at(unit, row.number, at, by="recorded")


def facts(row: AccountRow, at: datetime | None, then: tuple[Money, Money] | None, same: str) -> Text:
    """What it is and holds, in a few lines, and the command that says the same."""
    limits = [
        says
        for bound, says in (
            (row.debits_must_not_exceed_credits, "never below zero"),
            (row.credits_must_not_exceed_debits, "never above zero"),
        )
        if bound
    ]
    held = row.balance
    lines = [
        f"{row.name}, {row.type} in {row.asset}: {row.status}{', ' + ', '.join(limits) if limits else ''}; {row.id}",
        f"now    available {held.available}   posted {held.posted}   pending {held.pending}",
    ]
    if at is not None and then is not None:
        says = f"posted {then[0]}" if then[0] == then[1] else f"{then[0]} counted by then; the books had {then[1]}"
        lines.append(f"as of {at.astimezone():%Y-%m-%d %H:%M:%S}: {says}")
    return Text("\n".join([*lines, same]))


def levels(lines: Sequence[StatementLine], points: int) -> list[int]:
    """The balance at evenly spaced times over these movements, which come newest first, the oldest first; minor units.

    Each movement holds until the next one.
    """
    if len(lines) < 2:
        return [line.balance.minor for line in lines]
    oldest, span = lines[-1].at, lines[0].at - lines[-1].at
    if span <= timedelta(0):
        return [line.balance.minor for line in reversed(lines)]
    found: list[int] = []
    coming = list(lines)
    level = coming.pop().balance.minor
    for point in range(points):
        while coming and (coming[-1].at - oldest) * (points - 1) <= span * point:
            level = coming.pop().balance.minor
        found.append(level)
    return found


def plot_says(lines: Sequence[StatementLine]) -> str:
    """What the plot shows, in words: from when to when, how low and how high."""
    if not lines:
        return ""
    low, high = min(lines, key=lambda line: line.balance.minor), max(lines, key=lambda line: line.balance.minor)
    since, until = (f"{line.at.astimezone():%m-%d %H:%M:%S}" for line in (lines[-1], lines[0]))
    return f"{since} to {until}: {digits(low.balance)} to {high.balance}"


def digits(amount: Money) -> str:
    """An amount without its asset, where a column or a sentence names it."""
    return format_minor(amount.minor, amount.asset, grouping=True)


def _last(values: Sequence[float]) -> float:
    return values[-1]


def _right(text: str) -> Text:
    return Text(text, justify="right")
