"""An import is a batch: one actor's one file, of which so many rows are done, and never one of them twice.

How far it has come is committed in the same unit as the transactions that brought it there, so a run that was killed
at any point goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pasys import ids
from pasys.db import Unit, queries
from pasys.domain import account as account_rules
from pasys.domain.import_row import Row, Rows
from pasys.errors import ImportUnderWay, Rejected, TransferRefused
from pasys.events import AccountOpened, Facts
from pasys.money import Money
from pasys.service import transaction
from pasys.service.ledger import ensure_asset, post_many
from pasys.service.transaction import Created, Drafts, Party, PostMany, Turn

SQL = queries("import_batch")


@dataclass(frozen=True, slots=True)
class Batch:
    """An import as it stands. It is finished when all rows of its file are done."""

    id: str
    file_name: str
    rows_total: int
    rows_done: int
    rows_refused: int
    started_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row that a rule refused."""

    line: int
    key: str | None
    rule: str
    message: str


@dataclass(frozen=True, slots=True, order=True)
class Wanted:
    """An account that a file needs."""

    name: str
    asset: str
    type: str


@dataclass(frozen=True, slots=True)
class Tally:
    """How many of a batch's transactions stand where, what is in flight, and how long success took.

    `by_psp` are those that a PSP has answered for.
    """

    created: int
    by_psp: int
    pending: int
    review: int
    unknown: int
    succeeded: int
    failed: int
    fraud: int
    refunding: int
    refunded: int
    in_flight: list[Money]
    p50_s: float | None
    p95_s: float | None


async def begin(unit: Unit, *, file_name: str, file_hash: bytes, rows_total: int) -> Batch:
    """The batch of a file: a new one, or the one that this actor began earlier."""
    values = {"actor": unit.actor, "file_hash": file_hash}
    await unit.rows(SQL["begin"], id=ids.new("imp"), file_name=file_name, rows_total=rows_total, now=unit.now, **values)
    row = await unit.row(SQL["batch_of"], **values)
    assert row is not None, "it was there, or is now"
    return Batch(*row)


async def ensure_assets(unit: Unit, assets: Sequence[str]) -> None:
    """The assets have rows, so that the system's own accounts can be opened in them. Raises UnknownAsset."""
    for asset in assets:
        await ensure_asset(unit, asset)


async def advance(
    unit: Unit,
    batch_id: str,
    rows: Rows,
    *,
    done: int,
    count: int,
    turn: Turn | None = None,
    post: PostMany = post_many,
) -> list[Created]:
    """Create the transactions of the next `count` rows of the file, of which `rows` are the valid ones.

    `done` says how many rows were done before. Raises ImportUnderWay where that is no longer so. With `turn`, the next
    rows may be advanced while these are written; `post` is the door by which they come into the books.
    """
    turn = turn or Turn()
    answers = await transaction.create_many(unit, _drafts(rows, batch_id), partial=True, turn=turn, post=post)
    if await unit.row(SQL["advance"], id=batch_id, done=done, count=count, now=unit.now) is None:
        raise ImportUnderWay(batch_id=batch_id)
    refused = refusals_of(rows, answers)
    if refused:
        await unit.rows(
            SQL["refuse"],
            id=batch_id,
            lines=[refusal.line for refusal in refused],
            keys=[refusal.key for refusal in refused],
            rules=[refusal.rule for refusal in refused],
            messages=[refusal.message for refusal in refused],
        )
    return answers


def _drafts(rows: Rows, batch_id: str) -> Drafts:
    return Drafts(
        amount=rows.amount,
        rail=rows.rail,
        kind=rows.kind,
        debit=rows.debit,
        credit=rows.credit,
        payment_method=rows.payment_method,
        effective_at=rows.effective_at,
        metadata=rows.metadata,
        key=[key or f"{batch_id}:{line}" for key, line in zip(rows.key, rows.line, strict=True)],
        batch_id=[batch_id] * len(rows),
        asset=rows.asset,
    )


