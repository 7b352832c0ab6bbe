"""pasys fraud: what waits for a person, the rules that judge, and why a payment was judged as it was."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pasys.cli.console import Noun, ask, say, settings, show
from pasys.cli.options import TABLE, Format, Limit, Output, TransactionId
from pasys.errors import InvalidInput

if TYPE_CHECKING:
    from pasys.service.fraud import DecisionRow
    from pasys.service.fraud_rules import RulesDocument

app = Noun("fraud", "The fraud check: reviews, rules, explanations.")
review = Noun("review", "Payments that wait for a person.")
rules = Noun("rules", "The rules: versions, the document in force, a new one.")
block = Noun("block", "The block list: what is on it is fraud, whatever else is true.")
allow = Noun("allow", "The allow list: what is on it is cleared, unless it is blocked.")
for noun in (review, rules, block, allow):
    app.add_typer(noun, name=noun.info.name)

REVIEWS = ["transaction_id", "account", "amount", "payment_method", "score", "rules", "since"]
DECISIONS = ["id", "outcome", "score", "rules", "rules_version", "model_version", "decided_by", "at"]

Reason = Annotated[str, typer.Option("--reason", help="Why; kept in the decision.")]
Note = Annotated[str, typer.Option("--note", help="Why; kept with the version.")]
Value = Annotated[str, typer.Argument(metavar="VALUE", help="An account's name, or a payment method.")]


class Entry(StrEnum):
    ACCOUNT = "account"
    PAYMENT_METHOD = "payment-method"


As = Annotated[Entry | None, typer.Option("--as", help="What VALUE is; pm_… and card_… are payment methods.")]


@dataclass(frozen=True, slots=True)
class Explanation:
    transaction_id: str
    decisions: list[DecisionRow]


# Reviews -------------------------------------------------------------------------------------------------------------


@review.command("list", examples="pasys fraud review list\npasys fraud review list --limit 10 --json")
def review_list(limit: Limit = 50, output: Output = TABLE) -> None:
    """List what waits for a person, longest first."""
    from pasys.service import fraud

    rows = ask(lambda unit: fraud.reviews(unit, limit=limit))
    show(_readable(rows, output), output, name="reviews", columns=_columns(REVIEWS, output), empty="Nothing waits.")


@review.command("approve", examples="pasys fraud review approve tx_06f2… --reason 'known customer'")
def review_approve(transaction_id: TransactionId, reason: Reason, output: Output = TABLE) -> None:
    """Let a payment through; it goes on to the PSP."""
    from pasys.service import fraud

    _show_decision(ask(lambda unit: fraud.approve(unit, transaction_id, reason)), output)


@review.command("reject", examples="pasys fraud review reject tx_06f2… --reason 'stolen card'")
def review_reject(transaction_id: TransactionId, reason: Reason, output: Output = TABLE) -> None:
    """Say that a payment is fraud; its hold is released."""
    from pasys.service import fraud

    _show_decision(ask(lambda unit: fraud.reject(unit, transaction_id, reason)), output)


@app.command("flag", examples="pasys fraud flag tx_06f2… --reason 'chargeback announced'")
def flag(transaction_id: TransactionId, reason: Reason, output: Output = TABLE) -> None:
    """Say that a payment is fraud, settled or not; what was captured is refunded."""
    from pasys.service import fraud

    _show_decision(ask(lambda unit: fraud.flag(unit, transaction_id, reason)), output)


@app.command("explain", examples="pasys fraud explain tx_06f2…\npasys fraud explain tx_06f2… --json")
def explain(transaction_id: TransactionId, output: Output = TABLE) -> None:
    """Show every decision about a payment: by whom, by which rules, for which reasons."""
    from pasys.service import fraud

    decisions = ask(lambda unit: fraud.explain(unit, transaction_id))
    if output in (Format.JSON, Format.JSONL):
        show(Explanation(transaction_id, decisions), output)
        return
    show(_readable(decisions, output), output, name="decisions", columns=_columns(DECISIONS, output))
    if output is TABLE:
        reasons = [
            {"decision": row.id, "rule": reason["rule"], "weight": reason["weight"], "facts": reason["facts"]}
            for row in decisions
            for reason in row.reasons
        ]
        print()
        show(reasons, output, name="reasons", empty="No rule spoke.")


def _show_decision(row: DecisionRow, output: Format) -> None:
    (shown,) = _readable([row], output)
    show(shown, output, columns=_columns(["transaction_id", *DECISIONS], output))


def _readable(rows: list[Any], output: Format) -> list[Any]:
    """For a person, the names of the rules in place of the reasons."""
    if output is not TABLE:
        return rows
    from pasys.cli.output import fields_of

    return [fields_of(row) | {"rules": [reason["rule"] for reason in row.reasons]} for row in rows]


def _columns(columns: list[str], output: Format) -> list[str] | None:
    return columns if output is TABLE else None


# Rules ---------------------------------------------------------------------------------------------------------------


@rules.command("list", examples="pasys fraud rules list\npasys fraud rules list --json")
def rules_list(output: Output = TABLE) -> None:
    """List the versions, newest first."""
    from pasys.service import fraud_rules

    show(ask(fraud_rules.rules_versions), output, name="versions")


@rules.command("show", examples="pasys fraud rules show\npasys fraud rules show --version 1 --json")
def rules_show(
    version: Annotated[int | None, typer.Option("--version", min=1, help="Which; else the one in force.")] = None,
    output: Output = TABLE,
) -> None:
    """Show a version's document. With --json, its `rules` can be edited and given to `rules set`."""
    from pasys.service import fraud_rules

    _show_rules(ask(lambda unit: fraud_rules.rules_at(unit, version)), output)


