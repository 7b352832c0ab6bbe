"""Trace: any id of a payment leads to the same story, and the story is whole."""

from __future__ import annotations

from typing import Any

import pytest

from pasys import ids
from pasys.db import Database, Unit, queries
from pasys.errors import NothingToTrace
from pasys.money import Money
from pasys.service import refund, refund_query, transaction, transaction_state
from pasys.service.trace import Trace, trace
from tests.support import daemons, eventually, open_accounts, pay, until_status

KINDS = {"transaction", "verdict", "attempt", "transfer", "event", "refund"}


@pytest.fixture
async def paid(settings: Any, db: Database) -> tuple[str, str]:
    """A payment that went through the daemons, and its refund, completed."""
    async with db.unit() as unit:
        await open_accounts(unit)
    async with daemons(settings):
        transaction_id = await pay(db, "100.00")
        await until_status(db, transaction_id, "succeeded")
        async with db.unit() as unit:
            asked = await refund.request(unit, transaction_id, amount=Money(4_000, "USD"), reason="sent back")

        async def completed() -> bool:
            async with db.unit() as unit:
                return (await refund_query.get(unit, asked.refund_id)).status == "completed"

        await eventually(completed)
        return transaction_id, asked.refund_id


async def told(db: Database, any_id: str) -> Trace:
    async with db.unit() as unit:
        return await trace(unit, any_id)


async def add_statement(unit: Unit, transaction_id: str) -> tuple[str, str, str]:
    """A run, a line that agrees with the payment, and a break about its fee."""
    run_id, break_id, line_id = ids.new("run"), ids.new("brk"), "txn_1"
    await unit.rows(
        "insert into reconciliation_run (id, psp, status, since, until, actor)"
        " values (%(id)s, 'instant', 'completed', %(now)s, %(now)s, 'tester')",
        id=run_id, now=unit.now,
    )  # fmt: skip
    await unit.rows(
        "insert into statement_line (psp, line_id, occurrence, run_id, type, asset, amount_minor, fee_minor, source_id,"
        " status, created_at, matched, matched_id)"
        " values ('instant', %(line)s, 1, %(run)s, 'charge', 'USD', 10000, 320, 'ch_x', 'available', %(now)s, true,"
        " %(tx)s)",
        line=line_id, run=run_id, tx=transaction_id, now=unit.now,
    )  # fmt: skip
    await unit.rows(
        "insert into reconciliation_break (id, run_id, psp, kind, asset, difference_minor, line_id, entity_id,"
        " evidence)"
        " values (%(id)s, %(run)s, 'instant', 'fee', 'USD', 5, %(line)s, %(tx)s, '{}')",
        id=break_id, run=run_id, line=line_id, tx=transaction_id,
    )  # fmt: skip
    return run_id, break_id, line_id


async def add_notice(unit: Unit, transaction_id: str) -> str:
    notice_id = ids.new("ntc")
    await unit.rows(
        "insert into psp_notice (psp, event_id, notice_id, type, object_id, transaction_id, payload)"
        " values ('instant', 'evt_at_psp', %(id)s, 'payment_intent.succeeded', 'pi_other', %(tx)s, '{}')",
        id=notice_id, tx=transaction_id,
    )  # fmt: skip
    return notice_id


async def test_every_id_of_a_story_leads_to_the_same_story(paid: tuple[str, str], db: Database) -> None:
    """From a transaction, refund, event, decision, transfer, attempt, PSP object, line, break or notice: one story."""
    transaction_id, refund_id = paid
    async with db.unit() as unit:
        _, break_id, line_id = await add_statement(unit, transaction_id)
        notice_id = await add_notice(unit, transaction_id)
    whole = await told(db, transaction_id)
    found = {node.id: node for node in whole.nodes}
    references = {
        node.facts[name]
        for node in whole.nodes
        for name in ("psp_reference", "charge_reference")
        if node.facts.get(name)
    }
    assert {reference.partition("_")[0] for reference in references} == {"pi", "ch", "re"}
    asked = found.keys() | references
    asked |= {refund_id, break_id, line_id, f"{line_id}#2", notice_id, "ch_x", "pi_other", "evt_at_psp"}
    for any_id in sorted(asked):
        other = await told(db, any_id)
        assert other == whole, f"{any_id} leads elsewhere: {other.root}"