def refusals_of(rows: Rows, answers: Sequence[Created]) -> list[Refusal]:
    """The refused ones among the answers to rows, in the order of the file."""
    return [_refusal(rows[at], no) for at, answer in enumerate(answers) if (no := answer.refusal) is not None]


def _refusal(row: Row, no: Rejected) -> Refusal:
    """Why a row was refused. The ledger knows its own ids and rules; the row knows the names."""
    if isinstance(no, TransferRefused):
        rule = no.facts["rule"]
        whose = f"from {row.debit or 'outside'} to {row.credit or 'outside'}"
        return Refusal(row.line, row.key, rule, f"{row.amount} {whose}: {rule.replace('_', ' ')}")
    return Refusal(row.line, row.key, no.code, str(no))


async def refusals(unit: Unit, batch_id: str) -> list[Refusal]:
    """Every row of an import that was refused, by this run or an earlier one."""
    return [Refusal(*row) for row in await unit.rows(SQL["refusals"], id=batch_id)]


async def open_accounts(unit: Unit, wanted: Sequence[Wanted]) -> list[Party]:
    """Open those accounts that do not exist yet, with the limits of their type; those that were opened."""
    names, assets, types = ([getattr(one, field) for one in wanted] for field in ("name", "asset", "type"))
    missing = await unit.rows(SQL["unknown_accounts"], names=names, assets=assets, types=types)
    if not missing:
        return []
    for asset in sorted({row.asset for row in missing}):
        await ensure_asset(unit, asset)
    first = ids.new_account_number()  # a thousand drawn in one millisecond would meet each other
    opened = await unit.rows(
        SQL["open_accounts"],
        now=unit.now,
        numbers=[first + i for i in range(len(missing))],
        names=[row.name for row in missing],
        assets=[row.asset for row in missing],
        types=[row.type for row in missing],
        flags=[account_rules.limits(row.type, debit_limit=None, credit_limit=None) for row in missing],
    )
    for asset in sorted({row.asset for row in opened}):
        mine = [row for row in opened if row.asset == asset]
        columns = {
            "account_id": [ids.account_id(row.id) for row in mine],
            "name": [row.name for row in mine],
            "type": [row.type for row in mine],
        }
        unit.emit_many(Facts(kind=AccountOpened, same={"asset": asset}, columns=columns))
    return [Party(row.id, row.name, row.asset, row.type) for row in opened]


async def tally(unit: Unit, batch_id: str) -> Tally:
    """How the transactions of a batch stand. All that were refunded, in part or in full, count as refunded too."""
    rows = await unit.rows(SQL["tally"], id=batch_id)
    latency = await unit.row(SQL["latencies"], id=batch_id)
    assert latency is not None, "an aggregate has one row"
    flight: dict[str, int] = {}
    for row in rows:
        if row.status == "pending":
            flight[row.asset] = flight.get(row.asset, 0) + row.amount_minor

    def count(*statuses: str) -> int:
        return sum(row.transactions for row in rows if row.status in statuses)

    return Tally(
        created=sum(row.transactions for row in rows),
        by_psp=sum(row.transactions for row in rows if row.by_psp and row.status != "pending"),
        pending=sum(row.transactions for row in rows if row.status == "pending" and not row.review),
        review=sum(row.transactions for row in rows if row.status == "pending" and row.review),
        unknown=sum(row.transactions for row in rows if row.unknown),
        succeeded=count("succeeded", "refunding", "refunded"),
        failed=count("failed"),
        fraud=count("fraud"),
        refunding=count("refunding"),
        refunded=sum(row.refunded for row in rows),
        in_flight=[Money(minor, asset) for asset, minor in sorted(flight.items())],
        p50_s=latency.p50_s and float(latency.p50_s),
        p95_s=latency.p95_s and float(latency.p95_s),
    )


async def by_key(unit: Unit, keys: Sequence[str]) -> dict[str, str]:
    """The transactions that this actor's idempotency keys stand for, by key."""
    rows = await unit.rows(SQL["by_key"], actor=unit.actor, operation=transaction.OPERATION, keys=list(keys))
    return {row.key: row.entity_id for row in rows}
