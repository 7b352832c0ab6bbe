"""The demo is real traffic, and the generator's files are real input."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pasys.config import Settings
from pasys.db import Database
from pasys.service import ledger, transaction_query
from tests.import_files import checked
from tests.simulator_process import KEY, Simulator
from tests.support import daemons

GENERATOR = Path(__file__).parent.parent / "scripts" / "generate_payments.py"


@pytest.fixture
def at_home(settings: Settings, tmp_path: Path) -> Iterator[Settings]:
    """Settings with a PSP."""
    running = Simulator(tmp_path / "psp")
    yield msgspec.structs.replace(settings, stripe_api_key=KEY, stripe_api_base=running.url)
    running.stop()


async def start(settings: Settings, *words: str) -> asyncio.subprocess.Process:
    """The command, with these servers as the operator's own."""
    own = ("database_url", "nats_url", "redis_url", "stripe_api_key", "stripe_api_base")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PASYS_")}
    environ |= {name.upper(): settings.require(name) for name in own}
    program = str(Path(sys.executable).with_name("pasys"))
    options = ["--home", f"{settings.home}/none", "demo", *words]
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(program, *options, env=environ, stdout=pipe, stderr=pipe)


async def test_the_demo_is_real_traffic(at_home: Settings, db: Database) -> None:
    """What it says is what the books have: payments that succeeded, some refunded, and nothing left in flight."""
    async with daemons(at_home):
        words = ("--rate", "20", "--seconds", "3", "--seed", "3", "--refund-share", "0.5", "--json")
        running = await start(at_home, *words)
        out, err = await asyncio.wait_for(running.communicate(), 60)
    assert running.returncode == 0, err.decode()
    said = json.loads(out)
    async with db.unit() as unit:
        rows = await transaction_query.listing(unit, batch=said["batch"], limit=1_000)
        assert (await ledger.verify(unit)).ok
    assert len(rows) == said["created"] > 20
    succeeded = sum(row.status in ("succeeded", "refunded", "refunding") for row in rows)
    assert said["succeeded"] == succeeded > said["refunded"] > 0
    assert said["created"] == succeeded + said["failed"] + said["review"] + said["fraud"] + said["pending"]
    assert 0 < said["p50_ms"] <= said["p95_ms"]
    assert said["examples"]["payment"] in {row.id for row in rows}


async def test_ctrl_c_ends_the_demo_with_its_summary(at_home: Settings) -> None:
    """It exits 130, and still says what happened and what to try next."""
    running = await start(at_home, "--rate", "20", "--seconds", "600")
    assert running.stderr is not None
    first = await asyncio.wait_for(running.stderr.readline(), 60)
    assert b"created" in first
    running.send_signal(signal.SIGINT)
    out, err = await asyncio.wait_for(running.communicate(), 60)
    assert running.returncode == 130
    assert b"pending" in out and b"ledger verify" in err


async def test_without_a_stack_there_is_no_demo(tmp_path: Path) -> None:
    """Exit 7, and what to do."""
    program = str(Path(sys.executable).with_name("pasys"))
    ended = subprocess.run(
        [program, "--home", str(tmp_path), "demo", "--json"], capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, json.loads(ended.stdout)["error"]["code"]) == (7, "stack_not_running")


def generate(folder: Path, *options: str) -> Path:
    """Run the generator as on a plain checkout: no installed package is in reach."""
    out = folder / "payments.csv"
    subprocess.run([sys.executable, "-I", "-S", str(GENERATOR), "--out", str(out), *options], check=True)
    return out


def rows_of(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_same_seed_writes_the_same_file(tmp_path: Path) -> None:
    """Byte for byte; another seed writes another one."""
    files = [generate(tmp_path, "--rows", "500", "--seed", seed).read_bytes() for seed in ("1", "1", "2")]
    assert files[0] == files[1] != files[2]


def test_the_generated_file_is_valid_and_realistic(tmp_path: Path) -> None:
    """Every row can be asked for; currencies, rails, kinds, declines and patterns are all there."""
    refunds_out = tmp_path / "refunds.csv"
    path = generate(tmp_path, "--rows", "4000", "--refunds-out", str(refunds_out))
    assert not checked(path).bad
    rows = rows_of(path)
    assert len(rows) == 4_000
    assert {row["asset"] for row in rows} == {"USD", "EUR", "GBP", "JPY", "KWD"}
    assert {(row["kind"], row["rail"]) for row in rows} >= {
        ("payment", "stripe"), ("payment", "book"), ("deposit", "stripe"), ("deposit", "book"),
        ("transfer", "book"), ("withdrawal", "book"),
    }  # fmt: skip
    declined = sum("Declined" in row["payment_method"] for row in rows)
    assert 0.01 < declined / len(rows) < 0.1
    payers = Counter(row["from"] for row in rows)
    assert payers["burst-1"] == 45 and payers["tester-1"] == 15
    five_fils = [row for row in rows if row["asset"] == "KWD" and row["rail"] == "stripe" and row["amount"][-1] != "0"]
    assert five_fils and all(row["amount"].endswith("5") for row in five_fils)
    by_key = {row["key"]: row for row in rows}
    refunds = rows_of(refunds_out)
    assert refunds
    for refund in refunds:
        paid = by_key[refund["key"]]
        assert 0 < float(refund["amount"]) <= float(paid["amount"]) and paid["rail"] == "stripe"