async def test_a_story_is_whole(paid: tuple[str, str], db: Database) -> None:
    """A refunded payment's story has its verdict, calls, journal lines, events, refund, line, break and notice."""
    transaction_id, refund_id = paid
    async with db.unit() as unit:
        await add_statement(unit, transaction_id)
        await add_notice(unit, transaction_id)
    story = await told(db, refund_id)
    assert story.root == story.nodes[0].id == transaction_id
    by_kind: dict[str, list[Any]] = {}
    for node in story.nodes:
        by_kind.setdefault(node.kind, []).append(node)
    assert set(by_kind) == KINDS | {"statement_line", "break", "notice"}
    assert [node.facts["step"] for node in by_kind["attempt"]] == ["authorise", "capture", "refund"]
    purposes = [node.facts["purpose"].name for node in by_kind["transfer"]]
    assert purposes[0] == "HOLD" and {"PAYMENT", "FEE", "REFUND_RESERVE", "REFUND_COMPLETE"} <= set(purposes)
    seqs = [node.facts["seq"] for node in by_kind["transfer"]]
    assert seqs == sorted(seqs), "transfers stand in the journal's order"
    assert [node.at for node in story.nodes[1:]] == sorted(node.at for node in story.nodes[1:])
    assert by_kind["transfer"][0].facts["credit"] == "alice"
    assert [step["to"] for step in story.nodes[0].facts["history"]][:3] == ["initialized", "pending", "succeeded"]
    subjects = {node.facts["subject"] for node in by_kind["event"]}
    assert {"transaction.created", "fraud.cleared", "settlement.succeeded", "refund.completed"} <= subjects


async def test_edges_say_what_led_to_what(paid: tuple[str, str], db: Database) -> None:
    """Events name their causes, transfers who posted them, calls who asked, and every edge joins two nodes."""
    transaction_id, refund_id = paid
    story = await told(db, transaction_id)
    kind = {node.id: node.kind for node in story.nodes}
    subject = {node.id: node.facts["subject"] for node in story.nodes if node.kind == "event"}
    assert all(edge.from_ in kind and edge.to in kind for edge in story.edges)
    says = {(kind[edge.from_], edge.says, kind[edge.to]) for edge in story.edges}
    assert {
        ("verdict", "decided", "transaction"),
        ("transaction", "asked", "attempt"),
        ("refund", "asked", "attempt"),
        ("transaction", "posted", "transfer"),
        ("refund", "posted", "transfer"),
        ("transfer", "used", "transfer"),
        ("refund", "refunds", "transaction"),
        ("event", "caused", "event"),
        ("event", "moved to succeeded", "transaction"),
        ("event", "moved to completed", "refund"),
    } <= says
    caused = {(subject[e.from_], subject[e.to]) for e in story.edges if e.says == "caused"}
    assert ("transaction.created", "fraud.cleared") in caused
    assert ("settlement.requested", "settlement.succeeded") in caused
    assert ("refund.sent", "refund.completed") in caused
    assert refund_id in kind


async def test_queries_do_not_grow_with_the_story(paid: tuple[str, str], db: Database) -> None:
    """Five refunds are traced with as many statements as one."""
    transaction_id, _ = paid

    async def statements() -> int:
        async with db.unit() as unit:
            count = 0
            rows = unit.rows

            async def counted(sql: str, **values: Any) -> list[Any]:
                nonlocal count
                count += 1
                return await rows(sql, **values)

            unit.rows = counted  # type: ignore[method-assign]
            await trace(unit, transaction_id)
            return count

    before = await statements()
    for _ in range(4):
        async with db.unit() as unit:
            await refund.request(unit, transaction_id, amount=Money(100, "USD"))
    assert await statements() == before <= 15


