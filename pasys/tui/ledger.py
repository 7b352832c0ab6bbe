"""The books themselves: an asset's journal, transfer by transfer, and the proof that it all holds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.widgets import DataTable, ProgressBar, Static

from pasys.adapters.signer import open_signer
from pasys.db import Unit
from pasys.domain.ledger import Kind, Result
from pasys.errors import InvalidInput, PasysError
from pasys.money import asset_of, format_minor
from pasys.service import ledger_checkpoint, ledger_history, ledger_movement, ledger_verify
from pasys.service.ledger_history import TransferRow
from pasys.service.ledger_verify import Verification
from pasys.tui.live import Live
from pasys.tui.transaction import TransactionDetail
from pasys.tui.window import WINDOW, Windowed

LOOK_EVERY_S = 0.25  # at the progress of a proof


class JournalScreen(Windowed):
    """An asset's journal from its end, or from a seq that was typed, backwards."""

    TITLE = "Journal"
    COLUMNS = ("seq", "recorded", "amount", "from → to", "for", "kind", "reference", "id")
    HINT = "USD, or USD 1200, or 1200"
    BINDINGS: ClassVar[list[BindingType]] = [("escape", "back", "Back")]

    def __init__(self, asset: str | None = None, seq: int | None = None) -> None:
        super().__init__()
        self._asset = asset
        self._seq = seq

    def narrow(self, text: str) -> None:
        """An asset, a seq, or both. A seq alone stays with the asset that is shown."""
        asset, seq = self._asset, None
        for word in text.split():
            if word.isascii() and word.isdigit():
                seq = int(word)
            else:
                asset = asset_of(word.upper()).code
        if len(text.split()) > 2 or seq == 0:
            raise InvalidInput(field="journal", reason="an asset and a seq from 1 on: USD 1200")
        self._asset, self._seq = asset, seq

    async def window(self, unit: Unit, after: Any) -> list[TransferRow]:
        heads = await ledger_movement.heads(unit)
        if self._asset is None:
            self._asset = next(iter(heads), None)
        if self._asset is None:
            return []
        last = heads.get(self._asset, 0)
        top = min(last, self._seq or last) if after is None else after - 1
        if top < 1:
            return []
        first = max(top - WINDOW, 1)
        rows = await ledger_history.transfers(unit, asset=self._asset, after_seq=first - 1, limit=top - first + 1)
        return rows[::-1]

    def _says(self, rows: Sequence[Any]) -> str:
        if not rows:
            return f"The journal of {self._asset} is empty." if self._asset else "The books are empty. Try: pasys demo"
        rest = "n: earlier ones" if self._more else "that is the first"
        return f"{self._asset}: {rows[0].seq:,} down to {rows[-1].seq:,}; {rest}"

    def key(self, row: TransferRow) -> int:
        return row.seq

    def cells(self, row: TransferRow) -> list[Text | str]:
        done = "" if row.result is Result.ACCEPTED else f", refused: {row.result.name.lower()} !"
        return [
            Text(f"{row.seq:,}", justify="right"),
            f"{row.recorded_at.astimezone():%m-%d %H:%M:%S}",
            Text(format_minor(row.amount.minor, row.amount.asset, grouping=True), justify="right"),
            Text(f"{row.debit_name or row.debit} → {row.credit_name or row.credit}"),
            row.purpose.name.lower().replace("_", " "),
            f"{KINDS[row.kind]}{done}",
            row.reference or "",
            str(row.id),
        ]

    def action_back(self) -> None:
        if self.table.has_focus:
            self.app.pop_screen()
        else:
            self.table.focus()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        row = self.chosen()
        if row and row.reference and row.reference.startswith("tx_"):
            self.app.push_screen(TransactionDetail(row.reference))


KINDS = {Kind.DIRECT: "direct", Kind.PENDING: "hold", Kind.POST: "post", Kind.VOID: "void"}


