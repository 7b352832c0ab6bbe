"""Whatever is changed behind the ledger's back is found, and an outsider can check a range with only the public key."""

from __future__ import annotations

import io
import random
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from itertools import accumulate
from pathlib import Path

import msgspec
import numpy as np
import psycopg
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from pasys.adapters.signer import Signer, open_signer, signed
from pasys.config import Settings
from pasys.db import Database, Unit
from pasys.domain import ledger_chain, ledger_proof
from pasys.domain.ledger import Purpose, Transfer
from pasys.domain.ledger_checkpoint import Checkpoint, pack, unpack
from pasys.errors import BooksDoNotHold, InvalidInput, SigningKeyUnusable
from pasys.service import account, ledger, ledger_checkpoint
from pasys.service import ledger_proof as proofs
from pasys.service.ledger_verify import Verification, verify
from tests.ledger_batches import Batches
from tests.ledger_kit import SEAL_ANEW, T0, direct, people


@pytest.fixture
def signer(settings: Settings, tmp_path: Path) -> Signer:
    return open_signer(msgspec.structs.replace(settings, home=str(tmp_path)))


async def fill(db: Database, seed: int, rounds: int, *, start_s: int = 0) -> None:
    """A journal with every kind of row, refusals, holds and references."""
    async with db.unit(now=T0) as unit:
        source = await account.system(unit, "external:deposits", "USD")
        numbers = [source, *await people(unit, *[f"user_{i}" for i in range(8)])]
    batches = Batches(seed, numbers)
    for second in range(rounds):
        now = T0 + timedelta(seconds=start_s + second)
        async with db.unit(now=now) as unit:
            await ledger.post(unit, batches.batch(60, now), refuse=False)


async def verified(db: Database, known: Mapping[str, Mapping[int, bytes]] | None = None) -> Verification:
    async with db.unit() as unit:
        return await verify(unit, known=known)


def kept(made: list[Checkpoint]) -> dict[str, dict[int, bytes]]:
    return {one.asset: {one.seq: bytes.fromhex(one.hash)} for one in made}


# Tampering -----------------------------------------------------------------------------------------------------------

FLIPPED = "encode(set_byte(uuid_send({0}), 15, get_byte(uuid_send({0}), 15) # 1), 'hex')::uuid"
COLUMNS = {
    "seq": "seq + 100000", "debit": "debit + 1", "credit": "credit + 1", "amount": "amount + 1",
    "code": "code # 1::int2",
    "kind": "kind # 1::int2", "result": "result # 1::int2", "debit_version": "debit_version + 1",
    "credit_version": "credit_version # 256", "debit_balance": "debit_balance # 65536",
    "credit_balance": "credit_balance - 1", "effective_at": "effective_at + interval '1 microsecond'",
    "recorded_at": "recorded_at - interval '1 microsecond'",
    "expires_at": "coalesce(expires_at, '2026-01-01') + interval '1 microsecond'",
    "seal": "seal # (1::int8 << 40)", "reference": "coalesce(reference, '') || ' '",
    "id": FLIPPED.format("id"),
    "pending_id": f"coalesce({FLIPPED.format('pending_id')}, gen_random_uuid())",
    "corrects": f"coalesce({FLIPPED.format('corrects')}, gen_random_uuid())",
}  # fmt: skip


async def flips(db: Database, count: int) -> None:
    """Flip one thing in each of `count` random rows, one after the other, and put it back."""
    await fill(db, 7, 20)
    async with db.unit() as unit:
        rows = await unit.value("select last_seq from asset where code = 'USD'")
    draw = random.Random(count)
    with psycopg.connect(db.url, autocommit=True) as superuser:
        superuser.execute("set session_replication_role = replica")  # no trigger fires
        for name in ("amount", "kind", "pending", "expires"):
            superuser.execute(f"alter table transfer drop constraint transfer_{name}_check".encode())
        for number in range(count):
            seq, (column, changed) = draw.randint(1, rows), list(COLUMNS.items())[number % len(COLUMNS)]
            superuser.execute("create temp table before as select * from transfer where seq = %s", (seq,))
            superuser.execute(f"update transfer set {column} = {changed} where seq = %s".encode(), (seq,))
            found = await verified(db)
            assert not found.ok, (seq, column)
            assert min(one.seq for one in found.findings if one.seq is not None) == seq, (column, found.findings)
            back = f"update transfer t set {column} = b.{column} from before b where t.seq in (b.seq, b.seq + 100000)"
            superuser.execute(back.encode())
            superuser.execute("drop table before")
    assert (await verified(db)).ok


