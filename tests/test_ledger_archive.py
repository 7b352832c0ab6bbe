"""What is archived is out of the journal; no other answer changes, and who needs its rows is told where they are."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from pasys.db import Database
from pasys.domain import ledger_answer, posting
from pasys.domain.ledger import Result, Transfer
from pasys.domain.ledger_columns import Columns
from pasys.errors import (
    AccountNotEmpty,
    HistoryArchived,
    HoldsOpen,
    HoldUnusable,
    InvalidInput,
    JournalBusy,
    TransferConflict,
)
from pasys.service import account, ledger, ledger_archive, ledger_archive_restore, ledger_partition, ledger_poster
from tests.archive_kit import ROWS, archive, everything, grown, signer
from tests.ledger_batches import Batches, one_by_one
from tests.ledger_kit import T0, direct, hold_of, people
from tests.support import owning


async def test_an_archive_changes_no_answer_about_what_is_behind_it(db: Database, tmp_path: Path) -> None:
    """Balances, statements page by page and trial balances by both clocks are the same before, after, and once it is
    back, although holds and forward-dated transfers lie on both sides; posting goes on meanwhile."""
    numbers = await grown(db)
    async with db.unit() as unit:
        parts = await ledger_archive.plan(unit, "USD", to=3 * ROWS)
        assert [(part.first_seq, part.last_seq) for part in parts] == [(1, 60), (61, 120), (121, 180)]
        assert await ledger_archive.plan(unit, "USD", before=parts[2].recorded_at) == parts[:2]
    times = [parts[-1].recorded_at + timedelta(minutes=1 + 71 * i) for i in range(14)]
    before = await everything(db, numbers, times)
    written = await archive(db, tmp_path, to=3 * ROWS)
    assert len(written) == 3 and all(one.archived.path.exists() for one in written)
    assert await everything(db, numbers, times) == before
    async with db.unit() as unit:
        assert (await ledger_partition.partitions(unit))[0].first_seq == 181
        assert (await ledger.verify(unit)).ok
        for one in reversed(written):
            row = await ledger_archive_restore.restore(unit, one.archived.path)
            assert (row.action, row.last_seq) == ("restored", one.part.last_seq)
    assert await everything(db, numbers, times) == before
    async with db.unit() as unit:
        assert (await ledger.verify(unit)).ok
        assert len(await ledger.transfers(unit, asset="USD", limit=10_000)) > 3 * ROWS
    assert len(await archive(db, tmp_path, to=3 * ROWS)) == 3, "and again, from the files that are there"
    assert await everything(db, numbers, times) == before


async def test_what_is_archived_is_an_error_that_names_the_file(db: Database, tmp_path: Path) -> None:
    """A time, a period or a row before the archive's end is no empty answer."""
    numbers = await grown(db)
    (first, second) = await archive(db, tmp_path, to=2 * ROWS)
    early = first.part.recorded_at - timedelta(hours=1)
    late = second.part.recorded_at - timedelta(microseconds=1)
    async with db.unit() as unit:
        for at, file in ((early, first.archived.path), (late, second.archived.path)):
            for by in ("effective", "recorded"):
                with pytest.raises(HistoryArchived, match=file.name):
                    await ledger.balance_at(unit, numbers[2], at, by=by)
                with pytest.raises(HistoryArchived, match=file.name):
                    await ledger.trial_balance(unit, at=at, by=by)
                with pytest.raises(HistoryArchived, match=file.name):
                    await ledger.statement(unit, numbers[2], since=at, by=by)
        with pytest.raises(HistoryArchived):
            await ledger.statement(unit, numbers[2], after=3)
        with pytest.raises(HistoryArchived, match=first.archived.path.name):
            await ledger.transfers(unit, asset="USD", after_seq=3)
        assert (await ledger.transfers(unit, asset="USD", after_seq=2 * ROWS))[0].seq == 2 * ROWS + 1
        assert (await ledger.transfers(unit, asset="USD"))[0].seq == 2 * ROWS + 1
        for number in numbers:
            (now,) = (await ledger.balances(unit, [number])).values()
            for by in ("effective", "recorded"):
                whole = await ledger.statement(unit, number, by=by)
                assert whole.closing == now.posted
                page = await ledger.statement(unit, number, by=by, limit=3)
                lines = list(page.lines)
                while page.truncated:
                    page = await ledger.statement(unit, number, by=by, limit=3, after=page.next)
                    lines += page.lines
                assert lines == whole.lines and page.closing == now.posted


