"""A dry run answers, row by row, what the real run answers afterwards, and changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import csv
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

import pasys.db
from pasys import ids
from pasys.cli.import_file import Answer, Options, Outcome, prepare, run
from pasys.cli.import_source import Source
from pasys.config import Settings
from pasys.db import Database
from pasys.domain.ledger import Purpose
from pasys.domain.ledger_columns import Columns
from pasys.errors import ImportRefused, InvalidInput, InvalidRows, Rejected
from pasys.money import parse
from pasys.service import account, ledger, transaction
from pasys.service.ledger_poster import Poster
from pasys.service.transaction import Draft
from pasys.service.transaction_draft import claim
from tests.import_files import chosen_of, silent, write
from tests.ledger_kit import direct, let_rows_lag, people, until_waiting

Spaces = Callable[[], AbstractContextManager[Settings]]
TABLES = ["account", "asset", "event", "hold", "idempotency", "import_batch", "import_refusal", "outbox"]
TABLES += ["transaction", "transaction_history", "transfer", "transfer_key"]
FUNDS = ["f1,deposit,,ada,100,USD,,,", "f2,deposit,,ben,50,USD,,,", "f3,deposit,,ice,50,USD,,,"]
ANSWERS = {"created", "replayed", "refused"}
RULES = {"account_not_found", "wrong_asset", "account_frozen", "account_closed"}
RULES |= {"exceeds_credits", "idempotency_mismatch"}
WAYS = {"atomic, refused", "InvalidRows", "InvalidInput", "finished before", "went on"}


@dataclass(frozen=True)
class Cells:
    """A row of a file. A name behind an @ stands for that account's public id."""

    key: str
    kind: str
    debit: str
    credit: str
    amount: str
    asset: str
    rail: str

    def text(self, public: dict[str, str]) -> str:
        debit, credit = (public.get(name, name) for name in (self.debit, self.credit))
        return f"{self.key},{self.kind},{debit},{credit},{self.amount},{self.asset},{self.rail},,"


@dataclass(frozen=True)
class Case:
    """A file, what was imported before it, and how it is to be imported."""

    earlier: list[Cells]
    rows: list[Cells]
    options: Options
    stops_at: int | None  # rows of the file that a run which was cut short has done before


def pay(key: str, debit: str, credit: str, amount: str, asset: str = "USD", rail: str = "") -> Cells:
    return Cells(key, "", debit, credit, amount, asset, rail)


def rarely(usual: st.SearchStrategy[str], *others: str) -> st.SearchStrategy[str]:
    """One in eight is one of the others."""
    return st.integers(0, 7).flatmap(lambda die: usual if die < 7 else st.sampled_from(others))


def often(usual: str, *others: str) -> st.SearchStrategy[str]:
    return rarely(st.just(usual), *others)


# Rows of which anything may be wrong.
NAMES = ["ada", "ada", "ben", "ben", "cy", "shop", "ice", "gone", "nobody", "@ada", "@ice", "acc_0", "", ""]
ROWS = st.builds(
    Cells,
    key=st.one_of(st.just(""), st.integers(0, 60).map(lambda i: f"k{i}")),
    kind=often("", "deposit", "transfer", "payment", "withdrawal"),
    debit=st.sampled_from(NAMES),
    credit=st.sampled_from(NAMES),
    amount=st.sampled_from(["1", "7", "30", "60", "99", "1.5", "0", "1e3"]),
    asset=often("USD", "EUR", "JPY", "XXQ"),
    rail=often("", "instant", "book", "nosuch"),
)


def good(keys: st.SearchStrategy[str]) -> st.SearchStrategy[Cells]:
    """Rows that pass the check: most find their accounts, and then only funds, order and keys decide."""
    return st.builds(
        pay,
        keys,
        rarely(st.sampled_from(["ada", "@ada", "ben", ""]), "cy", "ice", "gone", "nobody"),
        rarely(st.sampled_from(["shop", "shop", "@shop", "cy", "dan"]), "ice", "gone", "other"),
        rarely(st.sampled_from(["1", "7", "30"]), "60", "99"),
        often("USD", "EUR"),
        often("", "instant"),
    )


