"""pasys bench: measured speed, with batch size, concurrency, accepted and applied, and the hardware stated."""

from __future__ import annotations

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
