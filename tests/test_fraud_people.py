"""People decide what the rules leave to them, once, under their own names; from the command line as well."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pasys.cli.main import run
from pasys.config import Settings
from pasys.db import Database
from pasys.errors import FlagNotPossible, IllegalTransition, InvalidInput, ReviewNotFound, TransactionNotFound
from pasys.events import FraudCleared, FraudFlagged
from pasys.money import parse
from pasys.service import fraud, transaction, transaction_state
from pasys.service.fraud_watch import Watch
from pasys.service.transaction import Draft
from tests import fraud_kit
from tests.fraud_kit import judge, one, pay, review_one

door, people = fraud_kit.door, fraud_kit.people


# Reviews -------------------------------------------------------------------------------------------------------------


async def test_a_person_decides(db: Database, door: Watch, people: None) -> None:
    """A review is approved or rejected once, by a name that stands in the decision; nothing else is reviewable."""
    good, bad = await review_one(db, door), await review_one(db, door)
    (cleared,) = await pay(db, "1.00")
    await judge(db, door, [cleared])
    async with db.unit() as unit:
        waiting = await fraud.reviews(unit)
        assert [(row.transaction_id, row.account, row.amount_minor) for row in waiting] == [
            (good, "alice", 600_000),
            (bad, "alice", 600_000),
        ]
        assert waiting[0].reasons[0]["rule"] == "amount"
    async with db.unit(actor="ann") as unit:
        row = await fraud.approve(unit, good, "known customer")
        await fraud.reject(unit, bad, "stolen card")
        assert [type(event) for event in unit._emitted] == [FraudCleared, FraudFlagged]
        assert (row.outcome, row.decided_by, row.reasons[0]["facts"]["reason"]) == ("cleared", "ann", "known customer")
    async with db.unit() as unit:
        assert await fraud.reviews(unit) == []
        assert [(row.outcome, row.decided_by) for row in await fraud.explain(unit, bad)] == [
            ("review", "daemon:fraud"),
            ("flagged", "ann"),
        ]
        for transaction_id in (good, bad, cleared.transaction_id, "tx_nothing"):
            with pytest.raises(ReviewNotFound):
                await fraud.approve(unit, transaction_id, "again")


async def test_two_people_decide_at_once(db: Database, door: Watch, people: None) -> None:
    """Of an approval and a rejection at the same moment exactly one counts."""
    transaction_id = await review_one(db, door)

    async def decide_it(how: Any) -> bool:
        try:
            async with db.unit() as unit:
                await how(unit, transaction_id, "mine")
            return True
        except ReviewNotFound:
            return False

    assert sum(await asyncio.gather(*(decide_it(how) for how in (fraud.approve, fraud.reject) * 4))) == 1
    assert await one(db, "select count(*) from fraud_decision") == 2


async def test_a_cancelled_payment_is_reviewed_no_more(db: Database, door: Watch, people: None) -> None:
    """Approving what was cancelled meanwhile is an illegal move; a reason is always asked for."""
    transaction_id = await review_one(db, door)
    async with db.unit() as unit:
        with pytest.raises(InvalidInput):
            await fraud.approve(unit, transaction_id, "  ")
    assert await one(db, "select review from transaction where id = %(id)s", id=transaction_id)
    async with db.unit() as unit:
        await transaction_state.cancel(unit, transaction_id)
        assert await fraud.reviews(unit) == []
        with pytest.raises(IllegalTransition):
            await fraud.approve(unit, transaction_id, "too late")


async def test_flagged_by_a_person(db: Database, door: Watch, people: None) -> None:
    """A person can flag a payment at any time until it is over, once; a book transfer cannot be flagged."""
    (event,) = await pay(db, "1.00")
    await judge(db, door, [event])
    async with db.unit() as unit:
        await unit.rows("update transaction set status = 'succeeded', final_at = now()")
        row = await fraud.flag(unit, event.transaction_id, "chargeback")
        assert (row.outcome, row.score, row.decided_by) == ("flagged", 1.0, "tester")
        assert [type(said) for said in unit._emitted] == [FraudFlagged]
    async with db.unit() as unit:
        with pytest.raises(IllegalTransition):
            await fraud.flag(unit, event.transaction_id, "again")
        with pytest.raises(TransactionNotFound):
            await fraud.flag(unit, "tx_nothing", "x")
        (cancelled,) = await pay(db, "1.00")
        await transaction_state.cancel(unit, cancelled.transaction_id)
        with pytest.raises(IllegalTransition):
            await fraud.flag(unit, cancelled.transaction_id, "x")
        book = await transaction.create(unit, Draft(amount=parse("5", "USD"), rail="book", credit="alice"))
        with pytest.raises(FlagNotPossible):
            await fraud.flag(unit, book.transaction_id or "", "x")


# From the command line -----------------------------------------------------------------------------------------------


async def typed(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
    """A command line in a thread of its own; what it printed as JSON."""
    capsys.readouterr()
    assert await asyncio.to_thread(run, [*words, "--json"]) == code
    return msgspec.json.decode(capsys.readouterr().out)


@pytest.fixture
def typist(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The command line speaks to this test's database."""
    monkeypatch.setenv("DATABASE_URL", settings.require("database_url"))
    monkeypatch.setenv("PASYS_HOME", str(tmp_path))
    monkeypatch.setenv("PASYS_ACTOR", "ann")
    return tmp_path


