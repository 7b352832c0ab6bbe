"""Accounts that an import opens, and what is said of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pasys import ids
from pasys.db import Database
from pasys.events import AccountOpened, decode
from tests.import_files import imported, write


async def test_five_thousand_accounts_are_opened(db: Database, tmp_path: Path) -> None:
    """Numbers that are drawn within one millisecond do not meet."""
    rows = [f",deposit,,c{i},1,USD,,," for i in range(5_000)]
    assert (await imported(db, write(tmp_path / "m.csv", *rows))).accounts_opened == 5_000
    async with db.unit() as unit:
        said = await unit.rows("select entity_id, correlation_id, body from event where subject = 'account.opened'")
        numbers = await unit.rows("select id, name from account where type <> 'system'")
    opened = {row.entity_id: decode(bytes(row.body))[1] for row in said if row.entity_id == row.correlation_id}
    assert {ids.account_id(row.id): row.name for row in numbers} == {
        id: event.name for id, event in opened.items() if isinstance(event, AccountOpened) and event.type == "customer"
    }


@pytest.mark.parametrize(("accounts", "transactions"), [(2, 2), (600, 300)])
async def test_an_account_is_announced_before_what_it_does(
    accounts: int, transactions: int, db: Database, tmp_path: Path
) -> None:
    """All or none: they are of one unit, and either all of them wait as a backlog or none does."""
    rows = [f",deposit,,c{i % accounts},1,USD,,," for i in range(max(accounts, transactions))]
    rows[transactions:] = [f",deposit,,c{i},0.01,EUR,,," for i in range(transactions, accounts)]
    path = write(tmp_path / "o.csv", *rows)
    assert (await imported(db, path, atomic=True, batch_size=300)).created == len(rows)
    async with db.unit() as unit:
        said = await unit.rows(
            "select e.subject, e.body, o.claimed_until is not null as waits"
            " from event e join outbox o on o.event_id = e.id order by e.id"
        )
    opened = [at for at, row in enumerate(said) if b'"type":"customer"' in bytes(row.body)]
    posted = [at for at, row in enumerate(said) if row.subject == "transaction.succeeded"]
    assert (len(opened), len(posted)) == (accounts, len(rows))
    assert max(opened) < min(posted) and len({row.waits for row in said}) == 1