async def test_a_flipped_field_is_found_where_it_is(db: Database) -> None:
    """One field of one row, changed as superuser: the first finding that names a row names that one."""
    await flips(db, 40)


@pytest.mark.slow
async def test_a_thousand_flipped_fields_are_found(db: Database) -> None:
    """The same, a thousand times."""
    await flips(db, 1_000)


@pytest.mark.parametrize(
    ("tamper", "what", "seq"),
    [
        ("delete from transfer where seq = 20", "gap", 20),
        ("delete from transfer where seq between 20 and 40", "gap", 20),
        ("delete from transfer where seq = (select last_seq from asset)", "last seq", None),
        ("insert into transfer select (jsonb_populate_record(t, jsonb_build_object('seq', t.seq + 1, 'id', "
         "gen_random_uuid()))).* from transfer t where seq = (select last_seq from asset)", "last seq", None),
        ("""update transfer set seq = 500000 where seq = 20; update transfer set seq = 20 where seq = 21;
            update transfer set seq = 21 where seq = 500000""", "seal", 20),
        ("""delete from transfer where seq = 20;
            insert into transfer select (jsonb_populate_record(t, '{"seq": 20}')).* from transfer t where seq = 21""",
         "seal", 20),
    ],
)  # fmt: skip
async def test_rows_deleted_inserted_or_exchanged_are_found(
    db: Database, tamper: str, what: str, seq: int | None
) -> None:
    """A row that is gone, too many, in another's place or copied over another is found, and named where it stands."""
    await fill(db, 3, 4)
    with psycopg.connect(db.url, autocommit=True) as superuser:
        superuser.execute("set session_replication_role = replica")
        superuser.execute(tamper.encode())
    found = await verified(db)
    assert not found.ok and (what, seq) in {(one.what, one.seq) for one in found.findings}
    if seq is not None:
        assert min(one.seq for one in found.findings if one.seq is not None) == seq


@pytest.mark.parametrize(
    "tamper",
    [
        "update transfer set reference = 'tx_9' where seq = 5",
        "update transfer set effective_at = effective_at - interval '1 day' where seq = 5",
        "update transfer a set id = b.id from transfer b where (a.seq, b.seq) in ((5, 6), (6, 5))",
        """delete from transfer_key where seq = (select last_seq from asset);
           delete from transfer where seq = (select last_seq from asset);
           update asset set last_seq = last_seq - 1, projected_seq = last_seq - 1""",
    ],
)
async def test_a_checkpoint_kept_elsewhere_finds_rewritten_history(db: Database, signer: Signer, tamper: str) -> None:
    """Whoever changes rows, deletes the tail or exchanges two, and seals everything anew, fools no checkpoint."""
    await fill(db, 3, 4)
    async with db.unit() as unit:
        alice, bob = [(await account.find(unit, name)).number for name in ("user_0", "user_1")]
        await ledger.post(unit, [direct(alice, bob, 10**9)], refuse=False)  # refused: its row moves no balance
        made = await ledger_checkpoint.checkpoint(unit, signer)
    with psycopg.connect(db.url, autocommit=True) as superuser:
        superuser.execute("set session_replication_role = replica")
        superuser.execute(tamper.encode())
        if "b.id" in tamper:
            superuser.execute(
                "update transfer_key k set seq = t.seq from transfer t where t.id = k.id and t.asset = k.asset"
            )
        superuser.execute(SEAL_ANEW.encode())
    assert (await verified(db)).ok, "sealed anew, the journal by itself looks right"
    found = await verified(db, kept(made))
    assert not found.ok and found.findings[0].what == "checkpoint"


