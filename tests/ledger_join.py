"""Units that post through a poster, for the tests of both."""

from __future__ import annotations

from itertools import pairwise

from pasys.db import Database, Unit
from pasys.domain.ledger import Result, Transfer
from pasys.service import ledger
from pasys.service.ledger_poster import Poster
from tests import ledger_world
from tests.ledger_kit import (
    direct,
    people,
)
from tests.ledger_world import Answer

ACCEPTED = Result.ACCEPTED


async def post_in(unit: Unit, poster: Poster, *transfers: Transfer) -> list[Answer]:
    return await ledger_world.post_in(unit, poster, transfers)


async def in_unit(db: Database, poster: Poster, *transfers: Transfer) -> list[Answer]:
    """A unit of its own that posts through the poster, and is committed."""
    async with db.unit() as unit:
        return await post_in(unit, poster, *transfers)


async def without(db: Database, *transfers: Transfer) -> None:
    """A unit of its own that posts without a poster."""
    async with db.unit() as unit:
        await ledger.post(unit, list(transfers))


async def pair(db: Database) -> tuple[int, int]:
    """Two accounts with funds; the journal has two rows."""
    async with db.unit() as unit:
        alice, bob = await people(unit, "alice", "bob", funds=100)
    return alice, bob


async def warm(db: Database, poster: Poster, *accounts: int) -> None:
    """The poster remembers the accounts, and has posted so often that it trusts its memory."""
    for one, other in pairwise(accounts):
        for _ in range(2):
            await poster.post(direct(one, other, 1))