async def test_readers_are_not_cut_off(db: Database, tmp_path: Path) -> None:
    """While somebody reads the journal in a long unit nothing is dropped, and who archives is told at once."""
    await grown(db)
    async with db.unit() as unit:
        part = (await ledger_archive.plan(unit, "USD", to=ROWS))[0]
        written = await ledger_archive.write(unit, signer(db), part, tmp_path)
    async with db.unit() as reader:
        rows = await ledger.transfers(reader, asset="USD", limit=5)
        with pytest.raises(JournalBusy):
            async with db.unit() as unit:
                await ledger_archive.drop(unit, written)
        assert await ledger.transfers(reader, asset="USD", limit=5) == rows
    async with db.unit() as unit:
        assert await ledger_archive.drop(unit, written)


async def test_nobody_waits_behind_an_archiver_that_waits(db: Database, tmp_path: Path) -> None:
    """Where a unit has had the journal open for long, dropping is not even tried: the archiver asks for no lock behind
    which others would have to wait, and is told so while that unit goes on."""
    numbers = await grown(db, rounds=14)
    async with db.unit() as unit:
        part = (await ledger_archive.plan(unit, "USD", to=ROWS))[0]
        written = await ledger_archive.write(unit, signer(db), part, tmp_path)
    async with db.unit() as reader:
        await ledger.project(reader, "USD")  # whoever asks for the asset's lock now waits until we end
        await ledger.transfers(reader, asset="USD", limit=5)
        await asyncio.sleep(0.6)
        async with asyncio.timeout(30):
            with pytest.raises(JournalBusy):
                async with db.unit() as unit:
                    await ledger_archive.drop(unit, written)
        await ledger.post(reader, [direct(numbers[0], numbers[2], 5)])


async def test_a_keeper_does_not_wait_with_the_asset_locked(db: Database) -> None:
    """Somebody who works on the journal's table keeps no partition from being made later, and nobody from posting."""
    numbers = await grown(db, rounds=6)
    async with db.unit() as unit:
        await ledger.post(unit, [direct(numbers[0], numbers[2], 1) for _ in range(ROWS)])
    async with owning(db) as busy:
        await busy.rows("lock table only transfer in share update exclusive mode")
        with pytest.raises(JournalBusy):
            async with db.unit() as unit:
                await ledger_partition.keep(unit)
        async with db.unit() as unit:
            await ledger.post(unit, [direct(numbers[0], numbers[2], 5)])
    async with db.unit() as unit:
        assert await ledger_partition.keep(unit)


async def test_how_far_must_be_said(db: Database) -> None:
    """Neither both ends nor none; an open partition is never among them."""
    await grown(db, rounds=6)
    async with db.unit() as unit:
        for how in ({}, {"before": T0, "to": 5}):
            with pytest.raises(InvalidInput):
                await ledger_archive.plan(unit, "USD", **how)  # type: ignore[arg-type]
        last = (await ledger_archive.plan(unit, "USD", to=10**9))[-1:]
        assert all(part.last_seq < 10**6 for part in last)
        assert (await ledger_archive.plan(unit, "USD", to=ROWS - 1)) == []


