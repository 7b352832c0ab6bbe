"""Book transactions that are created as columns are the same as those that are created one object at a time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from typing import Any

import pytest

from pasys.config import Settings
from pasys.db import Database
from pasys.errors import AccountNotFound, RequestUnderWay
from pasys.money import Money
from pasys.service import account, ledger, transaction
from pasys.service.transaction import Created, Draft, Turn
from tests.ledger_kit import until_waiting
from tests.support import eventually, owning

Spaces = Callable[[], AbstractContextManager[Settings]]
ADA, ELSEWHERE = "acc_of_ada", "acc_of_ada_in_another_asset"  # for which the account's own id is put
NAMES = ["ada", "ada", "ada", "ben", "ben", "shop", "shop", "ice", "gone", "nobody", None]
BY_ID = [ADA, ADA, ELSEWHERE, "external:deposits"]
THEN = datetime(2026, 3, 1, tzinfo=UTC)


def drafts(seed: int, count: int) -> list[Draft]:
    """Deposits, payments, transfers and withdrawals, many of which some rule refuses, and keys that come again."""
    random_ = random.Random(seed)
    made = [Draft(Money(500, asset), credit=name) for asset in ("USD", "JPY") for name in ("ada", "ben")]
    while len(made) < count:
        draft = Draft(
            amount=Money(random_.choice([1, 1, 3, 7, 60, 400, 0]), random_.choice(["USD", "USD", "USD", "JPY", "EUR"])),
            kind=random_.choice([None] * 12 + transaction_kinds()),
            debit=random_.choice(NAMES),
            credit=random_.choice(NAMES),
            effective_at=random_.choice([None, None, THEN]),
            metadata=random_.choice([None, None, {"note": 'a "b" \\ ü'}]),
            key=random_.choice([None, *[f"k{random_.randrange(40)}"] * 6, "", "k\0"]),
            batch_id="imp_1",
        )
        made += [draft, draft._replace(amount=Money(9, "USD"))] if random_.random() < 0.05 else [draft]
    others = random.Random(seed)
    return [_by_id(draft, others.choice(BY_ID)) if others.random() < 0.15 else draft for draft in made]


def _by_id(draft: Draft, other: str) -> Draft:
    """The draft with another name for ada; without a key, because ids differ from world to world."""
    names = {"ada": other}
    debit, credit = (name and names.get(name, name) for name in (draft.debit, draft.credit))
    return draft._replace(debit=debit, credit=credit, key=None) if "ada" in (draft.debit, draft.credit) else draft


def transaction_kinds() -> list[Any]:
    from pasys.domain.transaction import Kind

    return list(Kind)


def said(answer: Created, ids: dict[str, str]) -> tuple[Any, ...]:
    """An answer without what differs from run to run."""
    differs = {"transfer_id": "", "entity_id": "", "account": ""}
    refusal = answer.refusal and (answer.refusal.code, {**answer.refusal.facts, **differs})
    return ids.get(answer.transaction_id or ""), answer.status, answer.replayed, refusal


TRANSACTIONS = """
select t.id, t.kind, t.rail, t.status, t.asset, t.amount_minor, d.name as debit, c.name as credit, t.batch_id, t.actor,
       t.metadata, nullif(t.effective_at, t.created_at) as effective_at, t.final_at = t.created_at as at_once,
       array(select (j.debit, j.credit, j.amount, j.code, j.result) = (t.debit_account, t.credit_account,
                                                                        t.amount_minor, j.code, 0)
                 and j.reference = t.id from transfer j where j.id = any (t.transfer_ids)) as posted,
       array(select row(coalesce(h.from_status, '-'), h.to_status, h.at = t.created_at, h.actor)::text
               from transaction_history h where h.transaction_id = t.id order by 1) as history,
       array(select (convert_from(e.body, 'utf8')::jsonb - '{id,time,correlation_id}'::text[])
                     #- '{data,transaction_id}'::text[]
               from event e join outbox o on o.event_id = e.id where e.correlation_id = t.id) as events
  from transaction t join account d on d.id = t.debit_account join account c on c.id = t.credit_account order by t.id
