"""A range of the journal is written out so that an outsider can check it with only the public key."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pasys.db import Unit
from pasys.domain.ledger_proof import Header
from pasys.errors import InvalidInput
from pasys.money import asset_of
from pasys.service import ledger_checkpoint, ledger_moment
from pasys.service.ledger_verify import Progress, pieces

if TYPE_CHECKING:
    from pasys.adapters.signer import Signer

Write = Callable[[bytes], object]


async def export(
    unit: Unit,
    signer: Signer,
    write: Write,
    *,
    asset: str,
    first_seq: int = 1,
    last_seq: int | None = None,
    progress: Progress | None = None,
) -> Header:
    """Write the proof of a range: a signed checkpoint before it, its rows, and a signed checkpoint behind it.

    Where the range ends behind the last checkpoint, what is new is verified and signed first. `last_seq` None is the
    journal's end. Raises InvalidInput for a range that is not there, HistoryArchived for one whose rows are archived,
    and BooksDoNotHold.
    """
    code = asset_of(asset).code
    end = await ledger_checkpoint.last_seq(unit, code)
    until = end if last_seq is None else last_seq
    if not 1 <= first_seq <= until <= end:
        reason = f"{first_seq} to {until} is no range of the journal of {code}, which has 1 to {end}"
        raise InvalidInput(field="from", reason=reason)
    before, after = await ledger_checkpoint.around(unit, code, first_seq, until)
    if after is None:
        await ledger_checkpoint.checkpoint(unit, signer, progress=progress)
        before, after = await ledger_checkpoint.around(unit, code, first_seq, until)
        assert after is not None, "the end of the journal was just signed"
    start = before.seq if before else 0
    here = await ledger_moment.present(unit, code)
    if start < here.archived_seq:
        raise await ledger_moment.archived(unit, code, who=f"the books of {code}", seq=start + 1)
    key = signer.public_key.hex()
    header = Header(asset=code, first_seq=first_seq, last_seq=until, before=before, after=after, public_key=key)
    write(header.encode())
    async for piece in pieces(unit, code, start, after.seq):
        write(piece.interleaved())
        if progress is not None:
            progress(code, int(piece.rows["seq"][-1]), after.seq)
    return header