async def test_a_hold_that_is_open_keeps_its_partition_here(db: Database, tmp_path: Path) -> None:
    """A partition with an open hold is refused by that name, and those before it are not; once the hold is resolved,
    its row goes like any other, and the hold is never used again."""
    async with db.unit(now=T0) as unit:
        await unit.rows("select set_config('pasys.partition_rows', '10', false)")
        alice, bob = await people(unit, "alice", "bob", funds=1_000)
        await ledger.post(unit, [direct(alice, bob, 1) for _ in range(8)])
        held = [
            posting.withdrawal_hold(account=alice, external=bob, amount_minor=100, asset="USD", reference=f"tx_{i}")[0]
            for i in range(3)
        ]
        (posted,) = posting.capture(hold=hold_of(held[0]), captured_minor=60)
        await ledger.post(unit, [*held, posted, *[direct(alice, bob, 1) for _ in range(6)]])
    with pytest.raises(HoldsOpen, match=r"11 to 20 of USD .* 2 of their holds are open, the first is .* .tx_1."):
        await archive(db, tmp_path, to=20)
    assert [path.name for path in tmp_path.iterdir()] == ["USD-000000000000001-000000000000010.archive.gz"]
    async with db.unit(now=T0) as unit:
        (first,) = posting.capture(hold=hold_of(held[1]), captured_minor=30)
        await ledger.post(unit, [first, *posting.void(hold=hold_of(held[2]))])
        await ledger.post(unit, [direct(alice, bob, 1) for _ in range(8)])
        again = [replace(posting.capture(hold=hold_of(one), captured_minor=5)[0]) for one in held]
        before = await ledger.post(unit, again, refuse=False)
        assert [answer.result for answer in before] == [Result.HOLD_RESOLVED] * 3
    assert len(await archive(db, tmp_path, to=30)) == 2
    async with db.unit() as unit:
        assert (await ledger.verify(unit)).ok
        again = [posting.capture(hold=hold_of(one), captured_minor=5)[0] for one in held]
        after = await ledger.post(unit, again, refuse=False)
        assert [answer.result for answer in after] == [Result.HOLD_RESOLVED] * 3
        foreign = replace(again[0], id=direct(1, 2, 1).id, pending_id=direct(1, 2, 1).id)
        assert [answer.result for answer in await ledger.post(unit, [foreign], refuse=False)] == [Result.HOLD_NOT_FOUND]
    with pytest.raises(HoldUnusable, match="hold_resolved"):
        async with db.unit() as unit:
            await ledger.post(unit, posting.void(hold=hold_of(held[0])))
    async with db.unit() as unit:
        assert (await ledger.verify(unit)).ok
        (balance,) = (await ledger.balances(unit, [alice])).values()
        assert (balance.posted.minor, balance.pending.minor) == (1_000 - 22 - 60 - 30, 0)


async def test_what_was_no_hold_is_none_once_it_is_archived(db: Database, tmp_path: Path) -> None:
    """An id in an archive says what it was: a direct transfer and a refused hold are not found, a resolved one is."""
    async with db.unit(now=T0) as unit:
        await unit.rows("select set_config('pasys.partition_rows', '10', false)")
        alice, bob = await people(unit, "alice", "bob", funds=100)
        moved = direct(alice, bob, 1)
        refused, voided = (
            posting.withdrawal_hold(account=alice, external=bob, amount_minor=minor, asset="USD", reference=reference)[
                0
            ]
            for minor, reference in ((10_000, "tx_1"), (10, "tx_2"))
        )
        answers = await ledger.post(unit, [moved, refused, voided], refuse=False)
        assert [one.result for one in answers] == [Result.ACCEPTED, Result.EXCEEDS_CREDITS, Result.ACCEPTED]
        await ledger.post(unit, [*posting.void(hold=hold_of(voided)), *[direct(alice, bob, 1) for _ in range(6)]])

    def asked() -> list[Transfer]:
        return [posting.capture(hold=hold_of(one), captured_minor=1)[0] for one in (moved, refused, voided)]

    async with db.unit() as unit:
        before = [one.result for one in await ledger.post(unit, asked(), refuse=False)]
    assert before == [Result.HOLD_NOT_FOUND, Result.HOLD_NOT_FOUND, Result.HOLD_RESOLVED]
    (written,) = await archive(db, tmp_path, to=10)
    assert written.part.last_seq == 10
    async with db.unit() as unit:
        assert [one.result for one in await ledger.post(unit, asked(), refuse=False)] == before
    async with ledger_poster.Poster(db) as poster:
        assert [result for result, *_ in one_by_one(await poster.post_many(Columns.of(asked())))] == before


async def test_a_hold_on_the_other_side_of_the_border_is_still_known(db: Database, tmp_path: Path) -> None:
    """Where a hold is archived and what resolved it is not, the journal that is left is proven all the same."""
    async with db.unit(now=T0) as unit:
        await unit.rows("select set_config('pasys.partition_rows', '10', false)")
        alice, bob = await people(unit, "alice", "bob", funds=1_000)
        (held,) = posting.withdrawal_hold(account=alice, external=bob, amount_minor=100, asset="USD", reference="tx_1")
        await ledger.post(unit, [held, *[direct(alice, bob, 1) for _ in range(9)]])
        await ledger.post(unit, posting.void(hold=hold_of(held)))
    (written,) = await archive(db, tmp_path, to=10)
    assert len(written.state.holds) == 1
    async with db.unit() as unit:
        found = await ledger.verify(unit)
        assert found.ok and found.archived == {"USD": 10} and found.transfers == 3
        assert [row.seq for row in await ledger.transfers_by_id(unit, [held.id])] == [3]


