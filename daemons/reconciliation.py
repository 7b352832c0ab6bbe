"""Each PSP's statement is read, page by page, and held against the books.

    reconciliation.requested -> fetch -> reconciliation.fetched | reconciliation.unavailable
    reconciliation.fetched -> match -> reconciliation.matched | reconciliation.mismatched | reconciliation.requested | reconciliation.resolved | reconciliation.unavailable
    reconciliation.unavailable -> fail -> nothing
    every reconcile_every_s -> schedule -> reconciliation.requested

A run ends whatever happens: complete, failed because a page could not be had, or given up by the next schedule.
"""  # noqa: E501

from __future__ import annotations

from msgspec.structs import replace

from pasys.adapters import Psp
from pasys.daemon import Daemon
from pasys.db import Unit
from pasys.errors import AmountNotKept, PspUnavailable, Rejected
from pasys.events import (
    ReconciliationFetched,
    ReconciliationMatched,
    ReconciliationMismatched,
    ReconciliationRequested,
    ReconciliationResolved,
    ReconciliationUnavailable,
)
from pasys.service import reconciliation

LINES_MAX = 1_000  # what fits a message of the bus, which carries 1 MB
DESCRIPTION_MAX = 200


def refused(event: ReconciliationRequested | ReconciliationFetched, no: Rejected) -> ReconciliationUnavailable:
    """A statement that the rules refuse ends its run, which must not hang."""
    return _unavailable(event, str(no))


daemon = Daemon("reconciliation", refused=refused)


@daemon.on
async def fetch(event: ReconciliationRequested, psp: Psp) -> ReconciliationFetched | ReconciliationUnavailable:
    """Read a page. A page that cannot be had ends the run: the next scheduled one reads the same again."""
    try:
        page = await psp.statement(since=event.since, until=event.until, cursor=event.cursor)
    except (PspUnavailable, AmountNotKept) as error:
        return _unavailable(event, str(error))
    if len(page.lines) > LINES_MAX:
        return _unavailable(
            event, f"a page of {len(page.lines)} lines is too long; at most {LINES_MAX} are read at once"
        )
    return ReconciliationFetched(
        asset=event.asset,
        run_id=event.run_id,
        psp=event.psp,
        since=event.since,
        until=event.until,
        lines=[replace(line, description=_storable(line.description)) for line in page.lines],
        cursor=page.cursor,
        whole=psp.keeps_statement,
    )


def _storable(description: str) -> str:
    """Free text of the PSP's customers: neither its length nor a character that no table keeps may end a run."""
    return description.replace("\0", "\N{REPLACEMENT CHARACTER}")[:DESCRIPTION_MAX]


@daemon.on
async def match(
    event: ReconciliationFetched, unit: Unit
) -> list[ReconciliationRequested | ReconciliationMatched | ReconciliationMismatched | ReconciliationResolved]:
    return await reconciliation.match(unit, event)


@daemon.on
async def fail(event: ReconciliationUnavailable, unit: Unit) -> None:
    await reconciliation.fail(unit, event)


@daemon.every("reconcile_every_s")
async def schedule(unit: Unit) -> list[ReconciliationRequested]:
    return await reconciliation.schedule(unit)


def _unavailable(event: ReconciliationRequested | ReconciliationFetched, reason: str) -> ReconciliationUnavailable:
    return ReconciliationUnavailable(asset=event.asset, run_id=event.run_id, psp=event.psp, reason=reason)