async def test_a_book_transfer_and_its_reversal_are_one_story(db: Database) -> None:
    """The reversal leads to what it reversed."""
    async with db.unit() as unit:
        await open_accounts(unit)
        draft = transaction.Draft(amount=Money(500, "USD"), credit="alice")
        created = await transaction.create(unit, draft)
        assert created.transaction_id is not None
    async with db.unit() as unit:
        reversal_id = await transaction_state.reverse(unit, created.transaction_id, reason="by mistake")
    story = await told(db, reversal_id)
    assert story.root == created.transaction_id
    assert [node.kind for node in story.nodes].count("transaction") == 2
    says = {(edge.from_, edge.says, edge.to) for edge in story.edges}
    assert (reversal_id, "reverses", created.transaction_id) in says
    assert any(edge.says == "corrects" for edge in story.edges)


async def test_a_run_tells_its_own_story(paid: tuple[str, str], db: Database) -> None:
    """A run of reconciliation is about many payments: its story is the run, its breaks and their lines."""
    transaction_id, _ = paid
    async with db.unit() as unit:
        run_id, break_id, line_id = await add_statement(unit, transaction_id)
    story = await told(db, run_id)
    assert story.root == run_id
    assert {node.id: node.kind for node in story.nodes} == {
        run_id: "run", break_id: "break", line_id: "statement_line",
    }  # fmt: skip
    assert ("found", break_id) in {(edge.says, edge.to) for edge in story.edges}


async def test_a_line_that_nobody_knows_has_a_story(db: Database) -> None:
    """A line without a counterpart, its break, and nothing else."""
    async with db.unit() as unit:
        _, break_id, line_id = await add_statement(unit, "tx_nobody")
        await unit.rows("update statement_line set matched = false, matched_id = null")
        await unit.rows("update reconciliation_break set entity_id = null, kind = 'missing_in_ledger'")
    for any_id in (break_id, line_id, "ch_x"):
        kinds = [node.kind for node in (await told(db, any_id)).nodes]
        assert sorted(kinds) == ["break", "statement_line"], any_id


@pytest.mark.parametrize("any_id", ["tx_nobody", "rf_nobody", "pi_nobody", "0199aaaa-0000-7000-8000-000000000000", "x"])
async def test_an_id_that_nobody_knows_is_refused(unit: Unit, any_id: str) -> None:
    """Nothing is not an empty story."""
    with pytest.raises(NothingToTrace):
        await trace(unit, any_id)


TABLES = (
    "transaction", "transaction_history", "refund", "refund_history", "attempt", "fraud_decision", "event",
    "statement_line", "reconciliation_break", "psp_notice",
)  # fmt: skip


@pytest.mark.parametrize("name", sorted(queries("trace")))
async def test_every_question_goes_by_an_index(db: Database, name: str) -> None:
    """However large the tables are: no query of a trace reads one from end to end, whichever id it begins with."""
    sql = queries("trace")[name]
    values: dict[str, Any] = {"id": "ch_x", "story": "tx_x", "limit": 100} | {
        key: ["tx_x"] for key in ("ids", "entities", "psps", "lines", "stories", "runs", "breaks")
    }
    if name == "story_of_transfer":
        values["id"] = "0199aaaa-0000-7000-8000-000000000000"
    async with db.unit() as unit:
        await unit.rows("set local enable_seqscan = off")
        used = {key: value for key, value in values.items() if f"%({key})s" in sql}
        (plan,) = await unit.value(f"explain (format json) {sql}", **used)
    for node in _nodes(plan["Plan"]):
        if node.get("Relation Name") in TABLES:
            assert node["Node Type"] != "Seq Scan", node
            assert "Index Cond" in node or "Recheck Cond" in node, node


def _nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for below in plan.get("Plans", []) for node in _nodes(below))]


async def test_a_declined_payment_is_found_by_the_psp_s_id(settings: Any, db: Database) -> None:
    """What the PSP called the payment that it declined leads to its story."""
    async with db.unit() as unit:
        await open_accounts(unit)
    async with daemons(settings):
        transaction_id = await pay(db, "100.00", payment_method="pm_card_visa_chargeDeclined")
        failed = await until_status(db, transaction_id, "failed")
    assert failed.psp_reference
    assert (await told(db, failed.psp_reference)).root == transaction_id
