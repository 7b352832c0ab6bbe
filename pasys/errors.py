"""Everything that can go wrong, in three families. The family decides what happens next.

    PasysError
    ├── Rejected           the rules say no          message: ack, announce   HTTP 4xx
    │   ├── Invalid        the input is not valid                             422   exit 2
    │   ├── NotFound       there is no such thing                             404   exit 3
    │   ├── Conflict       it is already otherwise                            409   exit 4
    │   ├── NotAllowed     not by you                                         403   exit 5
    │   └── Refused        a rule of the business                             422   exit 6
    ├── Unavailable        a dependency did not answer   message: nak         503   exit 7
    │   └── TimedOut       the outcome is unknown                             504   exit 8
    └── Broken             a bug or corrupt data         message: park        500   exit 1
        └── Integrity      the books do not hold                              500   exit 9

A class names the broken rule; its facts are keyword arguments; `says` is one sentence about what is wrong and `fix`
one sentence about what to do.
"""

from __future__ import annotations

from typing import Any, ClassVar


class PasysError(Exception):
    says: ClassVar[str] = "{reason}"
    fix: ClassVar[str] = ""
    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500

    def __init__(self, **facts: Any) -> None:
        self.facts = facts
        super().__init__(self.says.format(**facts))

    @property
    def code(self) -> str:
        """The name other systems see: InsufficientFunds -> insufficient_funds."""
        return error_code(type(self))

    @property
    def advice(self) -> str:
        """What to do, with the facts filled in."""
        return self.fix.format(**self.facts)


def error_code(kind: type[PasysError]) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in kind.__name__).lstrip("_")


class Rejected(PasysError):
    exit_code = 6
    http_status = 422


class Invalid(Rejected):
    exit_code = 2


class NotFound(Rejected):
    exit_code = 3
    http_status = 404


class Conflict(Rejected):
    exit_code = 4
    http_status = 409


class NotAllowed(Rejected):
    exit_code = 5
    http_status = 403


class Refused(Rejected):
    exit_code = 6


class Unavailable(PasysError):
    exit_code = 7
    http_status = 503


class TimedOut(Unavailable):
    exit_code = 8
    http_status = 504


class Broken(PasysError):
    exit_code = 1


class Integrity(Broken):
    exit_code = 9


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


# Accounts ------------------------------------------------------------------------------------------------------------


class AccountNotFound(NotFound):
    says = "there is no account {account}"
    fix = "`pasys account list` shows what there is; `pasys account open` opens one."


class AccountExists(Conflict):
    says = "account {name} in {asset} is already open, with other properties"
    fix = "Choose another name, or use the account that exists."


class AccountFrozen(Refused):
    says = "account {account} is frozen and starts nothing new"
    fix = "`pasys account unfreeze {account}` lifts it."


class AccountClosed(Refused):
    says = "account {account} is closed"
    fix = "Use another account."


class AccountNotEmpty(Refused):
    says = "account {account} holds {balance} and {holds} pending; only an empty account can be closed"
    fix = "Move the money out first."


class WrongAsset(Refused):
    says = "account {account} is kept in {account_asset}; {asset} was asked"
    fix = "Open an account in {asset}, or pay in {account_asset}."


# The ledger ----------------------------------------------------------------------------------------------------------


class TransferRefused(Refused):
    """A transfer that the ledger recorded as refused; `rule` is the rule's name."""

    says = "transfer {transfer_id} was refused: {rule}"
    fix = "Correct what the rule names and ask again, under a new id."


class InsufficientFunds(Refused):
    says = "account {account} has {available} available; {asked} was asked"
    fix = "Fund the account, or ask for less."


class LimitExceeded(Refused):
    says = "account {account} would break its limit {rule}"
    fix = "Ask for less, or change the account's limit."


class HoldUnusable(Conflict):
    says = "hold {hold_id} cannot be used: {rule}"
    fix = "`pasys trace` shows what became of it."


class TransferConflict(Conflict):
    says = "transfer {transfer_id} exists with other fields"
    fix = "A transfer's id is its idempotency key: use a new one for a new transfer."


class BooksDoNotHold(Integrity):
    says = "the books do not hold: {finding}"
    fix = "Stop paying out, keep the database as it is, and compare with a backup."


class HistoryMissing(NotFound):
    says = "there is no history for {account} at {at}"
    fix = "Ask for a later time."


# Idempotency ---------------------------------------------------------------------------------------------------------


class IdempotencyMismatch(Conflict):
    says = "idempotency key {key!r} was used before with another body, for {entity_id}"
    fix = "Use a new key for a new request."


# Transactions --------------------------------------------------------------------------------------------------------


class TransactionNotFound(NotFound):
    says = "there is no transaction {transaction_id}"
    fix = "`pasys tx list` shows what there is."


class IllegalTransition(Conflict):
    says = "{entity_id} is {status}; it cannot become {wanted}"
    fix = "`pasys trace {entity_id}` shows how it came to be {status}."


class CancelTooLate(Conflict):
    says = "transaction {transaction_id} is {status} and already with the PSP; it can no longer be cancelled"
    fix = "Wait for its outcome, then refund it."


class NotReversible(Refused):
    says = "transaction {transaction_id} cannot be reversed: {reason}"
    fix = "A PSP payment is returned with `pasys refund create`."


class AlreadyReversed(Conflict):
    says = "transaction {transaction_id} was already reversed by {reversal_id}"
    fix = "`pasys tx show {reversal_id}` shows the reversal."


