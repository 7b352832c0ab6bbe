"""What the journal that is still here begins with: the books behind the last archived row of an asset."""

from __future__ import annotations

import numpy as np

from pasys.db import Unit, queries
from pasys.domain import ledger_chain
from pasys.domain.ledger_audit import Open, State
from pasys.service import ledger_wire as wire

SQL = queries("ledger_archive")
HISTORY = queries("ledger_history")
SUMS = ("version", "debits_pending", "debits_posted", "credits_pending", "credits_posted")


async def state(unit: Unit, asset: str) -> State | None:
    """Where an audit of an asset can begin at the earliest; None where nothing is archived.

    Its `seq` is asset.archived_seq and its `hash` what the next row is chained to; it has the version and the sums of
    each account that had moved by then, and the holds that were open. It stays so until the unit ends.
    """
    await unit.rows(HISTORY["stay"])
    async with wire.cursor(unit.driver) as cursor:
        await cursor.execute(SQL["start"].encode(), {"asset": asset})
        row = await cursor.fetchone()
        if row is None:
            return None
        assert cursor.description is not None
        sent = dict(zip([column.name for column in cursor.description], row, strict=True))
    fields = [wire.read_int8s(sent[f"hold_{name}"]).tolist() for name in ("debits", "credits", "amounts", "expires")]
    ids = wire.read(sent["hold_ids"], ledger_chain.ROW["id"]).tolist()
    return State(
        seq=sent["last_seq"],
        hash=bytes(sent["hash"]),
        recorded_at=wire.read_time(sent["recorded_at"]),
        numbers=wire.read_int8s(sent["numbers"]),
        sums=np.stack([wire.read_int8s(sent[name]) for name in SUMS]),
        holds={id: Open(*values) for id, *values in zip(ids, *fields, strict=True)},
    )
