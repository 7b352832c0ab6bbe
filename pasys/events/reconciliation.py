"""What becomes true of a reconciliation run, and of the breaks that it finds."""

from __future__ import annotations

from datetime import datetime

import msgspec

from pasys.events.base import Event, fact


@fact("reconciliation.requested", about="run_id")
class ReconciliationRequested(Event, frozen=True, kw_only=True):
    """The next page of the PSP's statement is wanted."""

    run_id: str
    psp: str
    since: datetime
    until: datetime
    cursor: str | None = None


class StatementLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a PSP's statement, in ledger minor units; `amount_minor` is signed from our point of view."""

    line_id: str
    type: str
    asset: str
    amount_minor: int
    fee_minor: int
    source_id: str | None
    transaction_id: str | None
    refund_id: str | None
    status: str
    created_at: datetime
    description: str = ""


@fact("reconciliation.fetched", about="run_id")
class ReconciliationFetched(Event, frozen=True, kw_only=True):
    """A page of the PSP's statement, as it was read. No cursor means that it was the last; `whole` that what the
    statement does not list has not happened."""

    run_id: str
    psp: str
    since: datetime
    until: datetime
    lines: list[StatementLine]
    cursor: str | None
    whole: bool = True


@fact("reconciliation.unavailable", about="run_id")
class ReconciliationUnavailable(Event, frozen=True, kw_only=True):
    """The PSP's statement could not be read; the run ends without a watermark."""

    run_id: str
    psp: str
    reason: str


@fact("reconciliation.matched", about="run_id", final=True)
class ReconciliationMatched(Event, frozen=True, kw_only=True):
    """A run is complete: so many lines agree with the books, so many breaks are open."""

    run_id: str
    psp: str
    matched: int
    breaks: int


@fact("reconciliation.mismatched", about="break_id", final=True)
class ReconciliationMismatched(Event, frozen=True, kw_only=True):
    """One line and the books disagree, or a capture and what was asked for, as the break's evidence shows.

    A run has found it, or else the transaction's own capture.
    """

    break_id: str
    run_id: str | None
    transaction_id: str | None = None
    kind: str
    difference_minor: int


@fact("reconciliation.resolved", about="break_id", final=True)
class ReconciliationResolved(Event, frozen=True, kw_only=True):
    """A break is closed: by a corrective entry, by the late line, or by a person's word."""

    break_id: str
    run_id: str | None
    resolution: str
