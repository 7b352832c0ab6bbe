"""A refusal becomes the error of the rule that was broken, with the names and amounts that a person knows."""

from __future__ import annotations

from pasys.db import Unit, queries
from pasys.domain.ledger import CLOSED, FROZEN, Result, Transfer
from pasys.domain.ledger_batch import Accounts, Books
from pasys.errors import (
    AccountClosed,
    AccountFrozen,
    AccountNotFound,
    HoldUnusable,
    InsufficientFunds,
    LimitExceeded,
    PasysError,
    TransferConflict,
    TransferRefused,
    WrongAsset,
)
from pasys.ids import account_id
from pasys.money import Money

_HOLD_RULES = {
    Result.HOLD_NOT_FOUND,
    Result.HOLD_MISMATCH,
    Result.HOLD_RESOLVED,
    Result.HOLD_EXPIRED,
    Result.EXCEEDS_HOLD,
}
_LIMIT_RULES = {
    Result.EXCEEDS_DEBITS: "credits_must_not_exceed_debits",
    Result.EXCEEDS_RANGE: "the largest sum that an account can hold",
}


async def refusal(unit: Unit, transfer: Transfer, result: Result, books: Books) -> PasysError:
    """The error for a refused transfer. Funds are those that the account had before the batch."""
    if result is Result.ID_CONFLICT:
        return TransferConflict(transfer_id=transfer.id)
    if result in _HOLD_RULES:
        return HoldUnusable(hold_id=transfer.pending_id, rule=result.rule)
    if result is Result.DEBIT_ACCOUNT_NOT_FOUND:
        return AccountNotFound(account=account_id(transfer.debit))
    if result is Result.CREDIT_ACCOUNT_NOT_FOUND:
        return AccountNotFound(account=account_id(transfer.credit))
    names = await _names(unit, transfer)
    if result is Result.WRONG_ASSET:
        name, asset = next(found for found in names.values() if found[1] != transfer.asset)
        return WrongAsset(account=name, account_asset=asset, asset=transfer.asset)
    if result in (Result.ACCOUNT_FROZEN, Result.ACCOUNT_CLOSED):
        return _stopped(transfer, result, books.accounts, names)
    if result is Result.EXCEEDS_CREDITS:
        available = Money(_available(books.accounts, transfer.debit), transfer.asset)
        asked = Money(transfer.amount_minor, transfer.asset)
        return InsufficientFunds(account=names[transfer.debit][0], available=available, asked=asked)
    if result in _LIMIT_RULES:
        limited = transfer.debit if result is Result.EXCEEDS_RANGE else transfer.credit
        return LimitExceeded(account=names[limited][0], rule=_LIMIT_RULES[result])
    return TransferRefused(transfer_id=transfer.id, rule=result.rule)


async def _names(unit: Unit, transfer: Transfer) -> dict[int, tuple[str, str]]:
    rows = await unit.rows(queries("ledger")["names"], numbers=[transfer.debit, transfer.credit])
    return {row.id: (row.name, row.asset) for row in rows}


def _stopped(
    transfer: Transfer, result: Result, accounts: Accounts, names: dict[int, tuple[str, str]]
) -> AccountFrozen | AccountClosed:
    kind, status = (AccountFrozen, FROZEN) if result is Result.ACCOUNT_FROZEN else (AccountClosed, CLOSED)
    statuses = dict(zip(accounts.number.tolist(), accounts.status.tolist(), strict=True))
    number = transfer.debit if statuses.get(transfer.debit) == status else transfer.credit
    return kind(account=names[number][0])


def _available(accounts: Accounts, number: int) -> int:
    at = accounts.number.tolist().index(number)
    return int(accounts.credits_posted[at] - accounts.debits_posted[at] - accounts.debits_pending[at])
