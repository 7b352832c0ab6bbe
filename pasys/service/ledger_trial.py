"""A door to the books through which nothing comes in: what would become of batches, while others go on posting."""

from __future__ import annotations

import numpy as np

from pasys.db import Unit, queries
from pasys.domain.ledger_batch import Accounts, Books
from pasys.domain.ledger_columns import Columns, Int64s
from pasys.domain.ledger_rules import judge
from pasys.service.ledger_books import Answers, Head, check_batch
from pasys.service.ledger_cache import Cache

SQL = queries("ledger")
_BEGINNING = Head(0, 0, 0, b"", 0)


class Trial:
    """Judges batches as if all that it has judged before were posted. It locks nothing, and writes nothing.

    Each account counts as it stands when a batch first names it: what others post to it afterwards is not seen. Memory
    grows with the accounts that are named.
    """

    def __init__(self) -> None:
        self._met: dict[str, Cache] = {}

    async def post_many(self, unit: Unit, columns: Columns) -> Answers:
        """What ledger.post_many would answer. Their ids are new, they begin money and do not end it (no post, no void),
        and `seq` counts from the beginning of the trial. Raises InvalidInput, as that does."""
        check_batch(len(columns), linked_on=columns.linked_on)
        assert columns.pending_id is None, "a hold that is to be used may be known to the journal alone"
        met = self._met.setdefault(columns.asset, Cache(_BEGINNING, 0))
        numbers = columns.accounts()
        _, known = met.places(numbers)
        read = await _accounts(unit, columns.asset, numbers[~known])
        met.add(read)
        verdict = judge(columns, Books(0, met.accounts(numbers, read), {}, {}, unit.now))
        met.take(columns, verdict, lags=False)
        met.holds.clear()
        return Answers(verdict.result, verdict.replayed, verdict.seq)


async def _accounts(unit: Unit, asset: str, numbers: Int64s) -> Accounts:
    rows = await unit.rows(SQL["accounts_now"], asset=asset, numbers=numbers.tolist()) if len(numbers) else []
    number, foreign, *columns = np.array(rows, np.int64).reshape(-1, 9).T
    return Accounts(number, foreign != 0, *columns)