async def test_what_was_posted_once_is_answered_as_before(db: Database, tmp_path: Path) -> None:
    """A repeated id of an archived row answers with the first result, and another body is a conflict: in a unit and by
    a poster, for every kind of transfer and every refusal."""
    asked: list[Transfer] = []
    await grown(db, asked=asked)
    draw, known = random.Random(4), Batches(9, [])
    asked = [*{one.id: replace(one, linked=False) for one in reversed(asked)}.values()]
    repeats = [draw.choice([one, replace(one, effective_at=None), known._contradict(one)]) for one in asked]
    alone = list({one.id: one for one in repeats}.values())

    async def answers() -> list[tuple[Result, bool, int]]:
        found = []
        for i in range(0, len(alone), 50):
            async with db.unit(now=T0 + timedelta(days=9)) as unit:
                told = await ledger.post(unit, alone[i : i + 50], refuse=False)
                found += [(one.result, one.replayed, one.seq) for one in told]
        return found

    before = await answers()
    assert len({result for result, replayed, _ in before if replayed}) > 5
    assert sum(result is Result.ID_CONFLICT for result, *_ in before) > 30
    await archive(db, tmp_path, to=3 * ROWS)
    assert await answers() == before
    async with ledger_poster.Poster(db) as poster:
        told = await poster.post_many(Columns.of(alone))
        assert list(one_by_one(told)) == [(int(result), *more) for result, *more in before]
    async with db.unit() as unit:
        assert (await ledger.verify(unit)).ok
    with pytest.raises(TransferConflict, match=str(alone[0].id)):
        async with db.unit() as unit:
            await ledger.post(unit, [replace(alone[0], reference="another")])


def test_an_archived_id_is_repeated_in_its_own_asset() -> None:
    """The same accounts and amount in another asset are another transfer."""
    asked = direct(1, 2, 5)
    kept = ledger_answer.Answer("USD", 1, asked.kind, Result.ACCEPTED, 0, ledger_answer.fingerprint(asked))
    assert kept.repeated_by(asked) and not kept.repeated_by(replace(asked, asset="EUR"))


async def test_two_assets_do_not_share_an_archive(db: Database, tmp_path: Path) -> None:
    """Each asset is archived for itself, in one run or in several; the other one's answers do not change."""
    async with db.unit(now=T0) as unit:
        await unit.rows("select set_config('pasys.partition_rows', '10', false)")
        for asset in ("USD", "EUR"):
            alice, bob = await people(unit, "alice", "bob", asset=asset, funds=1_000)
            await ledger.post(unit, [direct(alice, bob, 1, asset=asset) for _ in range(22)])
    async with db.unit() as unit:
        parts = await ledger_archive.plan(unit, before=T0 + timedelta(days=1))
        assert [(part.asset, part.last_seq) for part in parts] == [("EUR", 10), ("EUR", 20), ("USD", 10), ("USD", 20)]
    await archive(db, tmp_path, to=10)
    async with db.unit() as unit:
        found = await ledger.verify(unit)
        assert found.ok and found.archived == {"USD": 10} and found.since == {"EUR": 0, "USD": 10}
        assert (await ledger.transfers(unit, asset="EUR"))[0].seq == 1


async def test_an_account_whose_history_is_archived_closes(db: Database, tmp_path: Path) -> None:
    """Closing asks for the balance alone; an account with money is refused as before."""
    async with db.unit(now=T0) as unit:
        await unit.rows("select set_config('pasys.partition_rows', '10', false)")
        alice, bob = await people(unit, "alice", "bob", funds=8)
        await ledger.post(unit, [direct(alice, bob, 1) for _ in range(8)])
    await archive(db, tmp_path, to=10)
    with pytest.raises(AccountNotEmpty):
        async with db.unit() as unit:
            await account.close(unit, "bob", asset="USD")
    async with db.unit() as unit:
        assert (await account.close(unit, "alice", asset="USD")).status == "closed"
        assert (await ledger.verify(unit)).ok