@pytest.mark.parametrize(
    ("tamper", "what"),
    [
        ("delete from transfer_key where seq = 5", "id"),
        ("insert into transfer_key values (gen_random_uuid(), 'USD', 5)", "id"),
        ("update hold set expires_at = now()", "hold"),
        ("update asset set last_hash = sha256(last_hash)", "seal"),
        ("update transfer set recorded_at = recorded_at - interval '9 days' where seq = 30", "time"),
    ],
)
async def test_what_stands_beside_the_journal_is_derived_too(db: Database, tamper: str, what: str) -> None:
    """Ids, deadlines of holds, the asset's own hash and the order of times are compared as well."""
    await fill(db, 3, 4)
    async with db.unit() as unit:
        alice = (await account.find(unit, "user_0")).number
        source = await account.system(unit, "external:deposits", "USD")
        from pasys.domain import posting

        deadline = T0 + timedelta(days=1)
        held = posting.payment_hold(
            receivable=source, customer=alice, amount_minor=5, asset="USD", reference="tx_1", expires_at=deadline
        )
        await ledger.post(unit, held)
    assert (await verified(db)).ok
    with psycopg.connect(db.url, autocommit=True) as superuser:
        superuser.execute("set session_replication_role = replica")
        superuser.execute(tamper.encode())
    assert what in {finding.what for finding in (await verified(db)).findings}


# Checkpoints ---------------------------------------------------------------------------------------------------------


async def test_verification_goes_on_from_a_checkpoint(db: Database, signer: Signer) -> None:
    """Behind a checkpoint only what is new is read, holds that span it included, and the answer is the same."""
    await fill(db, 11, 5)
    async with db.unit() as unit:
        (first,) = await ledger_checkpoint.checkpoint(unit, signer)
        assert await ledger_checkpoint.checkpoint(unit, signer) == []
    await fill(db, 12, 3, start_s=100)
    async with db.unit() as unit:
        starts = await ledger_checkpoint.starts(unit, signer)
        found = await verify(unit, starts=starts)
        whole = await verify(unit)
        assert found.ok and whole.ok and found.since == {"USD": first.seq}
        assert found.transfers == whole.transfers - first.seq > 100
        (second,) = await ledger_checkpoint.checkpoint(unit, signer)
        assert [one.seq for one in await ledger_checkpoint.checkpoints(unit)] == [second.seq, first.seq]
        assert signer.signed(second.words, bytes.fromhex(second.signature))


async def test_a_changed_state_is_no_start(db: Database, signer: Signer, tmp_path: Path) -> None:
    """A state that somebody changed, or that another key signed, is not begun at."""
    await fill(db, 11, 3)
    async with db.unit() as unit:
        await ledger_checkpoint.checkpoint(unit, signer)
        assert set(await ledger_checkpoint.starts(unit, signer)) == {"USD"}
        other = open_signer(Settings(home=str(tmp_path / "other")))
        assert await ledger_checkpoint.starts(unit, other) == {}
        state = unpack(bytes(await unit.value("select state from checkpoint_state")))[0]
        state.sums[0, 0] += 1
        await unit.rows("update checkpoint_state set state = %(state)s", state=pack(state)[0])
        assert await ledger_checkpoint.starts(unit, signer) == {}
        await unit.rows("update checkpoint_state set state = %(state)s", state=b"nonsense")
        assert await ledger_checkpoint.starts(unit, signer) == {}


