"""What was given cannot be read, or names what does not exist: settings, amounts, files."""

from __future__ import annotations

from pasys.errors.base import Conflict, Invalid, Refused

# Input ---------------------------------------------------------------------------------------------------------------


class InvalidInput(Invalid):
    says = "{field}: {reason}"
    fix = "Correct {field} and try again."


class InvalidAmount(Invalid):
    says = "amount: {text!r} is not an amount: {reason}"
    fix = "Write a positive decimal number in major units with at most {decimals} decimals, such as {example}."


class UnknownAsset(Invalid):
    says = "asset: {asset!r} is not an asset that this system knows"
    fix = "Use an ISO 4217 code such as USD, or declare a token in pasys.toml under [assets]."


class InvalidSettings(Invalid):
    says = "{source}: {reason}"
    fix = "Correct the setting; README.md lists the known ones."


class Dust(Invalid):
    says = "amount: {amount} of {asset} on the chain is not a whole number of ledger units"
    fix = "Send an amount with at most {decimals} decimals."


# Imports -------------------------------------------------------------------------------------------------------------


class InvalidRows(Invalid):
    says = "{file}: {count} of {rows} rows are not valid; line {line}: {message}"
    fix = "Correct them, or leave them out with --skip-invalid; nothing was written."


class ImportRefused(Refused):
    says = "{file}: {refused} of {rows} rows were refused; line {line}: {message}"
    fix = "With --atomic all rows are accepted or none is: nothing was written. Correct the rows, or import without it."


class RowsRefused(Refused):
    says = "{file}: {refused} of {rows} rows were refused, the others stand; line {line}: {message}"
    fix = "Correct the refused rows and import them in a file of their own."


class ImportUnderWay(Conflict):
    says = "import {batch_id} has moved on since this run looked: somebody else runs the same file"
    fix = "Wait until the other run has ended; running the file again goes on where it stopped."
