"""This is the only door to the books: every movement of money goes through `post`, and every balance comes from here.

`post` locks the rows of its assets until the Unit ends, so post late in a Unit, and lock your own rows first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from psycopg.errors import UniqueViolation

from pasys.db import Unit, queries
from pasys.domain.ledger import Posted, Result, Transfer
from pasys.domain.ledger_batch import Books, Verdict
from pasys.domain.ledger_columns import Columns
from pasys.domain.ledger_rules import judge
from pasys.errors import InvalidInput
from pasys.money import asset_of
from pasys.service import ledger_books as books
from pasys.service.ledger_books import BATCH_MAX, Answers, Head
from pasys.service.ledger_history import (
    ArchivedRow,
    Statement,
    StatementLine,
    TransferRow,
    TrialRow,
    archived_by_id,
    balance_at,
    balances,
    expired_holds,
    holds,
    require_rows,
    statement,
    transfers,
    transfers_by_id,
    trial_balance,
)
from pasys.service.ledger_refusal import refusal
from pasys.service.ledger_verify import Verification, verify

__all__ = [
    "BATCH_MAX",
    "Answers",
    "ArchivedRow",
    "Statement",
    "StatementLine",
    "TransferRow",
    "TrialRow",
    "Verification",
    "archived_by_id",
    "balance_at",
    "balances",
    "ensure_asset",
    "expired_holds",
    "holds",
    "lock",
    "post",
    "post_many",
    "project",
    "require_rows",
    "statement",
    "transfers",
    "transfers_by_id",
    "trial_balance",
    "verify",
]

SQL = queries("ledger")


async def post(unit: Unit, transfers: Sequence[Transfer], *, refuse: bool = True) -> list[Posted]:
    """Post a batch in order, as if its transfers came one after the other. The answers stand in the same order.

    A repeated id with the same fields answers with the first result. With `refuse`, the first refusal raises its rule's
    error (InsufficientFunds, AccountFrozen, HoldUnusable, TransferConflict, …) and nothing is written. Without it,
    refusals are recorded with the rule that refused them, and returned. A batch may span several assets, a chain not.
    """
    if not transfers:
        return []
    books.check_batch(len(transfers), linked_on=transfers[-1].linked)
    parts = _by_asset(transfers)
    judged: list[_Judged] = []
    for code in sorted(parts):
        judged.append(await _judge(unit, Columns.of([transfers[i] for i in parts[code]])))
    if refuse:
        for part in judged:
            await _raise_first(unit, part)
    answers: list[Posted | None] = [None] * len(transfers)
    for part in judged:
        if part.verdict.recorded.any():
            await _write(unit, part)
        for i, answer in zip(parts[part.columns.asset], books.posted(part.verdict), strict=True):
            answers[i] = answer
    return [answer for answer in answers if answer is not None]


async def post_many(unit: Unit, columns: Columns) -> Answers:
    """Post a batch of one asset in order, as columns. Refusals are recorded with the rule that refused them."""
    books.check_batch(len(columns), linked_on=columns.linked_on)
    part = await _judge(unit, columns)
    if part.verdict.recorded.any():
        await _write(unit, part)
    return Answers(part.verdict.result, part.verdict.replayed, part.verdict.seq)


async def lock(unit: Unit, codes: Iterable[str]) -> None:
    """Lock the assets that are going to be posted in one after the other, in the order that everybody keeps.

    Where a journal begins a partition, all journals are locked until the unit ends: who locked another asset only then
    might wait for somebody who begins one there.
    """
    unit.in_books = True
    for code in sorted(codes):
        await unit.rows(SQL["lock"], code=code)


async def project(unit: Unit, code: str) -> None:
    """Lock an asset and bring its account rows up to its journal: before an account's own row is judged or changed."""
    await lock(unit, [code])
    await unit.rows(SQL["project"], code=code)


async def ensure_asset(unit: Unit, code: str) -> None:
    """The asset has a row, so that accounts can be opened in it. Raises UnknownAsset."""
    known = asset_of(code)
    await unit.rows(
        SQL["ensure_asset"],
        code=code,
        kind=known.kind,
        decimals=known.decimals,
        chain=known.chain,
        contract=known.contract,
        chain_decimals=known.chain_decimals,
    )


@dataclass(frozen=True, slots=True)
class _Judged:
    """One asset's part of a batch, with the answers and the books that they were found in."""

    columns: Columns
    head: Head
    books: Books
    verdict: Verdict


def _by_asset(transfers: Sequence[Transfer]) -> dict[str, list[int]]:
    parts: dict[str, list[int]] = {}
    for i, transfer in enumerate(transfers):
        parts.setdefault(transfer.asset, []).append(i)
    _check_chains(transfers)
    return parts


def _check_chains(transfers: Sequence[Transfer]) -> None:
    for transfer, following in pairwise(transfers):
        if transfer.linked and following.asset != transfer.asset:
            raise InvalidInput(field="transfers", reason="a chain stays within one asset")


async def _judge(unit: Unit, columns: Columns) -> _Judged:
    unit.in_books = True
    found = await books.load(unit.driver, columns, lock=True, now=unit.now)
    if found is None:
        await ensure_asset(unit, columns.asset)
        found = await books.load(unit.driver, columns, lock=True, now=unit.now)
        assert found is not None, "the asset has a row now"
    return _Judged(columns, *found, judge(columns, found[1]))


async def _raise_first(unit: Unit, part: _Judged) -> None:
    """Raise for the first transfer that was refused for a reason of its own. What is only repeated may have none: the
    reason for which its chain failed is another transfer's, which is not asked for again."""
    result = part.verdict.result.tolist()
    refused = [i for i, rule in enumerate(result) if rule]
    if refused:
        first = min(refused, key=lambda i: result[i] == Result.LINKED_FAILED)
        raise await refusal(unit, part.columns[first], Result(result[first]), part.books)


async def _write(unit: Unit, part: _Judged) -> None:
    writing = books.prepare(part.columns, part.head, part.verdict, unit.now, accounts=part.verdict.changed)
    try:
        await books.write(unit.driver, writing)
    except UniqueViolation as error:
        # Two assets, one id, at the same time: the other lock did not protect us from it.
        raise books.conflict(error) from None