@rules.command(
    "set",
    examples="pasys fraud rules set rules.json --note 'lower limits for the holidays'\n"
    "pasys fraud rules set rules.json --based-on 3",
)
def rules_set(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A JSON document, or - for standard input.")],
    note: Note = "",
    based_on: Annotated[
        int | None,
        typer.Option("--based-on", min=1, help="The version that was edited; refused if there is a newer one."),
    ] = None,
    output: Output = TABLE,
) -> None:
    """Put a document in force, as the next version; what it leaves out has the built-in value."""
    from pasys.service import fraud_rules

    settings()  # the tokens of pasys.toml are assets, too
    document = _document(file)
    changed = ask(lambda unit: fraud_rules.change_rules(unit, document, note, based_on=based_on))
    _show_rules(changed, output)


def _document(file: str) -> Any:
    import msgspec

    try:
        text = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return msgspec.json.decode(text)
    except OSError as error:
        raise InvalidInput(field="file", reason=f"{file} cannot be read: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(field="file", reason=f"{file} is not JSON: {error}") from None


def _show_rules(row: RulesDocument, output: Format) -> None:
    if output is not TABLE:
        show(row, output)
        return
    show(row, output, columns=["version", "note", "actor", "at"])
    import json

    print()
    print(json.dumps(row.rules, indent=2, ensure_ascii=False))


# Lists ---------------------------------------------------------------------------------------------------------------


@block.command("add", examples="pasys fraud block add mallory\npasys fraud block add pm_card_1 --as payment-method")
def block_add(value: Value, as_: As = None, note: Note = "", output: Output = TABLE) -> None:
    """Block a payer or a payment method, from the next payment on."""
    _relist("block", value, as_, present=True, note=note, output=output)


@block.command("remove", examples="pasys fraud block remove mallory --note 'a namesake'")
def block_remove(value: Value, as_: As = None, note: Note = "", output: Output = TABLE) -> None:
    """Take a payer or a payment method off the block list."""
    _relist("block", value, as_, present=False, note=note, output=output)


@allow.command("add", examples="pasys fraud allow add treasury --note 'our own account'")
def allow_add(value: Value, as_: As = None, note: Note = "", output: Output = TABLE) -> None:
    """Clear a payer or a payment method without further checks, unless it is blocked."""
    _relist("allow", value, as_, present=True, note=note, output=output)


@allow.command("remove", examples="pasys fraud allow remove treasury")
def allow_remove(value: Value, as_: As = None, note: Note = "", output: Output = TABLE) -> None:
    """Take a payer or a payment method off the allow list."""
    _relist("allow", value, as_, present=False, note=note, output=output)


def _relist(
    name: Literal["allow", "block"], value: str, as_: Entry | None, *, present: bool, note: str, output: Format
) -> None:
    from pasys.service import fraud_rules

    method = as_ is Entry.PAYMENT_METHOD or (as_ is None and value.startswith(("pm_", "card_")))
    field = "payment_methods" if method else "accounts"
    changed = ask(
        lambda unit: fraud_rules.relist_rules(unit, name=name, field=field, value=value, present=present, note=note)
    )
    if output is TABLE:
        entries = ", ".join(changed.rules[name][field]) or "none"
        say(f"Version {changed.version} is in force; {name}ed {field.replace('_', ' ')}: {entries}.")
    else:
        show(changed, output)