GOOD = good(st.one_of(st.just(""), st.integers(0, 200).map(lambda i: f"g{i}")))
EARLIER = good(st.integers(0, 200).map(lambda i: f"e{i}"))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A file whose accounts exist or are opened, in most cases, and which has some of the keys of the one before."""
    earlier = [*draw(st.lists(EARLIER, min_size=1, max_size=8)), *draw(st.lists(ROWS, max_size=2))]
    rows = draw(st.lists(st.one_of(*[GOOD] * 6, ROWS), min_size=1, max_size=30))
    for known in draw(st.lists(st.sampled_from(earlier), min_size=1, max_size=6)):
        amount = draw(st.sampled_from([known.amount, known.amount, "2"]))
        rows.insert(draw(st.integers(0, len(rows))), replace(known, amount=amount))
    options = Options(
        open_accounts=draw(st.booleans()),
        atomic=draw(st.sampled_from([False, False, False, True])),
        dry_run=False,
        skip_invalid=draw(st.sampled_from([True] * 7 + [False])),
        batch_size=draw(st.sampled_from([1, 2, 5, 1_000])),
    )
    return Case(earlier, rows, options, draw(st.sampled_from([None, None, None, 1, 3, 10])))


# What must be seen whatever is drawn: a file with every answer, and every way in which an import ends.
EARLIER_ROWS = [pay("e1", "ada", "shop", "7"), pay("e2", "ada", "shop", "7"), pay("e3", "ada", "shop", "500")]
SEND = pay("e3", "ada", "shop", "9")  # its key was given back when the earlier row was refused
EVERY_ANSWER = [
    *(EARLIER_ROWS[0], replace(EARLIER_ROWS[1], amount="8"), SEND),
    *(pay("", "ada", "shop", "1"), pay("", "cy", "shop", "1"), pay("", "shop", "cy", "1"), pay("", "cy", "shop", "1")),
    *(pay("", "ada", "shop", "1e3"), pay("a", "ben", "@shop", "20", rail="instant"), pay("b", "ben", "shop", "31")),
    *(pay("", "ice", "shop", "1"), pay("", "gone", "shop", "1"), pay("", "@ada", "shop", "1", asset="EUR")),
    *(pay("", "nobody", "shop", "1"), pay("", "shop", "ice", "1", rail="instant"), pay("", "", "ben", "2")),
]
PLAIN = [SEND, pay("", "ada", "shop", "1"), pay("", "", "ben", "2")]


def _ends(rows: list[Cells], stops_at: int | None = None, **chosen: Any) -> Case:
    options = chosen_of({"open_accounts": False, "skip_invalid": True, "batch_size": 3} | chosen)
    return Case(EARLIER_ROWS, rows, options, stops_at)


ENDS = [
    _ends(EVERY_ANSWER),
    _ends(EVERY_ANSWER, 2, batch_size=1),
    _ends(EVERY_ANSWER, 6, open_accounts=True),
    _ends(EVERY_ANSWER, 99),  # it was finished before
    _ends(EVERY_ANSWER, atomic=True),
    _ends(PLAIN, atomic=True),
    _ends(PLAIN, 1, atomic=True, batch_size=1),  # too late for that
    _ends(EVERY_ANSWER, skip_invalid=False),
]


class _Stopped(Exception):
    """A run that was cut short."""


async def imported(db: Database, path: Path, options: Options, *, stops_at: int | None = None) -> Outcome | Rejected:
    """What the command would say of a file: an outcome, or the error."""

    def progress(doing: str, done: int, rows: int) -> None:
        if stops_at is not None and rows and done >= stops_at:
            raise _Stopped

    source = Source(path, delimiter=",")
    try:
        return await run(db, source, prepare(source, options, silent), options, progress)
    except Rejected as no:
        return no


async def open_world(db: Database) -> dict[str, str]:
    """Accounts with money and without, one frozen, one closed; their public ids, by @name."""
    async with db.unit() as unit:
        for name, kind in (("ada", "customer"), ("ben", "customer"), ("cy", "customer"), ("shop", "merchant")):
            await account.open(unit, name=name, type=kind, asset="USD")
        await account.open(unit, name="ada", type="customer", asset="EUR")
        for name in ("ice", "gone"):
            await account.open(unit, name=name, type="customer", asset="USD")
        await account.close(unit, "gone", "USD")
        found = await unit.rows("select id, name from account where asset = 'USD' and type <> 'system'")
    return {f"@{row.name}": ids.account_id(row.id) for row in found}


async def all_there_is(db: Database) -> list[Any]:
    """Every row that an import writes, in every table that it writes to."""
    async with db.unit() as unit:
        return [await unit.rows(f"select x::text from {table} x order by 1") for table in TABLES]


async def recorded(db: Database, path: Path, outcome: Outcome) -> list[Answer]:
    """What a real run answered, taken from the tables and not from the run: a row's refusal, or its key's entity."""
    with path.open(newline="") as file:
        keys = {line: cells[0] or None for line, cells in enumerate(csv.reader(file), 1) if line > 1}
    for line in [bad.line for bad in outcome.invalid_rows] + list(range(2, 2 + outcome.done_before)):
        keys.pop(line, None)
    async with db.unit() as unit:
        batch = outcome.batch
        no = {row.line: row for row in await unit.rows("select * from import_refusal where batch_id = %(b)s", b=batch)}
        made = await unit.rows(
            "select i.key, t.status, t.batch_id from idempotency i join transaction t on t.id = i.entity_id"
            " where i.actor = %(actor)s",
            actor=unit.actor,
        )
    by_key = {row.key: row for row in made}

    def answer(line: int, key: str | None) -> Answer:
        if line in no:
            return Answer(line, key, "refused", None, no[line].rule, no[line].message)
        row = by_key[key or f"{batch}:{line}"]
        return Answer(line, key, "created" if row.batch_id == batch else "replayed", row.status, None, None)

    return [answer(line, key) for line, key in keys.items()]


async def compare(db: Database, folder: Path, case: Case, seen: Counter[str]) -> None:
    """The dry run of a file, and then the real one."""
    public = await open_world(db)
    await imported(db, write(folder / "funds.csv", *FUNDS), chosen_of({}))
    before = [row.text(public) for row in case.earlier]
    await imported(
        db, write(folder / "earlier.csv", *before), chosen_of({"open_accounts": False, "skip_invalid": True})
    )
    async with db.unit() as unit:
        await account.freeze(unit, "ice", "USD")
    path = write(folder / "file.csv", *(row.text(public) for row in case.rows))
    if case.stops_at is not None:
        with contextlib.suppress(_Stopped):  # a short file is done before
            await imported(db, path, replace(case.options, atomic=False), stops_at=case.stops_at)
    stood = await all_there_is(db)
    tried = await imported(db, path, replace(case.options, dry_run=True))
    assert await all_there_is(db) == stood, "a dry run changes nothing"
    real = await imported(db, path, case.options)
    if isinstance(real, ImportRefused):
        assert await all_there_is(db) == stood, "atomic is all or none"
        assert isinstance(tried, Outcome) and tried.refusals == real.facts["refusals"]
        seen["atomic, refused"] += 1
    elif isinstance(real, Rejected) or isinstance(tried, Rejected):
        assert isinstance(real, InvalidRows | InvalidInput), "a row that is refused ends no run"
        assert type(tried) is type(real) and tried.facts == real.facts, (tried, real)  # type: ignore[union-attr]
        seen[type(real).__name__] += 1
    else:
        await _equal(db, path, tried, real, seen)
    async with db.unit() as unit:
        assert (await ledger.verify(unit)).ok


async def _equal(db: Database, path: Path, tried: Outcome, real: Outcome, seen: Counter[str]) -> None:
    if real.state == "finished before":
        assert (tried.state, tried.batch, tried.refusals) == (real.state, real.batch, real.refusals)
        seen["finished before"] += 1
        return
    answered = await recorded(db, path, real)
    assert tried.answers == answered
    for name in (
        "rows",
        "done_before",
        "created",
        "replayed",
        "refused",
        "refusals",
        "invalid_rows",
        "accounts_opened",
    ):
        assert getattr(tried, name) == getattr(real, name), name
    seen.update(answer.answer for answer in answered)
    seen.update(answer.rule for answer in answered if answer.rule)
    seen.update(["went on"] * bool(real.done_before))


def check(spaces: Spaces, folder: Path, *, examples: int, **how: Any) -> Counter[str]:
    """Compare for so many files; what was seen on the way."""
    seen: Counter[str] = Counter()

    async def within(found: Settings, case: Case) -> None:
        db = Database(found)
        try:
            await compare(db, folder, case, seen)
        finally:
            await db.close()

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
        print_blob=True,
        **how,
    )
    @given(case=cases())
    def each(case: Case) -> None:
        with spaces() as found:
            asyncio.run(within(found, case))

    for case in ENDS:
        each = example(case=case)(each)
    each()
    return seen


@pytest.mark.parametrize("book_from", [transaction.BOOK_FROM, 1])
def test_a_dry_run_answers_as_the_real_run(
    spaces: Spaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, book_from: int
) -> None:
    """Row by row with status, rule and sentence: funds that depend on order, frozen, closed, unknown and opened
    accounts, keys of earlier files with the same body or another, rows that are not valid, atomic or not, from the
    beginning or from where an earlier run was cut short; however the import ends. By rows, and by columns."""
    monkeypatch.setattr(transaction, "BOOK_FROM", book_from)
    seen = check(spaces, tmp_path, examples=8, derandomize=True)
    assert not (ANSWERS | RULES | WAYS) - seen.keys(), seen


@pytest.mark.slow
def test_a_dry_run_answers_as_the_real_run_at_length(spaces: Spaces, tmp_path: Path) -> None:
    """The same for many files."""
    seen = check(spaces, tmp_path, examples=600)
    print(f"\n{dict(seen.most_common())}")
    assert not (ANSWERS | RULES | WAYS) - seen.keys(), seen


@pytest.mark.parametrize("book_from", [transaction.BOOK_FROM, 1])
async def test_nobody_waits_for_a_dry_run(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, book_from: int
) -> None:
    """It has judged rows in two assets, and comes no further; others post there, pay from the same accounts, freeze one
    and begin a partition meanwhile. It tells nobody of anything, so that no relay makes way for it, and leaves nothing
    behind."""
    monkeypatch.setattr(transaction, "BOOK_FROM", book_from)
    monkeypatch.setattr(pasys.db, "COPY_FROM", 1)
    await open_world(db)
    await imported(db, write(tmp_path / "funds.csv", *FUNDS, "f4,deposit,,ada,1,EUR,,,"), chosen_of({}))
    rows = ["d1,,ada,ben,30,USD,,,", "d2,deposit,,ada,1,EUR,,,", "d3,deposit,,ada,40,USD,,,", "d4,,ada,cy,110,USD,,,"]
    path = write(tmp_path / "file.csv", *rows)
    async with db.unit() as unit:
        before = await unit.value("select count(*) from event")
    async with asyncio.timeout(30):
        with contextlib.suppress(_Stopped):
            async with db.unit() as holder:
                drafts = transaction.Drafts.of([Draft(amount=parse("1", "USD"), credit="ada", key="d3")])
                await claim(holder, drafts, ["tx_of_somebody_else"])
                trying = asyncio.create_task(imported(db, path, chosen_of({"dry_run": True, "batch_size": 2})))
                await until_waiting(holder)
                async with db.unit() as unit:
                    assert await unit.value("select pg_try_advisory_xact_lock(%(key)s)", key=pasys.db.BULK_LOCK)
                async with db.unit() as unit:
                    await transaction.create(unit, Draft(amount=parse("60", "USD"), debit="ada", credit="ben"))
                    await transaction.create(unit, Draft(amount=parse("5", "EUR"), credit="ada"))
                    await account.freeze(unit, "cy", "USD")
                async with db.unit() as unit:
                    await ledger.lock(unit, ["EUR", "USD"])
                    await unit.rows("select ledger_partition_add('USD')")
                raise _Stopped
        tried = await trying
    assert isinstance(tried, Outcome) and [answer.answer for answer in tried.answers] == ["created"] * 3 + ["refused"]
    assert tried.answers[3].rule == "account_frozen", "as the account is by now; what was met before is as it was then"
    async with db.unit() as unit:
        assert await unit.value("select count(*) from event") == before + 3, "what the others announced"
        assert (await ledger.verify(unit)).ok


async def test_a_dry_run_knows_what_account_rows_lag_behind(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While somebody posts in bulk the rows of accounts do not show their funds yet; the journal does."""
    let_rows_lag(monkeypatch)
    async with db.unit() as unit:
        source = await account.system(unit, "external:deposits", "USD")
        ada, ben, cy = await people(unit, "ada", "ben", "cy")
    path = write(tmp_path / "file.csv", "l1,,ada,ben,80,USD,,,", "l2,,ada,ben,11,USD,,,", "l3,,ben,cy,80,USD,,,")
    async with Poster(db) as poster:
        for number in (ada, ada, ben, cy, cy):
            await poster.post_many(Columns.of([direct(source, number, 5_000, purpose=Purpose.DEPOSIT)]))
        await poster.post_many(Columns.of([direct(ada, cy, 1_000), direct(ben, cy, 5_000)]))
        async with db.unit() as unit:
            assert await unit.value("select sum(projected_seq) < sum(last_seq) from asset")
        tried = await imported(db, path, chosen_of({"dry_run": True, "batch_size": 1}))
    assert isinstance(tried, Outcome)
    assert [answer.answer for answer in tried.answers] == ["created", "refused", "created"]
