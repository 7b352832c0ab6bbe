"""An audit goes across what is archived: from an asset's first transfer, through its files, into its journal."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from pasys.db import Unit, queries
from pasys.domain import ledger_answer
from pasys.domain.ledger_archive import Block
from pasys.domain.ledger_audit import Audit, Piece, State
from pasys.domain.ledger_checkpoint import state_hash
from pasys.errors import ArchiveBroken, InvalidInput
from pasys.service import ledger_archive_file as files
from pasys.service import ledger_wire as wire

SQL = queries("ledger_archive")


async def read(
    unit: Unit, audit: Audit, folder: Path, opening: State, *, known: Mapping[int, bytes], progress: Any = None
) -> int:
    """Take every archived row of an asset from the files in `folder`; the number of rows.

    What the books have kept of them must follow from them: ids, answers, and the state that the journal begins with.
    Raises InvalidInput for a file that is not there, ArchiveBroken for one that is not whole.
    """
    rows = 0
    for part in await unit.rows(SQL["gone"], asset=audit.asset):
        rows += await _part(unit, audit, folder.joinpath(Path(part.file).name), part, known)
        if progress is not None:
            progress(audit.asset, audit.last_seq, opening.seq)
    if not audit.findings and state_hash(audit.state()) != state_hash(opening):
        detail = "what the books have kept of the archived rows is not what they amount to"
        audit.found("archive", detail, seq=opening.seq)
    return rows


async def _part(unit: Unit, audit: Audit, path: Path, part: Any, known: Mapping[int, bytes]) -> int:
    if not path.exists():
        raise InvalidInput(field="archives", reason=f"{path} is not there: it has rows {part.first_seq} and on")
    rows, answered = 0, sha256()
    with files.reading(path) as archive:
        header = archive.header
        if (header.asset, header.first_seq, header.last_seq) != (audit.asset, part.first_seq, part.last_seq):
            raise ArchiveBroken(file=str(path), reason=f"it does not have rows {part.first_seq} to {part.last_seq}")
        if header.hash_before != audit.last_hash.hex():
            raise ArchiveBroken(file=str(path), reason="it does not follow on the rows before it")
        for block in archive.blocks():
            audit.read(Piece(block.rows, block.texts, block.seals))
            _marks(audit, block, known)
            await _ids(unit, audit, block)
            ends = np.cumsum(np.maximum(block.rows["reference_size"].astype(np.int64), 0))
            answered.update(ledger_answer.answers(block.rows, ends, block.texts))
            rows += len(block.rows)
    kept = sha256()
    for (answers,) in await unit.rows(
        SQL["answers"], asset=audit.asset, first_seq=part.first_seq, last_seq=part.last_seq
    ):
        kept.update(answers)
    if kept.digest() != answered.digest():
        audit.found("archive", "what the rows' ids still answer does not follow from them", seq=part.first_seq)
    return rows


def _marks(audit: Audit, block: Block, known: Mapping[int, bytes]) -> None:
    first = int(block.rows["seq"][0])
    for seq in sorted(known):
        at = (seq - first) * 32
        if 0 <= at < len(block.hashes) and block.hashes[at : at + 32] != known[seq]:
            audit.found("checkpoint", f"row {seq} does not have the hash that the checkpoint knows", seq=seq)


async def _ids(unit: Unit, audit: Audit, block: Block) -> None:
    values = (wire.uuids(block.rows["id"]), wire.int8s(block.rows["seq"].astype(np.int64)), audit.asset)
    async with wire.cursor(unit.driver) as cursor:
        await cursor.execute(SQL["strangers"].encode(), values)
        for (seq,) in await cursor.fetchall():
            audit.found("id", "the row's id does not stand for it: it could be posted again", seq=seq)