async def test_nothing_is_signed_that_does_not_hold(db: Database, signer: Signer) -> None:
    """A checkpoint is made of what was verified."""
    await fill(db, 11, 3)
    with psycopg.connect(db.url, autocommit=True) as superuser:
        superuser.execute("set session_replication_role = replica")
        superuser.execute("update account set credits_posted = credits_posted + 1 where name = 'user_3'")
    async with db.unit() as unit:
        with pytest.raises(BooksDoNotHold, match="credits posted"):
            await ledger_checkpoint.checkpoint(unit, signer)


def test_keys(tmp_path: Path) -> None:
    """A key is made once, readable by its owner alone; another file, or another kind of key, is said so."""
    home = Settings(home=str(tmp_path))
    first, second = open_signer(home), open_signer(home)
    assert first.public_key == second.public_key and len(first.public_key) == 32
    (file,) = (tmp_path / "secrets").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert first.signed(b"words", first.sign(b"words")) and not first.signed(b"other", first.sign(b"words"))
    wrong = tmp_path / "wrong.pem"
    pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    wrong.write_bytes(generate_private_key(SECP256R1()).private_bytes(*pem))
    for path in (wrong, tmp_path / "none.pem", file.parent):
        with pytest.raises(SigningKeyUnusable, match=path.name):
            open_signer(msgspec.structs.replace(home, signing_key_file=str(path)))
    own = msgspec.structs.replace(home, signing_key_file=str(file), home="/nowhere")
    assert open_signer(own).key_id == first.key_id


# Proofs --------------------------------------------------------------------------------------------------------------


async def proof_of(db: Database, signer: Signer, **asked: int) -> bytes:
    made = io.BytesIO()
    async with db.unit() as unit:
        await proofs.export(unit, signer, made.write, asset="USD", **asked)
    return made.getvalue()


def check(proof: bytes, key: bytes | None = None) -> ledger_proof.Checked:
    return ledger_proof.check(io.BytesIO(proof).read, signed, public_key=key)


async def test_an_outsider_checks_a_range(db: Database, signer: Signer) -> None:
    """A proof of a range lies between two signed checkpoints and holds, with the reader's own key too."""
    await fill(db, 5, 3)
    async with db.unit() as unit:
        (first,) = await ledger_checkpoint.checkpoint(unit, signer)
    await fill(db, 6, 3, start_s=50)
    whole = check(await proof_of(db, signer), signer.public_key)
    assert whole.ok and whole.first_seq == 1 and whole.transfers == whole.last_seq > 300
    part = check(await proof_of(db, signer, first_seq=first.seq + 2, last_seq=first.seq + 9))
    assert part.ok and (part.first_seq, part.last_seq) == (first.seq + 2, first.seq + 9)
    assert part.transfers == whole.last_seq - first.seq
    for range_ in ({"first_seq": 0}, {"first_seq": 9, "last_seq": 8}, {"last_seq": 10**6}):
        with pytest.raises(InvalidInput, match="no range of the journal of USD"):
            await proof_of(db, signer, **range_)


async def test_a_changed_proof_does_not_hold(db: Database, signer: Signer, tmp_path: Path) -> None:
    """Every byte of a proof counts: the rows, the checkpoints, the key; what is cut off, left out or exchanged too."""
    await fill(db, 5, 2)
    proof = await proof_of(db, signer)
    assert check(proof).ok
    head, rows = proof[: proof.index(b"\n", len(ledger_proof.MAGIC)) + 1], []
    body = io.BytesIO(proof[len(head) :])
    rows = [data + seal for _, data, seal in ledger_proof.rows(body.read)]
    draw = random.Random(5)
    for _ in range(200):
        at = draw.randrange(len(head), len(proof))
        found = check(proof[:at] + bytes([proof[at] ^ 1 << draw.randrange(8)]) + proof[at + 1 :])
        row = next(i for i, end in enumerate(accumulate(map(len, rows)), 1) if at < len(head) + end)
        assert not found.ok and found.findings[0].seq in (row, row + 1), (at, found)
    left_out = head + b"".join(rows[:9] + rows[10:])
    exchanged = head + b"".join([*rows[:9], rows[10], rows[9], *rows[11:]])
    for broken, seq in ((left_out, 10), (exchanged, 10), (proof[: -len(rows[-1])], len(rows)), (proof[:-7], len(rows))):
        found = check(broken)
        assert not found.ok and found.findings[0].seq == seq
    other = open_signer(Settings(home=str(tmp_path / "other")))
    assert [finding.what for finding in check(proof, other.public_key).findings] == ["key"]
    forged = msgspec.json.decode(head[len(ledger_proof.MAGIC) :], type=ledger_proof.Header)
    claims = replace(forged.after, seq=forged.after.seq - 1)
    assert check(msgspec.structs.replace(forged, after=claims).encode() + proof[len(head) :]).findings[0].what in (
        "signature",
        "range",
    )
    for nonsense in (
        b"",
        b"hello",
        ledger_proof.MAGIC,
        ledger_proof.MAGIC + b"{}\n",
        ledger_proof.MAGIC + b"x" * 99_999,
    ):
        with pytest.raises(ValueError, match=r"it|header"):
            check(nonsense)


