"""The ledger's daemon keeps the journal by itself: nobody has to ask for a partition, an index or a checkpoint."""

from __future__ import annotations

import msgspec

from pasys.adapters.signer import open_signer
from pasys.config import Settings
from pasys.db import Database
from pasys.service import ledger, ledger_checkpoint, ledger_partition
from pasys.service.ledger_partition import Partition
from tests.ledger_kit import direct, people
from tests.support import daemons, eventually

ROWS = 20


async def test_partitions_and_checkpoints_come_by_themselves(db: Database, settings: Settings) -> None:
    """While the daemon runs, the next partition is made, closed ones get their indexes, and what is new is signed."""
    async with db.unit() as unit:
        await unit.rows(f"select set_config('pasys.partition_rows', '{ROWS}', false)")
        alice, bob = await people(unit, "alice", "bob", funds=100)
        await ledger.post(unit, [direct(alice, bob, 1) for _ in range(ROWS)])
        before = await ledger_partition.partitions(unit)
    assert [(one.last_seq, one.closed, one.indexed) for one in before] == [
        (ROWS, True, False), (2 * ROWS, False, False)]  # fmt: skip

    async def kept() -> list[Partition]:
        async with db.unit() as unit:
            found = await ledger_partition.partitions(unit)
            signed = await ledger_checkpoint.latest(unit)
        return found if signed and len(found) > len(before) and found[0].indexed else []

    async with daemons(msgspec.structs.replace(settings, checkpoint_every_s=1), "ledger"):
        after = await eventually(kept, within_s=60)
    assert not after[-1].closed
    async with db.unit() as unit:
        (made,) = await ledger_checkpoint.latest(unit)
        assert (made.asset, made.seq) == ("USD", ROWS + 2)
        assert open_signer(settings).signed(made.words, bytes.fromhex(made.signature))
