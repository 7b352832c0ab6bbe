"""Transactions: a live list that is narrowed by typing, a window at a time, and the whole story of one of them."""

from __future__ import annotations

from typing import Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import DataTable, Static, Tree

from pasys.db import Unit
from pasys.service import trace, transaction_query
from pasys.service.trace import Node, Trace
from pasys.service.transaction_query import TransactionRow
from pasys.tui import refund, transaction_action, transaction_filter
from pasys.tui.live import Live
from pasys.tui.window import WINDOW, Windowed


class TransactionKeys(Live):
    """What can be done to a transaction, wherever one is shown."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("f", "refund", "Refund"),
        ("c", "cancel", "Cancel"),
        ("k", "ask_again", "Ask PSP"),
    ]

    def chosen(self) -> TransactionRow | None:
        """The transaction that keys are about."""
        raise NotImplementedError

    def action_refund(self) -> None:
        row = self.chosen()
        self.offer(row and refund.request(row))

    def action_cancel(self) -> None:
        row = self.chosen()
        self.offer(row and transaction_action.cancel(row))

    def action_ask_again(self) -> None:
        row = self.chosen()
        self.offer(row and transaction_action.ask_again(row.id, transaction_action.line(row)))


class TransactionScreen(Windowed, TransactionKeys):
    """The list. `/` goes to the filter, Enter to a transaction; pages go by keys, never by counting."""

    TITLE = "Transactions"
    COLUMNS = ("created", "status", "amount", "from → to", "why", "rail", "id")
    HINT = "status:failed asset:USD amount>100 since:2h"
    NOTHING = "There are no transactions. Send some: pasys demo"
    LAST = "the oldest are here"
    BINDINGS: ClassVar[list[BindingType]] = [
        ("n", "older", "Older"),
        ("p", "newer", "Newer"),
        Binding("escape", "rows", "List", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._asked: dict[str, Any] = {}

    def narrow(self, text: str) -> None:
        self._asked = transaction_filter.parse(text, self.source.moment)

    async def window(self, unit: Unit, after: Any) -> list[TransactionRow]:
        return await transaction_query.listing(unit, **self._asked, after=after, limit=WINDOW + 1)

    def key(self, row: TransactionRow) -> str:
        return row.id

    def cells(self, row: TransactionRow) -> list[Text | str]:
        return cells(row)

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        self.app.push_screen(TransactionDetail(str(event.row_key.value)))


class TransactionDetail(TransactionKeys):
    """One transaction: what it is, and its story as a tree."""

    TITLE = "Transaction"
    BINDINGS: ClassVar[list[BindingType]] = [("escape", "app.pop_screen", "Back")]
    DEFAULT_CSS = """
    TransactionDetail #facts { height: auto; max-height: 50%; }
    TransactionDetail Tree { height: 1fr; }
    """

    def __init__(self, transaction_id: str) -> None:
        super().__init__()
        self._id = transaction_id
        self._drawn: Any = None

    def body(self) -> ComposeResult:
        yield Static(id="facts", markup=False)
        yield Tree(Text(self._id))

    def on_mount(self) -> None:
        self.query_one(Tree).focus()

    async def fetch(self) -> tuple[TransactionRow, Trace]:
        async def whole(unit: Unit) -> tuple[TransactionRow, Trace]:
            return await transaction_query.get(unit, self._id), await trace.trace(unit, self._id)

        return await self.source.ask(whole)

    def draw(self, answer: tuple[TransactionRow, Trace]) -> None:
        row, story = answer
        if answer == self._drawn:  # what was unfolded stays unfolded, until there is news
            return
        self._drawn = answer
        self.query_one("#facts", Static).update(facts(row, self.source.in_a_shell("trace", row.id)))
        tree = self.query_one(Tree)
        tree.clear()
        plant(tree, story)
        tree.root.expand()

    def chosen(self) -> TransactionRow | None:
        return self._drawn and self._drawn[0]


def cells(row: TransactionRow) -> list[Text | str]:
    """A transaction as a line of the list."""
    why = row.reason or row.outcome or ("in review" if row.review else "")
    return [
        f"{row.created_at.astimezone():%m-%d %H:%M:%S}",
        row.status,
        Text(str(row.amount), justify="right"),
        Text(f"{row.debit} → {row.credit}"),
        Text(why),
        row.rail,
        row.id,
    ]


def facts(row: TransactionRow, same: str) -> Text:
    """What it is, in a few lines, and the command that says the same."""
    lines = [
        f"{row.kind} of {row.amount}: {row.status}"
        + (f" ({row.reason or row.outcome})" if row.reason or row.outcome else ""),
        f"{row.debit} → {row.credit}, by {row.rail}, for {row.actor}",
        f"created {row.created_at.astimezone():%Y-%m-%d %H:%M:%S}"
        + (f", final {row.final_at.astimezone():%Y-%m-%d %H:%M:%S}" if row.final_at else ", not final"),
        f"at the PSP {row.psp_reference}" if row.psp_reference else "no PSP's reference",
        same,
    ]
    return Text("\n".join(lines))


def plant(tree: Tree[Any], story: Trace) -> None:
    """The story in the order of time; what was done for a refund hangs on the refund."""
    first = story.nodes[0]
    history = tree.root.add("history", expand=True)
    for move in first.facts.get("history", ()):
        why = f" ({move['reason']})" if move["reason"] else ""
        history.add_leaf(Text(f"{move['at'].astimezone():%H:%M:%S.%f}  {move['to']}{why}, {move['actor'] or 'pasys'}"))
    branches = {first.id: tree.root}
    for node in story.nodes[1:]:
        parent = branches.get(node.part_of or first.id, tree.root)
        if node.kind in ("refund", "transaction"):
            branches[node.id] = parent.add(_line(node, first), expand=True)
        else:
            parent.add_leaf(_line(node, first))


def _line(node: Node, first: Node) -> Text:
    after_ms = (node.at - first.at).total_seconds() * 1000
    return Text(f"{after_ms:+,.0f} ms  {node.kind.replace('_', ' ')}  {node.label}")