"""


def meant(draft: Draft, named: dict[str, str]) -> Draft:
    """The draft with ids where they are meant."""
    asset = draft.amount.asset if draft.amount.asset in named else "USD"
    ids = {ADA: named[asset], ELSEWHERE: named["JPY" if asset == "USD" else "USD"]}
    return draft._replace(
        debit=ids.get(draft.debit or "", draft.debit), credit=ids.get(draft.credit or "", draft.credit)
    )


async def world(settings: Settings, batches: list[list[Draft]], *, in_turn: bool = False) -> list[Any]:
    """What is answered and what is stored, ids replaced by the order of their rows. With `in_turn`, each batch knows
    what became of the one before it."""
    db = Database(settings)
    try:
        async with db.unit() as unit:
            for name, kind in (("ada", "customer"), ("ben", "customer"), ("shop", "merchant"), ("ice", "customer")):
                for asset in ("USD", "JPY"):
                    await account.open(unit, name=name, type=kind, asset=asset)
            await account.open(unit, name="gone", type="customer", asset="USD")
            await account.freeze(unit, "ice", "USD")
            await account.close(unit, "gone", "USD")
            named = {asset: (await account.find(unit, "ada", asset)).id for asset in ("USD", "JPY")}
        answers: list[Created] = []
        turn, met = None, {}
        for number, batch in enumerate(batches):
            turn = Turn(turn, met) if in_turn else Turn()
            async with db.unit() as unit:
                asked = [meant(draft, named) for draft in batch]
                answers += await transaction.create_many(unit, asked, partial=True, turn=turn)
                if number == 1:  # what was met is not always as it was
                    await account.freeze(unit, "ben", "USD")
            turn.committed.set()
        async with db.unit() as unit:
            rows = await unit.rows(TRANSACTIONS)
            ids = {row.id: f"#{n}" for n, row in enumerate(rows)}
            keys = await unit.rows("select key, body_hash, entity_id from idempotency order by key")
            left = await unit.rows(
                "select (select count(*) from event) as events, (select count(*) from transaction_history) as moves,"
                " count(*) as transfers, count(*) filter (where result = 0) as accepted from transfer"
            )
            assert (await ledger.verify(unit)).findings == []
        stored = [(ids[row.id], *row[1:]) for row in rows]
        taken = [(row.key, bytes(row.body_hash), ids[row.entity_id]) for row in keys]
        return [[said(one, ids) for one in answers], stored, taken, [tuple(row) for row in left]]
    finally:
        await db.close()


@pytest.mark.parametrize("in_turn", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_columns_and_objects_are_the_same(
    seed: int, in_turn: bool, spaces: Spaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same answers, rows, postings, histories, announcements and keys, refusals and replays among them."""
    harmless = [Draft(Money(1, "USD"), credit="ada"), Draft(Money(1, "JPY"), credit="ben")]
    batches = [drafts(seed, 120), harmless, harmless, drafts(seed, 60) + drafts(seed + 100, 60)]
    found = []
    for book_from in (1, 10**9):
        monkeypatch.setattr(transaction, "BOOK_FROM", book_from)
        monkeypatch.setattr("pasys.db.COPY_FROM", book_from)
        monkeypatch.setattr("pasys.service.idempotency.COPY_FROM", book_from)
        with spaces() as settings:
            found.append(asyncio.run(world(settings, batches, in_turn=in_turn)))
    for one, other in zip(*found, strict=True):
        assert one == other
    rules = {refusal[0] for *_, refusal in found[0][0] if refusal}
    assert {"account_not_found", "transfer_refused", "idempotency_mismatch", "invalid_input"} <= rules
    assert len(found[0][1]) > 20 and any(replayed for _, _, replayed, _ in found[0][0])


async def test_batches_that_share_keys_in_opposite_order_do_not_wait_for_each_other(db: Database) -> None:
    """Two callers create two batches each, at a time; what one has first the other has second. All of them end."""
    async with db.unit() as unit:
        await account.open(unit, name="ada", type="customer", asset="USD")

    async def caller(order: tuple[str, str]) -> list[Created]:
        async def one(key: str, turn: Turn) -> list[Created]:
            async with db.unit() as unit:
                draft = Draft(Money(1, "USD"), credit="ada", key=key)
                made = await transaction.create_many(unit, [draft], partial=True, turn=turn)
            turn.committed.set()
            return made

        first = Turn()
        batches = await asyncio.gather(one(order[1], Turn(first)), one(order[0], first))
        return [made for batch in batches for made in batch]

    for n in range(20):
        keys = f"{n}a", f"{n}b"
        async with asyncio.timeout(20):
            found = await asyncio.gather(caller(keys), caller((keys[1], keys[0])))
        assert len({made.transaction_id for batch in found for made in batch}) == 2


