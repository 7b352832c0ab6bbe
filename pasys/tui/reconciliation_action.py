"""What a person does about statements from the dashboard: have one read, and close a break by an entry or as it is."""

from __future__ import annotations

from collections.abc import Sequence

from pasys.db import Unit
from pasys.money import Money
from pasys.service import reconciliation
from pasys.service.reconciliation import BreakRow, Proposed
from pasys.tui.action import Action, Field, Values, option


def run(psp: str) -> Action:
    async def verb(unit: Unit, typed: Values) -> str:
        row = await reconciliation.start(unit, typed["psp"])
        return f"Run {row.run_id} reads the statement of {row.psp}; what it finds is seen here."

    return Action(
        title="Read a PSP's statement",
        about="It reads on from where the last run ended, and holds every line against the books.",
        words=lambda typed: ["reconcile", "run", *option("--psp", typed["psp"], required=True)],
        verb=verb,
        look=["reconcile", "list"],
        fields=(Field("psp", "whose statement", psp, required=True),),
    )


def post(found: BreakRow, entries: Sequence[Proposed]) -> Action:
    """Close a break by its entry. `entries` is what it would post, as it was asked for just now."""

    async def verb(unit: Unit, typed: Values) -> str:
        closed = await reconciliation.resolve(unit, found.id, note=typed["note"] or None)
        return f"{found.id} is {closed.status} by a {closed.resolution}."

    return Action(
        title=f"Close {found.id} by an entry",
        about=f"{line(found)}\nIt posts {entry_line(entries)}.",
        words=lambda typed: ["reconcile", "resolve", found.id, *option("--note", typed["note"])],
        verb=verb,
        look=["reconcile", "show", found.id],
        fields=(_NOTE,),
    )


def accept(found: BreakRow) -> Action:
    async def verb(unit: Unit, typed: Values) -> str:
        closed = await reconciliation.resolve(unit, found.id, accept=True, note=typed["note"] or None)
        return f"{found.id} is {closed.status}: {closed.resolution} as it is."

    return Action(
        title=f"Close {found.id} as it is",
        about=f"{line(found)}\nNo entry is posted: the books and the statement go on to differ.",
        words=lambda typed: ["reconcile", "resolve", found.id, "--accept", *option("--note", typed["note"])],
        verb=verb,
        look=["reconcile", "show", found.id],
        fields=(_NOTE,),
    )


_NOTE = Field("note", "why, for those who look at it later")


def line(found: BreakRow) -> str:
    """What a break is, in one line."""
    about = found.entity_id or found.line_id
    difference = Money(found.difference_minor, found.asset)
    return f"{found.kind.replace('_', ' ')} at {found.psp}: {difference}" + (f", about {about}" if about else "")


def entry_line(entries: Sequence[Proposed]) -> str:
    """What a corrective entry posts."""
    return "; ".join(f"debit {one.debit}, credit {one.credit}, {one.amount}" for one in entries)
