"""What an audit finds is told in the order of the rows, and nothing that is gone as a whole is passed over."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest

from pasys.adapters.signer import open_signer
from pasys.config import Settings
from pasys.db import Database
from pasys.domain.ledger import Kind
from pasys.domain.ledger_audit import FINDINGS_MAX, beginning
from pasys.errors import BooksDoNotHold
from pasys.ids import account_id
from pasys.service import account, ledger, ledger_checkpoint, ledger_verify
from pasys.service.ledger_verify import verify
from tests.ledger_batches import Batches
from tests.ledger_kit import SEAL_ANEW, T0, direct, people


async def fill(db: Database, asset: str = "USD") -> None:
    """Some hundreds of rows of every kind."""
    async with db.unit(now=T0) as unit:
        source = await account.system(unit, "external:deposits", asset)
        numbers = [source, *await people(unit, *[f"user_{i}" for i in range(8)], asset=asset)]
    batches = Batches(ord(asset[0]), numbers, asset)
    for second in range(4):
        now = T0 + timedelta(seconds=second)
        async with db.unit(now=now) as unit:
            await ledger.post(unit, batches.batch(60, now), refuse=False)


CHECKS = ("transfer_amount", "transfer_kind", "transfer_pending", "transfer_expires")
CHECKS += ("account_credit_limit", "account_debit_limit")


def tamper(db: Database, *statements: str) -> None:
    """As superuser, behind everybody's back."""
    with psycopg.connect(db.url, autocommit=True) as superuser:
        superuser.execute("set session_replication_role = replica")
        for name in CHECKS:
            superuser.execute(f"alter table {name.split('_')[0]} drop constraint if exists {name}_check".encode())
        for statement in statements:
            superuser.execute(statement.encode())


SEAL_5 = "update transfer set effective_at = effective_at - interval '1 day' where seq = 5"


@pytest.mark.parametrize(
    ("statements", "seq"),
    [
        ([SEAL_5, "delete from transfer where seq = 20"], 5),
        (["update transfer set debit_balance = debit_balance + 1 where seq = 3",
          "update transfer set debit_version = debit_version + 1 where seq = 26"], 3),
        ([SEAL_5, "update transfer set recorded_at = recorded_at - interval '9 days' where seq = 26"], 5),
        ([SEAL_5, "update transfer set debit_version = debit_version + seq, credit_version = credit_version + seq "
          "where seq > 30"], 5),
        ([SEAL_5, "delete from transfer_key where seq = 4"], 4),
        (["delete from transfer_key where seq = 9", "update account set version = version + 1"], 9),
    ],
)  # fmt: skip
async def test_the_first_wrong_row_comes_first(db: Database, statements: list[str], seq: int) -> None:
    """Whatever else is wrong behind it, and however much; what belongs to no row comes last."""
    await fill(db)
    tamper(db, *statements)
    async with db.unit() as unit:
        found = (await verify(unit)).findings
    assert found[0].seq == seq and f"row {seq}" in str(found[0])
    assert len(found) <= FINDINGS_MAX
    seqs = [one.seq for one in found]
    assert seqs == sorted(seqs, key=lambda row: (row is None, row or 0))