async def open_ada(db: Database) -> None:
    """ada, and the account of the world outside that pays her: whoever has to open it makes others wait."""
    async with db.unit() as unit:
        await account.open(unit, name="ada", type="customer", asset="USD")
        await account.system(unit, "external:deposits", "USD")


async def test_what_is_undone_takes_no_keys(db: Database) -> None:
    """A unit that fails after six hundred were created leaves none of them, nor their keys: asked again, they are
    new."""
    await open_ada(db)
    wanted = [Draft(Money(1, "USD"), credit="ada", key=f"k{n}") for n in range(600)]
    with suppress(KeyError):
        async with db.unit() as unit:
            await transaction.create_many(unit, wanted, partial=True)
            raise KeyError
    async with db.unit() as unit:
        for table in ("idempotency", "transaction", "transaction_history"):
            assert await unit.value(f"select count(*) from {table}") == 0, table
        made = await transaction.create_many(unit, wanted, partial=True)
    assert not any(one.replayed or one.refusal for one in made)


async def test_equal_batches_at_once_are_one(db: Database) -> None:
    """Six callers ask for the same six hundred at a time, in different orders: one makes them, and all get the same
    answers."""
    await open_ada(db)
    wanted = [Draft(Money(n + 1, "USD"), credit="ada", key=f"k{n}") for n in range(600)]

    async def caller(seed: int) -> dict[str, Created]:
        asked = random.Random(seed).sample(wanted, len(wanted))
        async with db.unit() as unit:
            made = await transaction.create_many(unit, asked, partial=True)
        return {str(draft.key): one for draft, one in zip(asked, made, strict=True)}

    async with asyncio.timeout(60):
        found = await asyncio.gather(*map(caller, range(6)))
    assert all(one.refusal is None for answers in found for one in answers.values())
    assert len({tuple(sorted((key, one.transaction_id) for key, one in answers.items())) for answers in found}) == 1
    assert sorted(sum(one.replayed for one in answers.values()) for answers in found) == [0, 600, 600, 600, 600, 600]
    async with db.unit() as unit:
        assert await unit.value("select count(*) from transaction") == 600
        assert await unit.value("select count(*) from idempotency") == 600


async def test_equal_batches_that_meet_half_way_do_not_wait_for_each_other(db: Database) -> None:
    """Two callers want the same keys in opposite order, and both come upon one in the middle that somebody has and then
    does not take."""
    await open_ada(db)
    wanted = [Draft(Money(1, "USD"), credit="ada", key=f"k{n}") for n in range(600)]

    async def caller(asked: list[Draft]) -> list[Created]:
        async with db.unit() as unit:
            return await transaction.create_many(unit, asked, partial=True)

    async def both_wait() -> bool:
        async with owning(db) as unit:
            return await unit.value(
                "select count(*) = 2 from pg_stat_activity"
                " where datname = current_database() and wait_event_type = 'Lock'"
            )

    callers: list[asyncio.Task[list[Created]]] = []
    with suppress(KeyError):
        async with db.unit() as unit:
            await transaction.create(unit, wanted[300])
            callers += [asyncio.create_task(caller(asked)) for asked in (wanted, wanted[::-1])]
            await eventually(both_wait)
            raise KeyError
    async with asyncio.timeout(30):
        one, other = await asyncio.gather(*callers)
    assert [made.transaction_id for made in one] == [made.transaction_id for made in reversed(other)]


async def test_one_key_that_is_taken_does_not_keep_the_others_from_being_taken(db: Database) -> None:
    """Among six hundred new ones there is one of before, and one of before with another body."""
    await open_ada(db)
    async with db.unit() as unit:
        before = [Draft(Money(1, "USD"), credit="ada", key=key) for key in ("k300", "k599")]
        (first, _) = await transaction.create_many(unit, before, partial=True)
    asked = [Draft(Money(1 if n == 300 else 2, "USD"), credit="ada", key=f"k{n}") for n in range(600)]
    async with db.unit() as unit:
        made = await transaction.create_many(unit, asked, partial=True)
    assert (made[300].transaction_id, made[300].replayed) == (first.transaction_id, True)
    assert made[599].refusal is not None and made[599].refusal.code == "idempotency_mismatch"
    fresh = {one.transaction_id for one in made if not one.replayed and one.refusal is None}
    assert len(fresh) == 598 and first.transaction_id not in fresh
    async with db.unit() as unit:
        again = await transaction.create_many(unit, asked, partial=True)
    assert [one.transaction_id for one in again] == [one.transaction_id for one in made]
    assert sum(one.replayed for one in again) == 599


