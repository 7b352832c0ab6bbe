"""Reconciliation: what a PSP's statement says agrees with the books, or is a break with a name and a cure."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pasys.domain.reconciliation import BreakKind
from pasys.errors import (
    BreakResolved,
    NoCorrection,
)
from pasys.events import (
    ReconciliationMatched,
    ReconciliationMismatched,
    ReconciliationResolved,
)
from pasys.service import reconciliation, settlement, transaction_query
from tests.reconciliation_world import PSP, SETTLED, World
from tests.support import balance_of, open_accounts, pay


@pytest.fixture
async def world(db) -> World:
    async with db.unit() as unit:
        await open_accounts(unit, assets=("USD", "JPY", "KWD"))
    return World(db)


async def test_a_clean_statement_matches_line_by_line(world):
    """Payments and refunds in three currencies, and a payout: every line is matched, and the books agree with it."""
    for amount_minor, asset in ((10_000, "USD"), (12_500, "JPY"), (234_560, "KWD")):
        paid = await world.captured(amount_minor, 320, asset)
        await world.refunded(paid, amount_minor // 2, asset)
    world.list("payout", -2_000)
    report, said = await world.reconcile()
    assert (report.status, report.lines, report.matched, report.breaks) == ("completed", 7, 7, [])
    assert [type(event) for event in said] == [ReconciliationMatched]
    for asset in ("USD", "JPY", "KWD"):
        assert await world.owed_minor(asset) == world.net_minor(asset)
    assert await world.hold()


async def test_matched_lines_stay_matched(world):
    """A second run over the same statement counts what the first one matched, and changes nothing."""
    await world.captured()
    world.list("payout", -2_000)
    await world.reconcile()
    owed = await world.owed_minor()
    report, _ = await world.reconcile(after=2 * SETTLED)
    assert (report.lines, report.matched, report.breaks) == (2, 2, [])
    assert await world.owed_minor() == owed
    assert (await balance_of(world.db, "bank:main")).minor == 2_000


async def test_a_payout_is_posted_once_and_a_failed_one_comes_back(world):
    """However often its line is read, by however many runs."""
    await world.captured()
    world.list("payout", -2_000, 25)
    for again in range(3):
        await world.reconcile(after=SETTLED * (again + 1))
    assert (await balance_of(world.db, "bank:main")).minor == 2_000
    world.list("payout", 2_000)
    report, _ = await world.reconcile(after=5 * SETTLED)
    assert (await balance_of(world.db, "bank:main")).minor == 0
    assert (report.matched, await world.owed_minor()) == (3, world.net_minor())


async def test_a_payout_whose_line_changes_is_a_break(world):
    """What was posted by an earlier report is what the next one is held against."""
    world.list("payout", -2_000)
    await world.reconcile()
    world.change(0, amount_minor=-2_100)
    report, _ = await world.reconcile(after=2 * SETTLED)
    (found,) = report.breaks
    assert (found.kind, found.difference_minor) == ("amount", -100)
    await world.resolve(found.id)
    assert await world.owed_minor() == world.net_minor() == -2_100


async def _wrong_amount(world: World) -> None:
    world.change(0, amount_minor=10_007)


async def _wrong_fee(world: World) -> None:
    world.change(0, fee_minor=290)


async def _wrong_refund(world: World) -> None:
    world.change(1, amount_minor=-4_100)


async def _fee_on_a_refund(world: World) -> None:
    world.change(1, fee_minor=15)


async def _unknown_charge(world: World) -> None:
    world.list("charge", 5_000, 175, transaction_id="tx_of_somebody_else", source="ch_unknown")


async def _dispute(world: World) -> None:
    world.list("dispute", -10_000, 1_500, transaction_id=world.lines[0].transaction_id)


async def _no_charge(world: World) -> None:
    world.lines.pop(0)


async def _no_refund(world: World) -> None:
    world.lines.pop(1)


async def _charged_twice(world: World) -> None:
    world.list("charge", 10_000, 320, transaction_id=world.lines[0].transaction_id, source="ch_second")


FAULTS = [
    (_wrong_amount, BreakKind.AMOUNT, 7),
    (_wrong_fee, BreakKind.FEE, -30),
    (_wrong_refund, BreakKind.AMOUNT, -100),
    (_fee_on_a_refund, BreakKind.FEE, 15),
    (_unknown_charge, BreakKind.MISSING_IN_LEDGER, 4_825),
    (_dispute, BreakKind.MISSING_IN_LEDGER, -11_500),
    (_no_charge, BreakKind.MISSING_AT_PSP, -9_680),
    (_no_refund, BreakKind.MISSING_AT_PSP, 4_000),
    (_charged_twice, BreakKind.DUPLICATE, 9_680),
]


@pytest.mark.parametrize(("fault", "kind", "difference_minor"), FAULTS)
async def test_a_break_is_found_once_and_its_entry_clears_it(world, fault, kind, difference_minor):
    """Found by kind and amount, not found again, and closed by an entry after which books and statement agree."""
    paid = await world.captured()
    await world.refunded(paid, 4_000)
    await fault(world)
    report, said = await world.reconcile()
    (found,) = report.breaks
    assert (found.kind, found.difference_minor, found.status) == (kind, difference_minor, "open")
    assert [event.break_id for event in said if isinstance(event, ReconciliationMismatched)] == [found.id]
    again, said = await world.reconcile(after=2 * SETTLED)
    assert [one.id for one in again.breaks] == [found.id]
    assert not [event for event in said if isinstance(event, ReconciliationMismatched)]

    async with world.db.unit() as unit:
        proposed = await reconciliation.preview(unit, found.id)
    before = await world.owed_minor()
    assert before != world.net_minor()
    closed = await world.resolve(found.id, note="seen")
    assert (closed.status, closed.resolution, closed.note, closed.actor) == (
        "resolved",
        "corrective entry",
        "seen",
        "tester",
    )
    assert len(closed.transfer_ids) == len(proposed) == 1
    assert proposed[0].amount.minor == abs(difference_minor)
    assert await world.owed_minor() == world.net_minor()
    assert await world.hold()
    with pytest.raises(BreakResolved):
        await world.resolve(found.id)
    last, said = await world.reconcile(after=3 * SETTLED)
    assert (last.open_breaks, last.matched) == (0, last.lines)
    assert [type(event) for event in said] == [ReconciliationMatched]
    assert await world.owed_minor() == world.net_minor()


async def test_an_entry_names_the_transfer_that_it_corrects(world):
    """A fee's correction names the fee's transfer, an amount's the payment's."""
    paid = await world.captured()
    world.change(0, amount_minor=10_007, fee_minor=350)
    report, _ = await world.reconcile()
    closed = {found.kind: await world.resolve(found.id) for found in report.breaks}
    async with world.db.unit() as unit:
        rows = await unit.rows(
            "select c.id, o.code, o.reference from transfer c join transfer o on o.id = c.corrects where c.code = 31"
        )
    corrected = {row.id: (row.code, row.reference) for row in rows}
    assert corrected[closed["fee"].transfer_ids[0]] == (3, paid)
    assert corrected[closed["amount"].transfer_ids[0]] == (2, paid)


async def test_a_repeated_line_is_one_break_and_moves_nothing(world):
    """Listed twice on one page or on two, a line is a duplicate; only a person's word closes it, for good."""
    await world.captured()
    world.lines.append(world.lines[0])
    report, _ = await world.reconcile(pages=2)
    (found,) = report.breaks
    assert (found.kind, found.difference_minor, found.found["occurrence"]) == ("duplicate", 9_680, 2)
    assert (report.lines, report.matched) == (2, 1)
    with pytest.raises(NoCorrection):
        await world.resolve(found.id)
    await world.resolve(found.id, accept=True, note="listed twice")
    report, said = await world.reconcile(after=2 * SETTLED)
    assert (report.open_breaks, len(said)) == (0, 1)