class VerifyScreen(Live):
    """The proof of the books under way, and what it found. It computes beside the dashboard, and can be stopped."""

    TITLE = "Verify the books"
    BINDINGS: ClassVar[list[BindingType]] = [
        ("r", "prove", "Prove again"),
        ("f", "full", "From the first transfer"),
        ("x", "stop", "Stop"),
        ("escape", "app.pop_screen", "Back"),
    ]
    DEFAULT_CSS = """
    VerifyScreen ProgressBar { width: 100%; margin: 1 0; }
    VerifyScreen #found.wrong { background: $error; color: $text; text-style: bold; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._come: tuple[str, int, int] = ("", 0, 0)  # the asset, how far, of how many
        self._full = False
        self._begun_at = 0.0
        self._proof: asyncio.Task[Any] | None = None

    def body(self) -> ComposeResult:
        yield Static(id="what", markup=False)
        yield ProgressBar(show_eta=False)
        with VerticalScroll():
            yield Static(id="found", markup=False)

    def on_mount(self) -> None:
        self.set_interval(LOOK_EVERY_S, self._show_progress)
        self.call_after_refresh(self._begin)

    def on_unmount(self) -> None:
        self.action_stop()

    def action_again(self) -> None:
        """Coming back to the screen begins nothing."""

    def action_prove(self) -> None:
        if self._proof is None or self._proof.done():
            self._begin()

    def action_full(self) -> None:
        """All of it, and not only what is behind the last checkpoint."""
        self._full = True
        self.action_stop()
        self.run_worker(self._begin_after_end, exclusive=True)

    async def _begin_after_end(self) -> None:
        if self._proof is not None:
            await asyncio.wait([self._proof])
        self._begin()

    def action_stop(self) -> None:
        if self._proof is not None:
            self._proof.cancel()

    def _begin(self) -> None:
        self._come, self._begun_at = ("", 0, 0), time.monotonic()
        self._say(f"From {'the first transfer' if self._full else 'the last checkpoint'} to the last one …", "")
        self._proof = asyncio.create_task(self._prove(full=self._full))

    async def _prove(self, *, full: bool) -> None:
        def progress(*come: Any) -> None:  # in the thread of the proof
            self._come = come

        async def question(unit: Unit) -> Verification:
            starts = None if full else await ledger_checkpoint.starts(unit, open_signer(unit.settings))
            return await ledger_verify.verify(unit, progress=progress, starts=starts)

        try:
            self._end(await self.source.apart(question))
        except PasysError as error:
            self.warn(str(error))
            self._say("Not proved. r tries again.", "")
        except asyncio.CancelledError:
            if self.is_mounted:
                self._say("Stopped: nothing is proved. r begins again, f from the first transfer.", "")
            raise

    def _end(self, found: Verification) -> None:
        self._show_progress()
        self.warn(None)
        took_s = time.monotonic() - self._begun_at
        self._say(f"{found.transfers:,} transfers of {found.accounts:,} accounts in {took_s:,.1f} s.", verdict(found))
        self.query_one("#found").set_class(not found.ok, "wrong")

    def _say(self, what: str, found: str) -> None:
        command = self.source.in_a_shell("ledger", "verify", *(["--full"] if self._full else []))
        self.query_one("#what", Static).update(f"{what}\n{command}")
        self.query_one("#found", Static).update(found)
        self.query_one("#found").set_class(False, "wrong")

    def _show_progress(self) -> None:
        asset, done, total = self._come
        self.query_one(ProgressBar).update(total=total or 1, progress=done)
        if self._proof is not None and not self._proof.done() and asset:
            self.query_one("#found", Static).update(f"{asset}: {done:,} of {total:,}")


def verdict(found: Verification) -> str:
    """What a proof found, in words."""
    if found.ok:
        return "The books hold: every balance, hold, limit and seal follows from the journal."
    lines = [f"THE BOOKS DO NOT HOLD: {len(found.findings)} findings, the first of each asset first"]
    return "\n".join([*lines, *map(str, found.findings)])
