"""What a payment and its refunds can run into, from the first request to the last unit sent back."""

from __future__ import annotations

from pasys.errors.base import Conflict, Invalid, NotAllowed, NotFound, Refused

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