async def test_a_line_that_is_no_longer_repeated_closes_its_break(world):
    """The PSP put its statement right."""
    await world.captured()
    world.lines.append(world.lines[0])
    (found,) = (await world.reconcile())[0].breaks
    world.lines.pop()
    report, said = await world.reconcile(after=2 * SETTLED)
    assert report.open_breaks == 0
    assert [event.break_id for event in said if isinstance(event, ReconciliationResolved)] == [found.id]


async def test_another_currency_and_another_status_wait_for_a_person(world):
    """No entry can put them right; accepted, they stay closed."""
    await world.captured()
    world.change(0, asset="KWD")
    failed = await pay(world.db, "20.00", rail=PSP)
    world.list("charge", 2_000, 88, transaction_id=failed)
    report, _ = await world.reconcile()
    kinds = {found.kind: found for found in report.breaks}
    assert {kind: found.difference_minor for kind, found in kinds.items()} == {"currency": 0, "status": 1_912}
    assert kinds["status"].expected["status"] == "pending"
    assert kinds["currency"].expected["asset"] == "USD" and kinds["currency"].found["asset"] == "KWD"
    for found in kinds.values():
        with pytest.raises(NoCorrection):
            await world.resolve(found.id)
        assert (await world.resolve(found.id, accept=True)).resolution == "accepted"
    again, _ = await world.reconcile(after=2 * SETTLED)
    assert again.open_breaks == 0


