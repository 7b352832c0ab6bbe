"""A new user's first session: real commands in a shell of their own, on a stack that they started themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PAYMENT = ["tx", "create", "--from", "alice", "--to", "shop", "--asset", "USD", "--rail", "stripe"]


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Shell:
    """`pasys --home H …`, each in a process of its own, without a terminal."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def __call__(self, *words: str) -> Answer:
        command = [str(Path(sys.executable).parent / "pasys"), "--home", str(self.home), *words]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PASYS_", "STRIPE_"))}
        done = subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120, env=environment
        )
        return Answer(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def pasys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A home with everything running and two accounts."""
    shell = Shell(tmp_path_factory.mktemp("home"))
    assert shell("up", "-d").code == 0
    try:
        for name, kind in (("alice", "customer"), ("shop", "merchant")):
            opened = shell("account", "open", name, "--type", kind, "--asset", "USD", "--json")
            assert (opened.code, opened.json["name"]) == (0, name)
        yield shell
    finally:
        shell("down")


@pytest.fixture(scope="module")
def paid(pasys: Shell) -> str:
    """A payment of 12.50 that succeeded."""
    answer = pasys(*PAYMENT, "--amount", "12.50", "--wait", "--json")
    assert (answer.code, answer.json["status"], answer.json["amount_minor"]) == (0, "succeeded", 1250)
    return answer.json["id"]


def test_up_twice_changes_nothing(pasys: Shell):
    """A second `up` exits 0, and the processes are the same."""
    before = {service["name"]: service["pid"] for service in pasys("status", "--json").json["services"]}
    assert pasys("up", "-d").code == 0
    status = pasys("status", "--json").json
    assert status["healthy"] is True
    assert {service["name"]: service["pid"] for service in status["services"]} == before
    assert all({"name", "kind", "state", "pid"} <= service.keys() for service in status["services"])


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_idle_it_fits_into_a_gigabyte(pasys: Shell):
    """Everything that `up` runs is resident in at most 1.0 GB, with pages that are shared counted in each process."""
    status = pasys("status", "--json").json
    parents = {int(entry.name): _parent(entry) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
    ours = {status["supervisor"]["pid"]}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    assert {service["pid"] for service in status["services"] if service["pid"]} <= ours
    resident = {pid: _resident_kb(pid) for pid in ours}
    assert sum(resident.values()) * 1024 <= 1_000_000_000, resident


def _parent(entry: Path) -> int | None:
    try:
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def _resident_kb(pid: int) -> int:
    try:
        fields = (Path("/proc") / str(pid) / "status").read_text().split()
        return int(fields[fields.index("VmRSS:") + 1])
    except (OSError, ValueError):  # it has just ended
        return 0


def test_a_declined_payment_is_printed_and_exits_6(pasys: Shell):
    """A decline leaves a transaction that failed, with an error member beside its status."""
    answer = pasys(*PAYMENT, "--amount", "9.99", "--payment-method", "pm_card_visa_chargeDeclined", "--wait", "--json")
    assert (answer.code, answer.json["status"], answer.json["error"]["code"]) == (6, "failed", "payment_declined")


def test_a_frozen_account_cannot_pay(pasys: Shell):
    """Frozen, a payment exits 6 and names the rule; unfreezing undoes it."""
    assert pasys("account", "freeze", "alice", "--asset", "USD").code == 0
    refused = pasys(*PAYMENT, "--amount", "1.00", "--json")
    assert (refused.code, refused.json["error"]["code"]) == (6, "account_frozen")
    assert pasys("account", "unfreeze", "alice", "--asset", "USD").code == 0
    assert pasys(*PAYMENT, "--amount", "1.00", "--wait", "--json").json["status"] == "succeeded"


@pytest.mark.parametrize("amount", ["-1", "0", "1.005", "NaN", "1e3", "abc"])
def test_what_is_no_amount_exits_2(pasys: Shell, amount: str):
    """Each is refused before anything is written, and the field is named."""
    refused = pasys(*PAYMENT, f"--amount={amount}", "--json")
    assert (refused.code, refused.json["error"]["code"]) == (2, "invalid_amount")
    assert refused.json["error"]["message"].startswith("amount:")


def test_a_payment_is_refunded_reconciled_and_traced(pasys: Shell, paid: str):
    """Five of it go back; the statement agrees, the books hold, and every step stands in its trace."""
    refund = pasys("refund", "create", paid, "--amount", "5.00", "--wait", "--json")
    assert (refund.code, refund.json["status"]) == (0, "completed")
    too_much = pasys("refund", "create", paid, "--amount", "7.51", "--json")
    assert (too_much.code, too_much.json["error"]["code"]) == (6, "refund_too_large")

    run = pasys("reconcile", "run", "--psp", "stripe", "--json")
    assert (run.code, run.json["breaks"]) == (0, [])
    assert run.json["matched"] >= 2

    held = pasys("account", "balance", "shop", "--json").json["balances"]
    assert [balance["asset"] for balance in held] == ["USD"]
    assert {"available", "posted", "pending"} <= held[0].keys()
    assert {"amount", "amount_minor"} <= held[0]["available"].keys()

    verified = pasys("ledger", "verify", "--json")
    assert (verified.code, verified.json["ok"]) == (0, True)

    trace = pasys("trace", paid, "--json").json
    kinds = {node["kind"] for node in trace["nodes"]}
    assert {"transaction", "verdict", "attempt", "transfer", "event", "refund"} <= kinds
    known = {node["id"] for node in trace["nodes"]}
    assert trace["edges"] and all(edge["from"] in known and edge["to"] in known for edge in trace["edges"])


def test_down_and_then_status_says_so(tmp_path: Path):
    """`down` exits 0 and `status` then exits 7; the data stay for the next `up`."""
    pasys = Shell(tmp_path / "home")
    assert pasys("up", "-d").code == 0
    assert pasys("account", "open", "alice", "--type", "customer", "--asset", "JPY").code == 0
    assert pasys("down").code == 0
    assert pasys("status", "--json").code == 7
    assert pasys("up", "-d").code == 0
    assert pasys("account", "show", "alice", "--json").json["asset"] == "JPY"
    assert pasys("down").code == 0
