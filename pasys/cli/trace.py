"""pasys trace: from any id, everything that belongs to it, in the order in which it happened."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pasys.cli.console import Noun, ask, show
from pasys.cli.options import TABLE, Format, Output, complete_transactions
from pasys.cli.output import WIDE, text

if TYPE_CHECKING:
    from datetime import datetime

    from rich.text import Text

    from pasys.service.trace import Node, Trace

app = Noun("trace", "From any id: everything that belongs to it.")

AnyId = Annotated[
    str,
    typer.Argument(
        metavar="ID",
        autocompletion=complete_transactions,
        help="Of a transaction, refund, event, decision, transfer, break, run, or what a PSP calls it.",
    ),
]
COLUMNS = ["at", "kind", "id", "label"]
STYLES = {
    "transaction": "bold",
    "refund": "bold",
    "event": "dim",
    "transfer": "green",
    "attempt": "cyan",
    "verdict": "magenta",
    "break": "red",
}


@app.command(
    "trace",
    examples="pasys trace tx_06f2…\npasys trace rf_06f2… --json\npasys trace pi_3Pq… -o csv",
)
def trace_(any_id: AnyId, output: Output = TABLE) -> None:
    """Show the whole story of a payment, from any id in it: verdict, PSP calls, transfers, events, refunds, breaks."""
    from pasys.service import trace

    found = ask(lambda unit: trace.trace(unit, any_id))
    if output is Format.TABLE:
        _draw(found)
    elif output is Format.JSON:
        edges = [{"from": edge.from_, "to": edge.to, "says": edge.says} for edge in found.edges]
        show({"root": found.root, "nodes": [_fields(node) for node in found.nodes], "edges": edges}, output)
    else:
        show([_fields(node) for node in found.nodes], output, name="nodes", columns=COLUMNS)


def _fields(node: Node) -> dict[str, Any]:
    return {"id": node.id, "kind": node.kind, "label": node.label, "at": node.at, "facts": node.facts}


def _draw(found: Trace) -> None:
    """A tree in the order of time; what was done for a refund hangs on the refund."""
    from rich.console import Console
    from rich.tree import Tree

    first = found.nodes[0]
    parts: dict[str, list[Node]] = {}
    branches = {node.id for node in found.nodes if node.kind in ("refund", "transaction")}
    for node in found.nodes[1:]:
        parent = node.part_of if node.part_of in branches and node.part_of != node.id else first.id
        parts.setdefault(parent, []).append(node)
    root = Tree(_line(first, None))

    def grow(branch: Tree, id: str) -> None:
        for node in parts.get(id, ()):
            grow(branch.add(_line(node, first.at)), node.id)

    grow(root, first.id)
    width = None if sys.stdout.isatty() else WIDE
    drawn = Console(highlight=False, width=width)
    with drawn.capture() as captured:
        drawn.print(root)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _line(node: Node, since: datetime | None) -> Text:
    """A node for people: when, what, how it is called."""
    from rich.text import Text

    style = STYLES.get(node.kind, "")
    when = text(node.at) if since is None else _after((node.at - since).total_seconds() * 1000)
    return Text.assemble(
        (f"{when:>10}  ", "cyan"),
        (f"{node.kind.replace('_', ' '):<15}", style),
        (node.label, style),
        (f"  {node.id}", "dim"),
    )


def _after(milliseconds: float) -> str:
    """How long after the story began."""
    if abs(milliseconds) < 100_000:
        return f"{milliseconds:+.0f} ms"
    return f"{milliseconds / 1000:+,.0f} s"