@pytest.mark.parametrize("piece", [20, 20_000])
async def test_each_asset_says_its_first_wrong_row(db: Database, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where another one has more to say than is listed."""
    monkeypatch.setattr(ledger_verify, "PIECE", piece)
    for asset in ("EUR", "USD"):
        await fill(db, asset)
    tamper(
        db,
        "update transfer set debit_version = debit_version + seq * seq where asset = 'EUR' and seq > 40",
        "update transfer set code = code # 1::int2 where asset = 'USD' and seq = 50",
    )
    async with db.unit() as unit:
        found = (await verify(unit)).findings
    assert len(found) == FINDINGS_MAX and [one.asset for one in found[:3]] == ["EUR", "USD", "EUR"]
    assert found[0].seq is not None and 40 < found[0].seq < 60 and found[1].seq == 50


async def test_what_is_found_is_the_first_and_not_everything(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that is wrong from some row on fills no memory with findings."""
    monkeypatch.setattr(ledger_verify, "PIECE", 10)
    await fill(db)
    wrong = "debit_version = debit_version + seq * seq, credit_version = credit_version + seq * seq"
    tamper(db, f"update transfer set {wrong} where seq > 10 and result = 0")
    async with db.unit() as unit:
        audit, _ = await ledger_verify.audited(unit, "USD", beginning("USD"))
    assert len(audit.findings) == FINDINGS_MAX and audit.findings[0].what in ("version", "seal")
    assert 10 < (audit.findings[0].seq or 0) < 20


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("insert into transfer_key values (gen_random_uuid(), 'USD', 100000)", "1 ids stand for rows behind the last"),
        ("update transfer set expires_at = 'infinity' where seq = 7", "row 7"),
        ("update transfer set corrects = '00000000-0000-0000-0000-000000000000' where seq = 7", "row 7"),
        ("update transfer set pending_id = '00000000-0000-0000-0000-000000000000' where seq = 7", "row 7"),
        ("update account set flags = 3 where name = 'external:deposits'", "limit: debits exceed credits (acc_"),
        ("update account set flags = 3 where name = 'user_1'", "limit: credits exceed debits (acc_"),
    ],
)
async def test_what_changes_no_hash_is_found_too(db: Database, statement: str, said: str) -> None:
    """An id too many, none that is written as something, and a limit that is not kept."""
    await fill(db)
    async with db.unit() as unit:
        assert (await verify(unit)).ok
    tamper(db, statement)
    async with db.unit() as unit:
        found = (await verify(unit)).findings
    assert found and said in str(found[0]), found[:3]


async def test_an_asset_that_is_gone_is_missed_by_a_kept_checkpoint(db: Database, settings: Settings) -> None:
    """With everything that belonged to it: then nothing is left that could say so but what is kept elsewhere."""
    await fill(db)
    async with db.unit() as unit:
        (made,) = await ledger_checkpoint.checkpoint(unit, open_signer(settings))
    tables = ("transfer", "transfer_key", "hold", "checkpoint_state", "checkpoint", "account", "asset")
    tamper(db, *[f"delete from {table}" for table in tables])
    async with db.unit() as unit:
        assert (await verify(unit)).ok
        (found,) = (await verify(unit, known={"USD": {made.seq: bytes.fromhex(made.hash)}, "EUR": {}})).findings
    assert (found.what, found.asset, found.seq) == ("checkpoint", "USD", made.seq)


async def test_nothing_is_signed_over_a_row_that_is_wrong(db: Database, settings: Settings) -> None:
    """A checkpoint is not made, and the row is named."""
    await fill(db)
    tamper(db, SEAL_5)
    async with db.unit() as unit:
        with pytest.raises(BooksDoNotHold, match=r"USD: seal: .* \(row 5\)"):
            await ledger_checkpoint.checkpoint(unit, open_signer(settings))


# Sealed anew: the chain fits, and what the rows say does not ----------------------------------------------------------


def row_where(db: Database, condition: str) -> int:
    """The first row behind the tenth of which this is true."""
    with psycopg.connect(db.url) as connection:
        found = connection.execute(f"select min(seq) from transfer where seq > 10 and {condition}".encode()).fetchone()
    assert found is not None and found[0] is not None, condition
    return found[0]


# The first is of rows that begin a piece of three.
STARTS, ACCEPTED = "kind = 0 and result = 0 and seq % 3 = 1", "kind = 0 and result = 0"
ANOTHER = "select max(a.id) from account a where a.id not in (debit, credit)"
POSTED, HELD = "kind = 2 and result = 0", "kind = 1 and result = 0"


