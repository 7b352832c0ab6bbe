"""What must be true after any death: nothing lost, nothing twice, and the books agree with the PSP's."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, defaultdict
from typing import Any, Protocol

import httpx

from pasys.db import Database, Unit
from pasys.domain.refund import FINAL
from pasys.domain.refund import MOVES as REFUND_MOVES
from pasys.domain.transaction import MOVES, RESTING
from pasys.service import ledger

# A payment that its own status does not change, when money arrives that must not stay: recorded as it happened.
_RECORDED = {("failed", "failed"), ("fraud", "fraud"), ("cancelled", "cancelled")}

_UNFINISHED = """
select (select count(*) from transaction where status <> all (%(resting)s::text[]) or outcome is not null)
       as transactions,
       (select count(*) from refund where status <> all (%(final)s::text[]) or outcome is not null) as refunds,
       (select count(*) from outbox) as announcements
"""
_NAMES = {"resting": [str(status) for status in RESTING], "final": [str(status) for status in FINAL]}
_WENT_THROUGH = """
select name, asset, debits_posted, credits_posted, debits_pending, credits_pending from account
 where type = 'customer' and (debits_posted <> credits_posted or debits_pending <> 0 or credits_pending <> 0)
"""
_UNKNOWN = """
select entity_id, transaction_id, step from attempt where outcome = 'unknown' and ask_after is not null
"""


class HasLists(Protocol):
    """A PSP whose lists can be read."""

    @property
    def http(self) -> httpx.Client: ...


async def unfinished(unit: Unit) -> int:
    """How many transactions, refunds and announcements are still on their way."""
    return sum(await unit.row(_UNFINISHED, **_NAMES) or ())


async def what_is_unfinished(db: Database) -> str:
    """The same in words, for a failure."""
    async with db.unit() as unit:
        rows = await unit.rows(
            "select id, status, outcome, review from transaction where status <> all (%(resting)s::text[])",
            resting=_NAMES["resting"],
        )
        refunds = await unit.rows(
            "select id, status, outcome from refund where status <> all (%(final)s::text[])",
            final=_NAMES["final"],
        )
        outbox = await unit.rows("select e.subject, o.claimed_until from outbox o join event e on e.id = o.event_id")
        attempts = await unit.rows("select * from attempt where outcome in ('unknown', 'requested')")
    return "\n".join(map(str, [*rows, *refunds, *outbox, *attempts]))


async def violations(db: Database, simulator: HasLists, *, kept: frozenset[str] = frozenset()) -> list[str]:
    """Everything that is wrong, in sentences. `kept` are holders' accounts that other money went through."""
    intents, refunds, lines = await asyncio.gather(*(asyncio.to_thread(everything, simulator, path) for path in _PATHS))
    async with db.unit() as unit:
        return [
            *await _final(unit),
            *await _payments_agree(unit, intents),
            *await _refunds_agree(unit, refunds),
            *await _books_agree(unit, lines, kept),
            *await _histories(unit),
            *await _deadlocks(unit),
        ]


_PATHS = ("payment_intents", "refunds", "balance_transactions")


def everything(simulator: HasLists, path: str) -> list[dict[str, Any]]:
    """All objects of a list of the PSP's."""
    found: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    while True:
        answer = _read(simulator, f"/v1/{path}", {"limit": "100", **after})
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found += page["data"]
        if not page["has_more"]:
            return found
        after = {"starting_after": page["data"][-1]["id"]}


def _read(simulator: HasLists, path: str, query: dict[str, str]) -> httpx.Response:
    """Look at the PSP; a connection that a fault of the run has cut says nothing of what the PSP has done."""
    for _ in range(3):
        with contextlib.suppress(httpx.TransportError):
            return simulator.http.get(path, params=query)
    return simulator.http.get(path, params=query)


async def _final(unit: Unit) -> list[str]:
    """An announcement may be on its way again (somebody asked once more than was needed); nothing else may."""
    row = await unit.row(_UNFINISHED, **_NAMES)
    assert row is not None
    return [f"not final: {row}"] if row.transactions or row.refunds else []