class PaymentDeclined(Refused):
    says = "transaction {transaction_id} failed: {reason}"
    fix = "Use another payment method."


class FlaggedAsFraud(Refused):
    says = "transaction {transaction_id} was blocked by the fraud check: {reason}"
    fix = "`pasys fraud explain {transaction_id}` shows the reasons."


class NothingToResolve(Conflict):
    says = "the outcome of {entity_id} is known: it is {status}"
    fix = "`pasys trace {entity_id}` shows its history."


class UnknownRail(Invalid):
    says = "rail: there is no rail {rail!r}"
    fix = "Use book, or one of the installed PSPs: {installed}."


class AmountNotSendable(Refused):
    says = "{psp} cannot take {amount}: {reason}"
    fix = "Ask for an amount that {psp} can express."


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


# Refunds -------------------------------------------------------------------------------------------------------------


class RefundNotFound(NotFound):
    says = "there is no refund {refund_id}"
    fix = "`pasys refund list` shows what there is."


class RefundTooLarge(Refused):
    says = "transaction {transaction_id} has {refundable} left to refund; {asked} was asked"
    fix = "Ask for at most {refundable}."


class RefundNotPossible(Refused):
    says = "transaction {transaction_id} is {status}; only what was captured by a PSP can be refunded"
    fix = "A book transfer is undone with `pasys tx reverse`."


class RefundNotCompleted(Refused):
    says = "refund {refund_id} did not go through: {reason}"
    fix = "`pasys refund show {refund_id}` shows its history."


class SecondPersonRequired(NotAllowed):
    says = "refund {refund_id} was requested by {actor}; another person must decide it"
    fix = "Let somebody else decide, or name them with --actor."


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


# The world -----------------------------------------------------------------------------------------------------------


class PspUnavailable(Unavailable):
    says = "{psp} did not answer: {reason}"
    fix = "Its outcome is unknown and is being resolved; `pasys doctor` names what is down."


class PspMisconfigured(Invalid):
    says = "{psp}: {reason}"
    fix = "Set STRIPE_API_KEY (and STRIPE_API_BASE for another base address), or start the embedded stack."


class BadSignature(NotAllowed):
    says = "the webhook's signature does not verify: {reason}"
    fix = "Check STRIPE_WEBHOOK_SECRET."


class PspKeyReused(Broken):
    says = "{psp} was asked under {key} before, with other parameters"
    fix = "Compare the attempt (`pasys trace`) with what {psp} has on record, then replay the message."


class AmountNotKept(Broken):
    says = "{psp} says {units} {currency}, which is no whole number of ledger units"
    fix = "Compare with what {psp} has on record; the currency's decimals may differ there."


class VelocityUnavailable(Unavailable):
    says = "the velocity counters did not answer: {reason}"
    fix = "`pasys doctor` names what is down."


# The machine room ----------------------------------------------------------------------------------------------------


class StackNotRunning(Unavailable):
    says = "no pasys stack is running in {home}"
    fix = "Start it with `pasys up -d`, or set DATABASE_URL, NATS_URL and REDIS_URL."


class DatabaseUnavailable(Unavailable):
    says = "PostgreSQL did not answer: {reason}"
    fix = "`pasys doctor` names what is down."


class BusUnavailable(Unavailable):
    says = "NATS did not answer: {reason}"
    fix = "`pasys doctor` names what is down."


class ServerMissing(Unavailable):
    says = "no {server} was found: {reason}"
    fix = "Install it with `pip install 'pasys[embedded]'`, or set {variable} to the address of your own."


class ServiceFailed(Unavailable):
    says = "{service} did not become ready: {reason}"
    fix = "`pasys logs {service}` shows why."


class PortTaken(Unavailable):
    says = "port {port} for {service} is taken by {holder}"
    fix = "Stop that process, or choose another port in pasys.toml: [ports] {service} = …"


class DiskFull(Unavailable):
    says = "the disk that holds {path} is full ({free} left)"
    fix = "Free some space; pasys goes on by itself when there is room."


class HomeInUse(Conflict):
    says = "{home} is in use by process {pid}"
    fix = "Use another --home, or stop that process with `pasys down`."


class ServiceNotFound(NotFound):
    says = "there is no service {name}"
    fix = "Known ones: {known}."


class DataTooNew(Refused):
    says = "the data in {path} were written by PostgreSQL {found}; {have} is installed"
    fix = "Install PostgreSQL {found} binaries, or dump and restore."


class SchemaOutdated(Unavailable):
    says = "the database schema is at {found}; this version needs {wanted}"
    fix = "`pasys migrate up` brings it up to date."


class WaitTimedOut(TimedOut):
    says = "{entity_id} was still {status} after {waited_s} s"
    fix = "It goes on by itself; look it up with `pasys trace {entity_id}`."


class PromptNeedsTerminal(Invalid):
    says = "this asks for a confirmation and there is no terminal"
    fix = "Pass {flag}."


class DeadLetterNotFound(NotFound):
    says = "there is no dead letter {sequence}"
    fix = "`pasys events dead` shows what there is."


class NothingToTrace(NotFound):
    says = "nothing is known under {entity_id}"
    fix = "Give the id of a transaction, refund, transfer, event, decision, break or PSP object."


class UnreadableEvent(Broken):
    says = "message on {subject} cannot be read: {reason}"
    fix = "Run the version that wrote it, then replay it with `pasys events replay`."


class UndeclaredEvent(Broken):
    says = "{handler} returned {event}, which it does not declare"
    fix = "Name {event} in the return type of {handler}, then replay the message with `pasys events replay`."
