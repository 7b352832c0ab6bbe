"""Who waits for a poster: callers whose transfers are written for them, together, and such as write their own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from pasys.db import Unit
from pasys.domain.ledger import Posted, Transfer
from pasys.domain.ledger_batch import Verdict
from pasys.domain.ledger_columns import Columns
from pasys.service import ledger_books as books
from pasys.service.ledger_memory import Judged


class Ask:
    """A caller that waits: with one transfer for what became of it, with a batch for the verdict on the batch that its
    own became part of, and the place at which it begins there."""

    __slots__ = ("answer", "size", "what")

    def __init__(self, what: Transfer | Columns) -> None:
        self.what, self.size = what, 1 if isinstance(what, Transfer) else len(what)
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()


class Join:
    """A caller that waits for its turn to write a batch into its own unit.

    The answer is what was judged by memory, to be written as it is; or nothing, where the books are to be locked, read
    and judged. `posted` is set when that is done, or the unit has ended without; `ended` says whether it is committed.
    """

    def __init__(self, unit: Unit, columns: Columns) -> None:
        self.unit, self.columns, self.size = unit, columns, len(columns)
        loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[Judged | None] = loop.create_future()
        self.posted, self.written, self.moved = asyncio.Event(), False, False
        self.ended: asyncio.Future[bool] = loop.create_future()
        unit.afterwards(self._end)

    def _end(self, committed: bool) -> None:
        if not self.ended.done():  # else its poster was cancelled
            self.ended.set_result(committed and self.written)
        self.posted.set()
        self.answer.cancel()  # nobody can write into the unit any more


class Group:
    """Callers whose transfers are written together."""

    def __init__(self, asks: Sequence[Ask]) -> None:
        self.asks = asks

    @property
    def alone(self) -> Transfer | None:
        """The transfer of a caller who comes alone with it."""
        what = self.asks[0].what
        return what if len(self.asks) == 1 and isinstance(what, Transfer) else None

    @cached_property
    def columns(self) -> Columns:
        transfers = [ask.what for ask in self.asks if isinstance(ask.what, Transfer)]
        if len(transfers) == len(self.asks):
            return Columns.of(transfers)
        return Columns.joined(
            [ask.what if isinstance(ask.what, Columns) else Columns.of([ask.what]) for ask in self.asks]
        )

    def settle_soon(self, verdict: Verdict | Posted) -> None:
        """Answer in two turns of the loop: in the first, the lane hears that the group is written; in the second, it
        sends the next one. So the database works while callers are answered, which takes longer than its own work."""
        if isinstance(verdict, Posted):
            return self.settle(verdict)
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, self.settle, verdict)

    def settle(self, verdict: Verdict | Posted) -> None:
        """Answer everybody but those who have gone."""
        if isinstance(verdict, Posted):
            return _answer(self.asks[0], verdict)
        singles: Sequence[Posted] = ()
        at = 0
        for ask in self.asks:
            if isinstance(ask.what, Transfer):
                singles = singles or books.posted(verdict)
                _answer(ask, singles[at])
            else:
                _answer(ask, (verdict, at))
            at += ask.size


def _answer(ask: Ask, answer: Posted | tuple[Verdict, int]) -> None:
    if not ask.answer.done():  # else its caller was cancelled
        ask.answer.set_result(answer)
