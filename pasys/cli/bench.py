"""pasys bench: measured speed, with batch size, concurrency, accepted and applied, and the hardware stated."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pasys.cli.console import Noun, say, show
from pasys.cli.options import TABLE, Format, Output

app = Noun("bench", "Measured speed, with the hardware stated.")
COLUMNS = ["case", "accepted", "applied", "seconds", "rate_s", "p50_ms", "p99_ms", "cpu_ms_each", "verified"]


@app.command(
    "pipeline",
    examples="pasys bench pipeline\npasys bench pipeline --case psp --payments 3000\n"
    "pasys bench pipeline --case latency --rate 50 --seconds 20 --json",
)
def pipeline(
    case: Annotated[
        list[str] | None, typer.Option("--case", help="psp, latency, instant, book; may repeat. All if absent.")
    ] = None,
    payments: Annotated[int, typer.Option("--payments", min=10, help="How many in each throughput case.")] = 5_000,
    rate: Annotated[int, typer.Option("--rate", min=1, help="Payments a second in the latency case.")] = 50,
    seconds: Annotated[int, typer.Option("--seconds", min=1, help="How long the latency case lasts.")] = 20,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the bench's own home in place, running.")] = False,
    output: Output = TABLE,
) -> None:
    """Payments through the whole pipeline, on a stack of its own with durability on; the books are verified after each.

    psp and latency settle at the simulator on this machine, instant at the in-process adapter; book is a CSV import.
    """
    from pasys.cli import bench_pipeline

    found = bench_pipeline.run(case or list(bench_pipeline.CASES), payments, rate=rate, seconds=seconds, keep=keep)
    say(found.machine)
    show(found.cases, output, name="cases", columns=COLUMNS)
    if output is Format.TABLE:
        for measured in found.cases:
            parts = ", ".join(f"{name} {ms:.2f}" for name, ms in measured.cpu_ms_by_process.items() if ms >= 0.005)
            say(f"{measured.case}: CPU ms for each: {parts}")


LEDGER_COLUMNS = ["case", "batch", "concurrency", "accepted_s", "applied_s", "p50_ms", "p99_ms", "wal_bytes"]
LEDGER_COLUMNS += ["client_us", "postgres_us", "verified"]


@app.command(
    "ledger",
    examples="pasys bench ledger\npasys bench ledger --case uniform --case callers --repeat 3\n"
    "pasys bench ledger --case growth --growth 10000000\n"
    "pasys bench ledger --case uniform --case callers --peer other.sql"
    " --peer-open 'select open_account(%(account)s)' --peer-call 'select move(%(debit)s, %(credit)s, %(amount)s)'",
)
def ledger(
    case: Annotated[
        list[str] | None,
        typer.Option(
            "--case",
            help="uniform, zipf, hot, tight, holds, replays, writers, callers, copy, orm, growth; may repeat. "
            "All but growth if absent.",
        ),
    ] = None,
    accounts: Annotated[int, typer.Option("--accounts", min=10, help="How many accounts, all with limits.")] = 100_000,
    transfers: Annotated[int, typer.Option("--transfers", min=1_000, help="In the largest case.")] = 800_000,
    growth: Annotated[int, typer.Option("--growth", min=32_000, help="How far the growth case goes.")] = 10_000_000,
    repeat: Annotated[
        int, typer.Option("--repeat", min=1, help="Rounds; of each case the median is shown, and the spread.")
    ] = 1,
    peer: Annotated[
        Path | None,
        typer.Option("--peer", metavar="FILE.sql", help="Another ledger, measured in an empty database of its own."),
    ] = None,
    peer_open: Annotated[
        str | None, typer.Option("--peer-open", metavar="SQL", help="Opens account %(account)s, 1 to 1000, with funds.")
    ] = None,
    peer_call: Annotated[
        str | None, typer.Option("--peer-call", metavar="SQL", help="Moves %(amount)s from %(debit)s to %(credit)s.")
    ] = None,
    peer_batch: Annotated[
        int, typer.Option("--peer-batch", min=2, help="Calls in one transaction, beside one call in each.")
    ] = 100,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the bench's own home in place.")] = False,
    output: Output = TABLE,
) -> None:
    """The ledger engine on a PostgreSQL of its own, with durability on; the books are verified after each case.

    accepted_s is what was answered, applied_s what moved money (a refused transfer is recorded, a replay is not);
    wal_bytes, client_us and postgres_us are for each transfer, the latter two of CPU.
    """
    from pasys.cli import bench_ledger, bench_ledger_cases

    options = bench_ledger.Options(
        cases=[*(case or bench_ledger_cases.DEFAULT), *(["peer"] if peer and "peer" not in (case or ()) else [])],
        accounts=accounts,
        transfers=transfers,
        growth=growth,
        repeat=repeat,
        keep=keep,
        peer=peer,
        peer_call=peer_call,
        peer_open=peer_open,
        peer_batch=peer_batch,
    )
    found = bench_ledger.run(options, lambda one: say(f"{one.case}: {one.accepted_s:,.0f}/s"))
    if output is Format.JSON:
        show(found, output)
        return
    say(found.machine)
    say(found.settings)
    show(found.cases, output, name="cases", columns=[*LEDGER_COLUMNS, *(["spread"] if repeat > 1 else [])])
    for ratio in found.ratios:
        say(f"{ratio.case}: {ratio.ratio:.2f} times {ratio.beside}")