@pytest.mark.parametrize("book_from", [1, 10**9])
async def test_batches_post_in_their_order(book_from: int, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two batches spends what the first deposits, although it could have posted long before."""
    monkeypatch.setattr(transaction, "BOOK_FROM", book_from)
    async with db.unit() as unit:
        await account.open(unit, name="ada", type="customer", asset="USD")
        await account.open(unit, name="shop", type="merchant", asset="USD")
    late = asyncio.Event()

    class Late(Turn):
        async def post(self) -> None:
            await late.wait()

    async def one(draft: Draft, turn: Turn) -> list[Created]:
        async with db.unit() as unit:
            made = await transaction.create_many(unit, [draft], partial=True, turn=turn)
        turn.committed.set()
        return made

    first, price = Late(), Money(5, "USD")
    batches = asyncio.gather(
        one(Draft(price, credit="ada"), first), one(Draft(price, debit="ada", credit="shop"), Turn(first))
    )
    await asyncio.sleep(0.3)
    assert not batches.done()
    late.set()
    async with asyncio.timeout(20):
        assert [made.refusal for batch in await batches for made in batch] == [None, None]


@pytest.mark.parametrize("book_from", [1, 10**9])
@pytest.mark.parametrize("wanted", ["key", "account"])
async def test_who_holds_the_books_waits_only_briefly_for_what_comes_before_them(
    wanted: str, book_from: int, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has the key, or opens the system's account, may be waiting for the books in a queue outside of PostgreSQL."""
    monkeypatch.setattr(transaction, "BOOK_FROM", book_from)
    monkeypatch.setattr("pasys.db.BRIEFLY_S", 0.3)
    await open_ada(db)
    five = Money(5, "USD")
    held = Draft(five, debit="ada", key="other") if wanted == "account" else Draft(five, credit="ada", key="k")
    before = Turn()
    before.claimed.set()
    queue = Turn(before)

    async def queueing() -> list[Created]:
        async with db.unit() as unit:
            return await transaction.create_many(unit, [held], partial=True, turn=queue)

    async with asyncio.timeout(20):
        waiting = asyncio.create_task(queueing())
        await queue.claimed.wait()
        with pytest.raises(RequestUnderWay):
            async with db.unit() as unit:
                await transaction.create_many(unit, [Draft(five, credit="ada")] * 2, partial=True)
                await transaction.create_many(unit, [held._replace(key="k")], partial=True)
        before.committed.set()
        (made,) = await waiting
    assert (made.refusal is None) == (wanted == "key")  # the funds were those of the unit that was undone
    async with db.unit() as unit:
        assert await unit.value("select count(*) from transaction") == int(wanted == "key")
        await transaction.create_many(unit, [Draft(five, credit="ada")] * 2, partial=True)
        async with unit.briefly():
            assert await unit.value("show lock_timeout") == "300ms"
        assert await unit.value("show lock_timeout") == "0"
        with pytest.raises(AccountNotFound):
            await transaction.create(unit, Draft(five, credit="nobody"))
        assert await unit.value("show lock_timeout") == "0"


@pytest.mark.parametrize("book_from", [1, 10**9])
async def test_two_assets_are_locked_before_a_partition_is_begun(
    book_from: int, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who begins one locks all journals, and must not wait for an asset whose holder is about to begin one, too."""
    monkeypatch.setattr(transaction, "BOOK_FROM", book_from)
    async with owning(db) as unit:
        name = await unit.value("select current_database()")
        await unit.rows(f"alter database {name} set pasys.partition_rows = '2'")
    await db.close()  # so that every connection has it
    async with db.unit() as unit:
        for asset in ("EUR", "USD"):
            await account.open(unit, name="ada", type="customer", asset=asset)
            await account.system(unit, "external:deposits", asset)
    euros, dollars = ([Draft(Money(5, asset), credit="ada")] * 3 for asset in ("EUR", "USD"))

    async def both() -> list[Created]:
        async with db.unit() as own:
            return await transaction.create_many(own, euros + dollars, partial=True)

    async with asyncio.timeout(20):
        async with db.unit() as unit:
            await ledger.lock(unit, ["USD"])
            waiting = asyncio.create_task(both())
            await until_waiting(unit)
            await transaction.create_many(unit, dollars, partial=True)
        assert [made.refusal for made in await waiting] == [None] * 6
