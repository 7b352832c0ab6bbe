"""What accounts and the ledger refuse."""

from __future__ import annotations

from pasys.errors.base import Conflict, Integrity, Invalid, NotFound, Refused, Unavailable

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


class SigningKeyUnusable(Invalid):
    says = "the signing key {path} cannot be used: {reason}"
    fix = "Name a PEM file with an Ed25519 private key in signing_key_file, or leave it out and one is made."


class HistoryMissing(NotFound):
    says = "there is no history for {account} at {at}"
    fix = "Ask for a later time."


class HistoryArchived(HistoryMissing):
    says = "the history of {account} at {at} is in the archive {file}"
    fix = "Ask for a later time, or bring it back: `pasys ledger archive --restore {file}`."


# The archive ---------------------------------------------------------------------------------------------------------


class HoldsOpen(Refused):
    says = (
        "transfers {first_seq} to {last_seq} of {asset} cannot be archived: {holds} of their holds are open,"
        " the first is {hold_id} ({reference})"
    )
    fix = "Let it be settled, cancelled or voided first: `pasys trace {hold_id}` shows whose it is."


class ArchiveBroken(Integrity):
    says = "{file} is not a whole archive: {reason}"
    fix = "Take another copy of it. Nothing was dropped from, or brought back to, the journal."


class ArchiveOutOfOrder(Conflict):
    says = "{file} cannot be brought back now: {reason}"
    fix = "`pasys ledger archive --list` shows the order; the last one comes back first."


class JournalBusy(Unavailable):
    says = "the journal of {asset} could not be changed: somebody else was at it all the time"
    fix = "Ask again: a long report or verification must end first. What is written so far is kept."