def opened(proof: bytes) -> tuple[ledger_proof.Header, bytes]:
    """A proof's header, and its rows."""
    end = proof.index(b"\n", len(ledger_proof.MAGIC)) + 1
    return msgspec.json.decode(proof[len(ledger_proof.MAGIC) : end], type=ledger_proof.Header), proof[end:]


def sealed_anew(header: ledger_proof.Header, body: bytes, row: int) -> bytes:
    """The rows, of which one has another amount, with seals that fit: whoever knows the format can make them."""
    hash, made = ledger_chain.genesis(header.asset), []
    for seq, data, _ in ledger_proof.rows(io.BytesIO(body).read):
        fixed = np.frombuffer(data[: ledger_chain.ROW.itemsize], ledger_chain.ROW).copy()
        fixed["amount"] += seq == row
        text = data[ledger_chain.ROW.itemsize :]
        hash = ledger_chain.follow(hash, fixed, text)
        made.append(fixed.tobytes() + text + hash[:8])
    return b"".join(made)


async def test_a_forged_proof_does_not_hold(db: Database, signer: Signer) -> None:
    """Each forgery is right in everything but one thing, and that one is named."""
    await fill(db, 5, 2)
    async with db.unit(now=T0) as unit:
        await ledger.post(unit, [deposit := await first_deposit(unit, "EUR")])
        await ledger_checkpoint.checkpoint(unit, signer)
        in_euros = (await ledger_checkpoint.latest(unit))[0]
    assert in_euros.asset == deposit.asset == "EUR"
    header, body = opened(await proof_of(db, signer))
    signed_before = replace(header.after, at=header.after.at + timedelta(days=1))
    other_key = replace(header.after, key_id="0" * 16)
    forgeries = {
        "signature": msgspec.structs.replace(header, after=signed_before),
        "checkpoint": msgspec.structs.replace(header, before=replace(in_euros, seq=0), first_seq=1),
        "range": msgspec.structs.replace(header, first_seq=0),
        "seal": header,
    }
    for what, forged in forgeries.items():
        rows = sealed_anew(header, body, 7) if what == "seal" else body
        found = check(forged.encode() + rows).findings
        assert found and found[0].what == what, (what, found)
    assert check(msgspec.structs.replace(header, after=other_key).encode() + body).findings[0].what == "checkpoint"
    assert check(header.encode() + sealed_anew(header, body, 0)).ok, "else these forgeries are found by their making"
    for wrong in ({"last_seq": header.last_seq + 1}, {"first_seq": 9, "last_seq": 8}):
        found = check(msgspec.structs.replace(header, **wrong).encode() + body).findings
        assert [one.what for one in found] == ["range"]


async def first_deposit(unit: Unit, asset: str) -> Transfer:
    (alice,) = await people(unit, "alice", asset=asset)
    source = await account.system(unit, "external:deposits", asset)
    return direct(source, alice, 5, asset=asset, purpose=Purpose.DEPOSIT)
