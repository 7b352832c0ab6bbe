"""Everything that belongs to a payment is one story, and any id in it leads to all of it.

A story is about a transaction. Where there is none (a run of reconciliation, a statement's line that nobody knows, an
account's events), it is about whatever the id stands for, and as complete.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from pasys.adapters import installed_psps
from pasys.db import Unit, queries
from pasys.domain.ledger import Kind
from pasys.errors import NothingToTrace
from pasys.events import Envelope
from pasys.money import Money
from pasys.service import ledger
from pasys.service.ledger_history import ArchivedRow, TransferRow

SQL = queries("trace")
ROWS_MAX = 2_000  # of one kind, in one story
_RANK = {
    kind: rank
    for rank, kind in enumerate(
        ("transaction", "refund", "run", "verdict", "attempt", "transfer", "event", "notice", "statement_line", "break")
    )
}
_envelopes = msgspec.json.Decoder(Envelope)


@dataclass(frozen=True, slots=True)
class Node:
    """One thing that happened, or that there is. `part_of` is the refund or transaction that it was done for."""

    id: str
    kind: str
    label: str
    at: datetime
    facts: Mapping[str, Any]
    part_of: str | None = None


@dataclass(frozen=True, slots=True)
class Edge:
    """`from_` caused, posted, decided, asked … `to`."""

    from_: str
    to: str
    says: str


@dataclass(frozen=True, slots=True)
class Trace:
    """A story: its nodes in the order of time, and how they hang together. `root` is the id of its first node."""

    root: str
    nodes: list[Node]
    edges: list[Edge]


async def trace(unit: Unit, any_id: str) -> Trace:
    """The story that an id belongs to. Raises NothingToTrace, and HistoryArchived for an archived transfer's."""
    story = await _story(unit, any_id)
    told = _Story()
    transactions = await unit.rows(SQL["transactions"], story=story)
    ids = [row.id for row in transactions]
    refunds = await unit.rows(SQL["refunds"], ids=ids)
    entities = [*ids, *(row.id for row in refunds)]
    histories = _by_id(await unit.rows(SQL["transaction_history"], ids=ids))
    histories |= _by_id(await unit.rows(SQL["refund_history"], ids=entities[len(ids) :]))
    told.transactions(transactions, histories)
    told.refunds(refunds, histories)
    told.verdicts(await unit.rows(SQL["verdicts"], ids=ids))
    told.attempts(await unit.rows(SQL["attempts"], ids=ids))
    notices = await unit.rows(SQL["notices"], ids=ids, story=story)
    told.notices(notices)
    told.runs(await unit.rows(SQL["runs"], story=story))
    breaks = await unit.rows(SQL["breaks"], entities=entities, story=story, limit=ROWS_MAX)
    named = [(row.psp, row.line_id) for row in breaks if row.line_id] + [(psp, story) for psp in installed_psps()]
    psps, lines = [psp for psp, _ in named], [line for _, line in named]
    told.lines(await unit.rows(SQL["lines"], entities=entities, psps=psps, lines=lines, limit=ROWS_MAX))
    told.breaks(breaks)
    journal = {id for row in (*transactions, *refunds, *breaks) for id in row.transfer_ids} | _as_uuids(story)
    told.transfers(await ledger.transfers_by_id(unit, sorted(journal)), {*entities, *(row.id for row in breaks)})
    told.archived(await ledger.archived_by_id(unit, sorted(journal)), (*transactions, *refunds, *breaks))
    told.events(
        await unit.rows(
            SQL["events"],
            stories=[story, *ids, *(row.notice_id for row in notices)],
            runs=[row.run_id for row in breaks if row.run_id],
            breaks=[row.id for row in breaks],
            limit=ROWS_MAX,
        )
    )
    told.moves(histories)
    return told.end(story, any_id)


async def _story(unit: Unit, shown_id: str) -> str:
    any_id, found = _whole(shown_id), None
    if as_uuid := _as_uuids(any_id):
        await ledger.require_rows(unit, list(as_uuid))
        found = await unit.value(SQL["story_of_transfer"], id=next(iter(as_uuid)))
    found = found or await unit.value(SQL["story"], id=any_id)
    found = found or await unit.value(SQL["story_at_psp"], id=any_id, psps=installed_psps())
    if found is None:
        raise NothingToTrace(entity_id=shown_id)
    if _as_uuids(found) or found == any_id:
        return found
    return await unit.value(SQL["story"], id=found) or found  # a break's entity may be a refund