async def test_a_payment_under_way_is_given_time(world):
    """A line may come before our own answer: no break until the settling time is over, and none once it is captured."""
    transaction_id = await pay(world.db, "20.00", rail=PSP)
    world.list("charge", 2_000, 88, transaction_id=transaction_id)
    report, _ = await world.reconcile(after=timedelta(seconds=5))
    assert (report.lines, report.matched, report.breaks) == (1, 0, [])
    report, _ = await world.reconcile()
    assert [found.kind for found in report.breaks] == ["status"]
    async with world.db.unit(now=world.now) as unit:
        await settlement.succeed(unit, [world.answer(transaction_id, 2_000, 88, "USD")])
    world.change(0, source_id=f"ch_{transaction_id}")
    report, said = await world.reconcile(after=2 * SETTLED)
    assert (report.matched, report.open_breaks) == (1, 0)
    assert [event.resolution for event in said if isinstance(event, ReconciliationResolved)] == ["corrected"]


async def test_our_side_may_catch_up_with_an_old_line(world):
    """A line that had no counterpart is judged again by later runs, which do not read it again."""
    transaction_id = await pay(world.db, "20.00", rail=PSP)
    world.list("charge", 2_000, 88, transaction_id=transaction_id)
    await world.reconcile()
    async with world.db.unit(now=world.now) as unit:
        await settlement.succeed(unit, [world.answer(transaction_id, 2_000, 88, "USD")])
    world.lines.clear()
    report, _ = await world.reconcile(after=2 * SETTLED)
    assert (report.lines, report.matched, report.open_breaks) == (1, 1, 0)


async def test_what_is_young_is_not_missing(world):
    """A payment is missed at the PSP only when it has had time to appear."""
    await world.captured()
    world.lines.clear()
    report, _ = await world.reconcile(after=timedelta(seconds=30))
    assert report.breaks == []
    report, _ = await world.reconcile(after=timedelta(seconds=90))
    assert [found.kind for found in report.breaks] == ["missing_at_psp"]


async def test_a_late_line_closes_its_break_by_itself(world):
    """What was missing and came after all is matched, and nobody has to do anything."""
    await world.captured()
    late = world.lines.pop()
    (found,) = (await world.reconcile())[0].breaks
    world.lines.append(late)
    report, said = await world.reconcile(after=2 * SETTLED)
    assert (report.matched, report.open_breaks) == (1, 0)
    (resolved,) = (event for event in said if isinstance(event, ReconciliationResolved))
    assert (resolved.break_id, resolved.resolution) == (found.id, "late line")
    async with world.db.unit() as unit:
        assert (await reconciliation.break_(unit, found.id)).resolution == "late line"


async def test_a_line_that_comes_after_its_absence_was_corrected_takes_the_correction_back(world):
    """Else the books would lack a payment that the PSP has."""
    await world.captured()
    late = world.lines.pop()
    (missing,) = (await world.reconcile())[0].breaks
    await world.resolve(missing.id)
    assert await world.owed_minor() == 0
    world.lines.append(late)
    report, _ = await world.reconcile(after=2 * SETTLED)
    (found,) = (one for one in report.breaks if one.status == "open")
    assert (found.kind, found.difference_minor) == ("late", 9_680)
    await world.resolve(found.id)
    report, _ = await world.reconcile(after=3 * SETTLED)
    assert (report.matched, report.open_breaks) == (1, 0)
    assert await world.owed_minor() == world.net_minor() == 9_680
    assert (await balance_of(world.db, "suspense")).minor == 0


async def test_a_statement_that_is_put_right_closes_its_break(world):
    """An amount and a fee that agree by now are nobody's work any more; one that was corrected meanwhile is."""
    await world.captured()
    await world.captured()
    first, second = world.lines
    world.change(0, fee_minor=350)
    world.change(1, amount_minor=10_007)
    report, _ = await world.reconcile()
    await world.resolve(next(found.id for found in report.breaks if found.kind == "amount"))
    world.lines = [first, second]
    report, said = await world.reconcile(after=2 * SETTLED)
    assert [event.resolution for event in said if isinstance(event, ReconciliationResolved)] == ["corrected"]
    (found,) = (one for one in report.breaks if one.status == "open")
    assert (found.kind, found.difference_minor) == ("amount", -7)
    await world.resolve(found.id)
    assert await world.owed_minor() == world.net_minor()


async def test_a_fee_that_only_the_statement_tells_is_booked(world):
    """Settlement did not know the fee: it is no break, it is posted once, and the transaction has it."""
    paid = await world.captured(fee_minor=0)
    world.change(0, fee_minor=320)
    for again in range(2):
        report, _ = await world.reconcile(after=SETTLED * (again + 1))
        assert (report.matched, report.breaks) == (1, [])
    assert (await balance_of(world.db, "fees:psp")).minor == 320
    assert await world.owed_minor() == 9_680
    async with world.db.unit() as unit:
        assert (await transaction_query.get(unit, paid)).fee_minor == 320


async def test_a_line_without_our_id_is_found_by_the_psps(world):
    """The charge's own id is as good as ours."""
    paid = await world.captured()
    await world.refunded(paid, 4_000)
    world.change(0, transaction_id=None)
    world.change(1, refund_id=None)
    report, _ = await world.reconcile()
    assert (report.matched, report.breaks) == (2, [])
