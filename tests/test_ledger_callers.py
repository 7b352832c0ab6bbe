"""Callers who come one by one, many at a time: each is answered by itself, and they share commits."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pasys.db import Database
from pasys.domain.ledger import Result
from pasys.service import ledger, ledger_books, ledger_poster
from pasys.service.ledger_poster import Poster
from tests.ledger_kit import direct, people


async def test_many_callers_share_commits(db: Database) -> None:
    """Five hundred callers, each answered by itself: all are posted, once, in far fewer commits."""
    async with db.unit() as unit:
        numbers = await people(unit, *[f"user_{i}" for i in range(20)], funds=100)
        commits = await unit.value("select xact_commit from pg_stat_database where datname = current_database()")
    async with Poster(db) as poster:
        asked = [direct(numbers[i % 20], numbers[(i + 1) % 20], 1) for i in range(500)]
        answers = await asyncio.gather(*[poster.post(transfer) for transfer in asked])
    assert sorted(answer.seq for answer in answers) == list(range(21, 521))
    assert all(answer.result is Result.ACCEPTED and not answer.replayed for answer in answers)
    async with db.unit() as unit:
        await unit.rows("select pg_stat_force_next_flush()")
        after = await unit.value("select xact_commit from pg_stat_database where datname = current_database()")
        assert after - commits < 60
        assert (await ledger.verify(unit)).ok


async def test_the_database_works_while_callers_are_answered(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many who wait together go in two halves; the second is sent before one of the first has heard anything."""
    happened: list[str] = []
    write = ledger_books.write

    async def noted(driver: Any, writing: Any, **how: Any) -> None:
        happened.append(f"{writing.head.last_seq - writing.values[1]} sent")  # behind the last row that was there
        await write(driver, writing, **how)

    async def call(poster: Poster) -> None:
        assert (await poster.post(direct(alice, bob, 1))).accepted
        happened.append("answered")

    async with db.unit() as unit:
        alice, bob = await people(unit, "alice", "bob", funds=1_000)
    monkeypatch.setattr(ledger_poster, "IDLE_S", 60.0)  # no account row is brought up to date on the way
    many = ledger_poster.SPLIT_FROM
    few = many - 1
    async with Poster(db) as poster:
        monkeypatch.setattr(ledger_poster.books, "write", noted)
        await asyncio.gather(*[call(poster) for _ in range(many)])  # under the lock, nothing is judged meanwhile
        assert happened == [f"{many} sent", *["answered"] * many]
        happened.clear()
        await asyncio.gather(*[call(poster) for _ in range(many)])
        assert happened == [*[f"{many // 2} sent"] * 2, *["answered"] * many]
        happened.clear()
        await asyncio.gather(*[call(poster) for _ in range(few)])
        assert happened == [f"{few} sent", *["answered"] * few]


async def test_two_hundred_callers_cannot_overspend(db: Database) -> None:
    """Of two hundred simultaneous payments of 10 from an account with 100, ten succeed, over two posters."""
    async with db.unit() as unit:
        (alice,) = await people(unit, "alice", funds=100)
        (bob,) = await people(unit, "bob")
    async with Poster(db) as one, Poster(db) as other:
        asked = [(one, other)[i % 2].post(direct(alice, bob, 10)) for i in range(200)]
        results = [answer.result for answer in await asyncio.gather(*asked)]
    assert results.count(Result.ACCEPTED) == 10 and results.count(Result.EXCEEDS_CREDITS) == 190