def _whole(shown_id: str) -> str:
    """The entity's id behind an attempt's (tx_…:capture), the line's behind its repetition's (txn_…#2)."""
    return shown_id.partition(":")[0] if shown_id.startswith(("tx_", "rf_")) else shown_id.partition("#")[0]


def _as_uuids(text: str) -> set[UUID]:
    try:
        return {UUID(text)}
    except ValueError:
        return set()


def _by_id(rows: Iterable[Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for row in rows:
        found.setdefault(row.id, []).append(row)
    return found


class _Story:
    """Collects nodes and edges. What an edge leads to may come later, so edges are checked at the end."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        self._edges: dict[tuple[str, str, str], None] = {}

    def _add(self, node: Node) -> None:
        self._nodes[node.id] = node

    def _says(self, from_: str | None, says: str, to: str | None) -> None:
        if from_ and to:
            self._edges[from_, to, says] = None

    def end(self, story: str, any_id: str) -> Trace:
        if not self._nodes:
            raise NothingToTrace(entity_id=any_id)
        nodes = sorted(self._nodes.values(), key=lambda n: (n.id != story, n.at, _RANK[n.kind]))
        edges = [Edge(*edge) for edge in self._edges if edge[0] in self._nodes and edge[1] in self._nodes]
        return Trace(nodes[0].id, nodes, edges)

    def transactions(self, rows: Sequence[Any], histories: Mapping[str, list[Any]]) -> None:
        for row in rows:
            amount = Money(row.amount_minor, row.asset)
            facts = _facts(
                row, "kind rail status outcome review debit credit payment_method reason fee_minor refunded_minor"
                " psp_reference charge_reference parent_id batch_id actor metadata settling_at final_at",
            )  # fmt: skip
            facts |= {"amount": amount, "history": _moves(histories.get(row.id, ()))}
            label = f"{row.kind} of {amount}, {row.debit} → {row.credit}, by {row.rail}: {row.status}"
            self._add(Node(row.id, "transaction", label, row.created_at, facts))
            self._says(row.id, "reverses", row.parent_id)

    def refunds(self, rows: Sequence[Any], histories: Mapping[str, list[Any]]) -> None:
        for row in rows:
            amount = Money(row.amount_minor, row.asset)
            facts = _facts(
                row, "status outcome automatic reason decline_reason requested_by decided_by psp_reference final_at"
            )
            facts |= {"amount": amount, "history": _moves(histories.get(row.id, ()))}
            label = f"refund of {amount}: {row.status}"
            self._add(Node(row.id, "refund", label, row.created_at, facts, row.transaction_id))
            self._says(row.id, "refunds", row.transaction_id)

    def verdicts(self, rows: Sequence[Any]) -> None:
        for row in rows:
            rules = ", ".join(reason["rule"] for reason in row.reasons)
            label = f"{row.outcome}, score {row.score:.2f}{f' ({rules})' if rules else ''}, by {row.decided_by}"
            facts = _facts(row, "outcome score reasons signals rules_version model_version decided_by")
            self._add(Node(row.id, "verdict", label, row.at, facts, row.transaction_id))
            self._says(row.id, "decided", row.transaction_id)

    def attempts(self, rows: Sequence[Any]) -> None:
        for row in rows:
            id = f"{row.entity_id}:{row.step}"  # its idempotency key at the PSP
            took = f" in {row.latency_ms} ms" if row.latency_ms is not None else ""
            label = f"{row.step} at {row.psp}: {row.outcome}{f' ({row.reason})' if row.reason else ''}{took}"
            facts = _facts(
                row, "step psp outcome psp_reference auth_code processor_code reason latency_ms asked finished_at"
            )
            facts["amount"] = Money(row.amount_minor, row.asset)
            self._add(Node(id, "attempt", label, row.requested_at, facts, row.entity_id))
            self._says(row.entity_id, "asked", id)

    def transfers(self, rows: Sequence[TransferRow], owners: set[str]) -> None:
        for row in rows:
            id, owner = str(row.id), row.reference if row.reference in owners else None
            what = row.purpose.name.lower().replace("_", " ")
            how = {Kind.PENDING: "held", Kind.POST: "posted from its hold", Kind.VOID: "released"}.get(row.kind)
            refused = f", refused: {row.result.rule}" if row.result else ""
            label = f"{what} of {row.amount}, {row.debit_name} → {row.credit_name}{f', {how}' if how else ''}{refused}"
            facts = {
                "asset": row.asset,
                "seq": row.seq,
                "kind": row.kind,
                "purpose": row.purpose,
                "result": row.result,
                "debit": row.debit_name,
                "credit": row.credit_name,
                "amount": row.amount,
                "pending_id": row.pending_id,
                "corrects": row.corrects,
                "effective_at": row.effective_at,
                "reference": row.reference,
            }
            self._add(Node(id, "transfer", label, row.recorded_at, facts, owner))
            self._says(owner, "posted", id)
            if row.pending_id is not None:
                self._says(id, "released" if row.kind is Kind.VOID else "used", str(row.pending_id))
            if row.corrects is not None:
                self._says(id, "corrects", str(row.corrects))

    def archived(self, rows: Sequence[ArchivedRow], owners: Sequence[Any]) -> None:
        """Lines of the journal that are in a file: no more is known of when than whose they are."""
        by_id = {id: owner for owner in owners for id in owner.transfer_ids}
        for row in rows:
            owner = by_id[row.id]
            begun = owner.created_at if hasattr(owner, "created_at") else owner.found_at
            label = f"row {row.seq} of the journal of {row.asset}, in the archive {row.file}"
            facts = {"asset": row.asset, "seq": row.seq, "file": row.file}
            self._add(Node(str(row.id), "transfer", label, begun, facts, owner.id))
            self._says(owner.id, "posted", str(row.id))

    def events(self, rows: Sequence[Any]) -> None:
        for row in rows:
            envelope = _envelopes.decode(row.body)
            data = msgspec.json.decode(envelope.data)
            facts = {"subject": row.subject, "actor": envelope.actor, "causation_id": envelope.causation_id, **data}
            owner = row.entity_id if row.entity_id in self._nodes else None
            self._add(Node(row.id, "event", row.subject, row.at, facts, owner))
            self._says(envelope.causation_id, "caused", row.id)
            if envelope.causation_id is None:
                self._says(owner, "announced", row.id)
            self._says(data.get("decision_id"), "announced", row.id)

    def moves(self, histories: Mapping[str, list[Any]]) -> None:
        """The events that moved a transaction or a refund."""
        for id, moves in histories.items():
            for move in moves:
                self._says(move.event_id, f"moved to {move.to_status}", id)

    def notices(self, rows: Sequence[Any]) -> None:
        for row in rows:
            label = f"{row.psp} says {row.type}"
            facts = _facts(row, "psp type object_id event_id transaction_id")
            self._add(Node(row.notice_id, "notice", label, row.received_at, facts, row.transaction_id))
            self._says(row.notice_id, "told of", row.transaction_id)

    def runs(self, rows: Sequence[Any]) -> None:
        for row in rows:
            label = f"reconciliation with {row.psp}: {row.status}, {row.matched} matched, {row.breaks} breaks"
            facts = _facts(row, "psp status since until lines matched breaks reason actor finished_at")
            self._add(Node(row.id, "run", label, row.started_at, facts))

    def lines(self, rows: Sequence[Any]) -> None:
        for row in rows:
            id = row.line_id if row.occurrence == 1 else f"{row.line_id}#{row.occurrence}"
            amount = Money(row.amount_minor, row.asset)
            agrees = "agrees with the books" if row.matched else "agrees with nothing yet"
            facts = _facts(
                row, "psp type fee_minor source_id transaction_id refund_id status matched matched_id run_id"
            )
            facts |= {"amount": amount, "asset": row.asset}
            whose = row.matched_id or row.refund_id or row.transaction_id
            label = f"{row.type} of {amount} on {row.psp}'s statement: {agrees}"
            self._add(Node(id, "statement_line", label, row.created_at, facts, whose))
            self._says(id, "matched" if row.matched else "names", whose)

    def breaks(self, rows: Sequence[Any]) -> None:
        for row in rows:
            difference = Money(row.difference_minor, row.asset)
            label = f"break: {row.kind}, {difference}: {row.status}{f' by {row.resolution}' if row.resolution else ''}"
            facts = _facts(
                row, "kind asset difference_minor evidence status resolution note actor line_id entity_id run_id"
            )
            self._add(Node(row.id, "break", label, row.found_at, facts, row.entity_id))
            self._says(row.id, "is about", row.entity_id)
            self._says(row.id, "was found in", row.line_id)
            self._says(row.run_id, "found", row.id)


def _facts(row: Any, names: str) -> dict[str, Any]:
    """Some of a row's columns. Minor units get their asset, so that every face can show them as money."""
    facts = {name: getattr(row, name) for name in names.split()}
    return facts | ({"asset": row.asset} if any(name.endswith("_minor") for name in facts) else {})


def _moves(history: Iterable[Any]) -> list[dict[str, Any]]:
    return [
        {"from": move.from_status, "to": move.to_status, "at": move.at, "reason": move.reason, "actor": move.actor}
        for move in history
    ]