async def _payments_agree(unit: Unit, intents: list[dict[str, Any]]) -> list[str]:
    """Captured exactly once where we say so, and not at all where we do not."""
    by_id: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for intent in intents:
        by_id[intent["metadata"].get("transaction_id", "")].append(intent)
    found = []
    rows = await unit.rows("select id, status, captured_minor, amount_minor from transaction where rail = 'stripe'")
    for row in rows:
        made = by_id.pop(row.id, [])
        taken = [intent["amount_received"] for intent in made if intent["status"] == "succeeded"]
        if len(made) > 1:
            found.append(f"{row.id} has {len(made)} payment intents")
        if taken != ([row.captured_minor] if row.captured_minor else []):
            found.append(f"{row.id} is {row.status} with {row.captured_minor} captured; the PSP took {taken}")
        if row.status in ("failed", "cancelled") and any(i["status"] == "requires_capture" for i in made):
            found.append(f"{row.id} is {row.status}, and the payer's money is still reserved")
    return found + [f"the PSP has a payment of {id!r}, which we do not know" for id in by_id]


async def _refunds_agree(unit: Unit, refunds: list[dict[str, Any]]) -> list[str]:
    """Given back exactly once where we say so, and not at all where we do not."""
    by_id: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for refund in refunds:
        by_id[refund["metadata"].get("refund_id", "")].append(refund)
    found = []
    for row in await unit.rows("select id, status, amount_minor from refund"):
        given = [refund["amount"] for refund in by_id.pop(row.id, []) if refund["status"] == "succeeded"]
        if given != ([row.amount_minor] if row.status == "completed" else []):
            found.append(f"{row.id} over {row.amount_minor} is {row.status}; the PSP gave back {given}")
    sums = await unit.rows(
        """
        select t.id, t.captured_minor, t.refunding_minor, t.refunded_minor,
               coalesce(sum(r.amount_minor) filter (where r.status = 'completed'), 0)::bigint as completed
          from transaction t left join refund r on r.transaction_id = t.id
         group by t.id
        """
    )
    for row in sums:
        if row.refunding_minor or row.refunded_minor != row.completed or row.completed > row.captured_minor:
            found.append(f"{row} does not add up")
    return found + [f"the PSP has a refund of {id!r}, which we do not know" for id in by_id]


async def _books_agree(unit: Unit, lines: list[dict[str, Any]], kept: frozenset[str]) -> list[str]:
    """The books hold, clearing accounts are empty, and what the PSP owes us is what it says it owes us."""
    found = [str(finding) for finding in (await ledger.verify(unit)).findings]
    owed: dict[str, int] = defaultdict(int)
    for line in lines:
        owed[line["currency"].upper()] += line["net"]
    for row in await ledger.trial_balance(unit):
        if row.name == "psp:stripe:receivable" and row.net.minor != owed[row.asset]:
            found.append(f"the PSP owes us {owed[row.asset]} {row.asset}; our books say {row.net}")
        if row.name == "refunds:in_flight" and row.net.minor:
            found.append(f"{row.net} are in flight for ever")
    holds = await unit.value("select count(*) from hold")
    if holds:
        found.append(f"{holds} holds are left")
    for row in await unit.rows(_WENT_THROUGH):
        if row.name not in kept:
            found.append(f"{row} kept what only went through")
    return found


async def _histories(unit: Unit) -> list[str]:
    """Each history is a walk along legal moves, without a gap."""
    legal = {(str(a), str(b)) for a, ends in MOVES.items() for b in ends} | _RECORDED
    legal_refund = {(str(a), str(b)) for a, ends in REFUND_MOVES.items() for b in ends}
    return [
        *await _walks(unit, "transaction", legal),
        *await _walks(unit, "refund", legal_refund),
    ]


async def _walks(unit: Unit, noun: str, legal: set[tuple[str, str]]) -> list[str]:
    """Moves of one unit have one time, so a walk is checked by its steps: each begins where another ended."""
    steps: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in await unit.rows(f"select {noun}_id as id, from_status, to_status from {noun}_history"):
        steps[row.id].append((row.from_status, row.to_status))
    found = []
    for row in await unit.rows(f"select id, status from {noun}"):
        walked = steps.pop(row.id, [])
        ends = Counter(end for _, end in walked)
        ends.subtract(begin for begin, _ in walked if begin is not None)
        if [status for status, times in ends.items() if times] != [row.status]:
            found.append(f"{row.id} is {row.status}, which is not where its history leads: {walked}")
        if illegal := [step for step in walked if step[0] is not None and step not in legal]:
            found.append(f"{row.id} made illegal moves: {illegal}")
    return found


async def _deadlocks(unit: Unit) -> list[str]:
    """Locks are taken in one order everywhere; PostgreSQL tells a few seconds later where they were not."""
    count = await unit.value("select deadlocks from pg_stat_database where datname = current_database()")
    return [f"{count} deadlocks"] if count else []


async def unknown_attempts(unit: Unit) -> list[Any]:
    """What an operator could ask again about."""
    return await unit.rows(_UNKNOWN)
