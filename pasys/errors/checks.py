"""What those who look over the money can run into: the fraud check, reviewers and reconciliation."""

from __future__ import annotations

from pasys.errors.base import Conflict, NotFound, Refused, Unavailable

# Fraud ---------------------------------------------------------------------------------------------------------------


class ReviewNotFound(NotFound):
    says = "there is no open review for {transaction_id}"
    fix = "`pasys fraud review list` shows what waits."


class DecisionNotFound(NotFound):
    says = "there is no fraud decision for {transaction_id}"
    fix = "Book transfers are not checked; a new payment is checked within seconds."


class RulesNotFound(NotFound):
    says = "there is no version {version} of the fraud rules"
    fix = "`pasys fraud rules list` shows the versions."


class RulesChanged(Conflict):
    says = "the fraud rules are at version {version}; this change was made from version {based_on}"
    fix = "Look at `pasys fraud rules show`, and change what is there now."


class FlagNotPossible(Refused):
    says = "transaction {transaction_id} went by book; only a PSP's payment can be flagged as fraud"
    fix = "A book transfer is undone with `pasys tx reverse`."


# Reconciliation ------------------------------------------------------------------------------------------------------


class RunNotFound(NotFound):
    says = "there is no reconciliation run {run_id}"
    fix = "`pasys reconcile list` shows what there is."


class BreakNotFound(NotFound):
    says = "there is no break {break_id}"
    fix = "`pasys reconcile list --breaks` shows what there is."


class BreakResolved(Conflict):
    says = "break {break_id} was already {status}"
    fix = "`pasys reconcile show {break_id}` shows how."


class NoCorrection(Refused):
    says = "break {break_id} ({kind}) has no corrective entry: {reason}"
    fix = "Close it with --accept and a note."


class ReconciliationFailed(Unavailable):
    says = "run {run_id} could not read {psp}: {reason}"
    fix = "`pasys doctor` names what is down; the run can be repeated."