async def test_reviews_from_the_command_line(
    db: Database, door: Watch, people: None, typist: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What waits is listed, decided once and explained; the refusals have the exit codes that are promised."""
    good, bad = await review_one(db, door), await review_one(db, door)
    listed = (await typed(capsys, "fraud", "review", "list"))["reviews"]
    assert [(row["transaction_id"], row["amount"], row["account"]) for row in listed] == [
        (good, "6000.00", "alice"),
        (bad, "6000.00", "alice"),
    ]
    approved = await typed(capsys, "fraud", "review", "approve", good, "--reason", "known")
    assert (approved["outcome"], approved["decided_by"]) == ("cleared", "ann")
    again = await typed(capsys, "fraud", "review", "approve", good, "--reason", "known", code=3)
    assert again["error"]["code"] == "review_not_found"
    await typed(capsys, "fraud", "review", "reject", bad, "--reason", "stolen")
    await typed(capsys, "fraud", "flag", bad, "--reason", "stolen", code=4)
    explained = await typed(capsys, "fraud", "explain", bad)
    assert [row["outcome"] for row in explained["decisions"]] == ["review", "flagged"]
    assert await asyncio.to_thread(run, ["fraud", "explain", bad]) == 0
    assert "stolen" in capsys.readouterr().out


async def test_rules_from_the_command_line(typist: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The document is shown, edited and put in force; lists are edited in place; a bad document names its field."""
    shown = await typed(capsys, "fraud", "rules", "show")
    assert shown["version"] == 1
    file = typist / "rules.json"
    file.write_bytes(msgspec.json.encode(shown["rules"] | {"thresholds": {"review": 0.5, "flag": 0.9}}))
    put = await typed(capsys, "fraud", "rules", "set", str(file), "--note", "softer", "--based-on", "1")
    assert (put["version"], put["rules"]["thresholds"]["flag"], put["actor"]) == (2, 0.9, "ann")
    await typed(capsys, "fraud", "rules", "set", str(file), "--based-on", "1", code=4)
    await typed(capsys, "fraud", "block", "add", "mallory")
    listed = await typed(capsys, "fraud", "allow", "add", "pm_card_visa")
    assert listed["rules"]["block"]["accounts"] == ["mallory"]
    assert listed["rules"]["allow"]["payment_methods"] == ["pm_card_visa"]
    assert (await typed(capsys, "fraud", "block", "remove", "mallory"))["rules"]["block"]["accounts"] == []
    versions = (await typed(capsys, "fraud", "rules", "list"))["versions"]
    assert [(row["version"], row["note"]) for row in versions] == [
        (5, "block remove mallory"),
        (4, "allow add pm_card_visa"),
        (3, "block add mallory"),
        (2, "softer"),
        (1, "built in"),
    ]
    file.write_text('{"block": {"cards": []}}')
    refused = await typed(capsys, "fraud", "rules", "set", str(file), code=2)
    assert refused["error"]["facts"]["field"] == "rules.block.cards"
    file.write_text("{")
    assert (await typed(capsys, "fraud", "rules", "set", str(file), code=2))["error"]["facts"]["field"] == "file"
    await typed(capsys, "fraud", "rules", "show", "--version", "9", code=3)
    assert await asyncio.to_thread(run, ["fraud", "rules", "show"]) == 0