@pytest.mark.parametrize(
    ("condition", "change", "what"),
    [
        (ACCEPTED, "amount = amount + 1", "running balance"),
        (ACCEPTED, "debit_balance = debit_balance + 1", "running balance"),
        (ACCEPTED, "credit_balance = credit_balance - 1", "running balance"),
        (ACCEPTED, "debit_version = debit_version + 1", "version"),
        (ACCEPTED, "credit_version = credit_version - 1", "version"),
        (ACCEPTED, "recorded_at = recorded_at - interval '9 days'", "time"),
        (STARTS, "recorded_at = recorded_at - interval '9 days'", "time"),
        (STARTS, "debit_version = debit_version + 1", "version"),
        (STARTS, "credit_balance = credit_balance - 1", "running balance"),
        (ACCEPTED, "debit = 1", "account"),
        (ACCEPTED, "credit = 1", "account"),
        (POSTED, "pending_id = gen_random_uuid()", "hold"),
        (POSTED, "amount = amount + 100000", "hold"),
        (POSTED, f"debit = ({ANOTHER})", "hold"),
        (POSTED, f"credit = ({ANOTHER})", "hold"),
        (HELD, "kind = 0", "running balance"),
        ("result <> 0 and kind = 0", "result = 0", "version"),
    ],
)
async def test_what_is_changed_and_sealed_anew_is_found(
    db: Database, monkeypatch: pytest.MonkeyPatch, condition: str, change: str, what: str
) -> None:
    """Whoever can change rows can seal them, too: what they say must still follow from the rows before."""
    monkeypatch.setattr(ledger_verify, "PIECE", 3)
    await fill(db)
    seq = row_where(db, condition)
    tamper(db, f"update transfer set {change} where seq = {seq}", SEAL_ANEW)
    async with db.unit() as unit:
        found = (await verify(unit)).findings
    assert (what, seq) in {(one.what, one.seq) for one in found}, found
    assert "seal" not in {one.what for one in found}


async def test_a_row_that_is_gone_and_sealed_anew_is_found(db: Database) -> None:
    """A place is empty, whatever the hashes behind it say."""
    await fill(db)
    tamper(db, "delete from transfer where seq = 20", SEAL_ANEW)
    async with db.unit() as unit:
        first = (await verify(unit)).findings[0]
    assert (first.what, first.seq) == ("gap", 20)


@pytest.mark.parametrize("column", ["version", "debits_pending", "debits_posted", "credits_pending", "credits_posted"])
async def test_every_sum_of_an_account_follows_from_the_journal(db: Database, column: str) -> None:
    """Each is compared, and each finding says what the account has and what it should have."""
    await fill(db)
    tamper(db, f"update account set {column} = {column} + 3 where name = 'user_2'")
    async with db.unit() as unit:
        had = await unit.value(f"select {column} from account where name = 'user_2'")
        number = (await account.find(unit, "user_2")).number
        found = [one for one in (await verify(unit)).findings if one.account == account_id(number)]
    assert found[0].detail == f"{column.replace('_', ' ')}: the account says {had}, the journal {had - 3}"


async def test_an_account_that_is_gone_is_named(db: Database, settings: Settings) -> None:
    """By the first row that moved it, where the journal is read from there; else by its number."""
    await fill(db)
    async with db.unit() as unit:
        await ledger_checkpoint.checkpoint(unit, open_signer(settings))
        number = (await account.find(unit, "user_2")).number
    seq = row_where(db, f"seq < 100000 and result = 0 and {number} in (debit, credit)")
    tamper(db, "delete from hold", "delete from account where name = 'user_2'")
    async with db.unit() as unit:
        found = (await verify(unit)).findings
        begun = (await verify(unit, starts=await ledger_checkpoint.starts(unit, open_signer(settings)))).findings
    assert {one.seq for one in found if one.what == "account"} >= {seq} and found[0].what == "account"
    assert "sum" in {one.what for one in found}, "all debits are no longer all credits"
    assert (begun[0].what, begun[0].account) == ("account", account_id(number))


@pytest.mark.parametrize(("flag", "said"), [(1, "debits exceed credits"), (2, "credits exceed debits")])
async def test_what_is_held_counts_against_a_limit(db: Database, flag: int, said: str) -> None:
    """An account's limit is for what is posted and pending together: 60 and 50 are more than 100."""
    async with db.unit(now=T0) as unit:
        alice, bob = await people(unit, "alice", "bob")
        await unit.rows("update account set flags = 0")
        to, back = ((alice, bob), (bob, alice)) if flag == 1 else ((bob, alice), (alice, bob))
        await ledger.post(unit, [direct(*back, 100), direct(*to, 60)])
        await ledger.post(unit, [direct(*to, 50, kind=Kind.PENDING)])
    for limited, wanted in ((0, []), (flag, [("limit", said)])):
        tamper(db, f"update account set flags = {limited} where id = {alice}")
        async with db.unit() as unit:
            assert [(one.what, one.detail) for one in (await verify(unit)).findings] == wanted
