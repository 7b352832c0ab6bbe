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
one sentence about what to do. The families are in base.py; the rules are beside it, by what breaks them.
"""

from __future__ import annotations

from pasys.errors.base import Broken as Broken
from pasys.errors.base import Conflict as Conflict
from pasys.errors.base import Integrity as Integrity
from pasys.errors.base import Invalid as Invalid
from pasys.errors.base import NotAllowed as NotAllowed
from pasys.errors.base import NotFound as NotFound
from pasys.errors.base import PasysError as PasysError
from pasys.errors.base import Refused as Refused
from pasys.errors.base import Rejected as Rejected
from pasys.errors.base import TimedOut as TimedOut
from pasys.errors.base import Unavailable as Unavailable
from pasys.errors.base import error_code as error_code
from pasys.errors.checks import BreakNotFound as BreakNotFound
from pasys.errors.checks import BreakResolved as BreakResolved
from pasys.errors.checks import DecisionNotFound as DecisionNotFound
from pasys.errors.checks import FlagNotPossible as FlagNotPossible
from pasys.errors.checks import NoCorrection as NoCorrection
from pasys.errors.checks import ReconciliationFailed as ReconciliationFailed
from pasys.errors.checks import ReviewNotFound as ReviewNotFound
from pasys.errors.checks import RulesChanged as RulesChanged
from pasys.errors.checks import RulesNotFound as RulesNotFound
from pasys.errors.checks import RunNotFound as RunNotFound
from pasys.errors.input import Dust as Dust
from pasys.errors.input import ImportRefused as ImportRefused
from pasys.errors.input import ImportUnderWay as ImportUnderWay
from pasys.errors.input import InvalidAmount as InvalidAmount
from pasys.errors.input import InvalidInput as InvalidInput
from pasys.errors.input import InvalidRows as InvalidRows
from pasys.errors.input import InvalidSettings as InvalidSettings
from pasys.errors.input import RowsRefused as RowsRefused
from pasys.errors.input import UnknownAsset as UnknownAsset
from pasys.errors.ledger import AccountClosed as AccountClosed
from pasys.errors.ledger import AccountExists as AccountExists
from pasys.errors.ledger import AccountFrozen as AccountFrozen
from pasys.errors.ledger import AccountNotEmpty as AccountNotEmpty
from pasys.errors.ledger import AccountNotFound as AccountNotFound
from pasys.errors.ledger import ArchiveBroken as ArchiveBroken
from pasys.errors.ledger import ArchiveOutOfOrder as ArchiveOutOfOrder
from pasys.errors.ledger import BooksDoNotHold as BooksDoNotHold
from pasys.errors.ledger import HistoryArchived as HistoryArchived
from pasys.errors.ledger import HistoryMissing as HistoryMissing
from pasys.errors.ledger import HoldsOpen as HoldsOpen
from pasys.errors.ledger import HoldUnusable as HoldUnusable
from pasys.errors.ledger import InsufficientFunds as InsufficientFunds
from pasys.errors.ledger import JournalBusy as JournalBusy
from pasys.errors.ledger import LimitExceeded as LimitExceeded
from pasys.errors.ledger import SigningKeyUnusable as SigningKeyUnusable
from pasys.errors.ledger import TransferConflict as TransferConflict
from pasys.errors.ledger import TransferRefused as TransferRefused
from pasys.errors.ledger import WrongAsset as WrongAsset
from pasys.errors.machine_room import ArchiveBehind as ArchiveBehind
from pasys.errors.machine_room import ArchiveGap as ArchiveGap
from pasys.errors.machine_room import BackupDamaged as BackupDamaged
from pasys.errors.machine_room import BackupFailed as BackupFailed
from pasys.errors.machine_room import BackupNotOurs as BackupNotOurs
from pasys.errors.machine_room import BusUnavailable as BusUnavailable
from pasys.errors.machine_room import DaemonsAtWork as DaemonsAtWork
from pasys.errors.machine_room import DatabaseUnavailable as DatabaseUnavailable
from pasys.errors.machine_room import DataTooNew as DataTooNew
from pasys.errors.machine_room import DeadLetterNotFound as DeadLetterNotFound
from pasys.errors.machine_room import DiskFull as DiskFull
from pasys.errors.machine_room import HomeInUse as HomeInUse
from pasys.errors.machine_room import NoBackup as NoBackup
from pasys.errors.machine_room import NothingToTrace as NothingToTrace
from pasys.errors.machine_room import OutcomeUnknown as OutcomeUnknown
from pasys.errors.machine_room import PortTaken as PortTaken
from pasys.errors.machine_room import ProgramEnded as ProgramEnded
from pasys.errors.machine_room import PromptNeedsTerminal as PromptNeedsTerminal
from pasys.errors.machine_room import RequestUnderWay as RequestUnderWay
from pasys.errors.machine_room import RestoreFailed as RestoreFailed
from pasys.errors.machine_room import RestoreUnfinished as RestoreUnfinished
from pasys.errors.machine_room import RightsMissing as RightsMissing
from pasys.errors.machine_room import SchemaOutdated as SchemaOutdated
from pasys.errors.machine_room import ServerMissing as ServerMissing
from pasys.errors.machine_room import ServiceFailed as ServiceFailed
from pasys.errors.machine_room import ServiceNotFound as ServiceNotFound
from pasys.errors.machine_room import StackNotRunning as StackNotRunning
from pasys.errors.machine_room import TimeLeftBehind as TimeLeftBehind
from pasys.errors.machine_room import TimeOutOfReach as TimeOutOfReach
from pasys.errors.machine_room import UndeclaredEvent as UndeclaredEvent
from pasys.errors.machine_room import UnreadableEvent as UnreadableEvent
from pasys.errors.machine_room import WaitTimedOut as WaitTimedOut
from pasys.errors.money_path import AlreadyReversed as AlreadyReversed
from pasys.errors.money_path import AmountNotSendable as AmountNotSendable
from pasys.errors.money_path import CancelTooLate as CancelTooLate
from pasys.errors.money_path import FlaggedAsFraud as FlaggedAsFraud
from pasys.errors.money_path import IdempotencyMismatch as IdempotencyMismatch
from pasys.errors.money_path import IllegalTransition as IllegalTransition
from pasys.errors.money_path import NothingToResolve as NothingToResolve
from pasys.errors.money_path import NotReversible as NotReversible
from pasys.errors.money_path import PaymentDeclined as PaymentDeclined
from pasys.errors.money_path import RefundNotCompleted as RefundNotCompleted
from pasys.errors.money_path import RefundNotFound as RefundNotFound
from pasys.errors.money_path import RefundNotPossible as RefundNotPossible
from pasys.errors.money_path import RefundTooLarge as RefundTooLarge
from pasys.errors.money_path import SecondPersonRequired as SecondPersonRequired
from pasys.errors.money_path import TransactionNotFound as TransactionNotFound
from pasys.errors.money_path import UnknownRail as UnknownRail
from pasys.errors.world import AmountNotKept as AmountNotKept
from pasys.errors.world import BadSignature as BadSignature
from pasys.errors.world import PspKeyReused as PspKeyReused
from pasys.errors.world import PspMisconfigured as PspMisconfigured
from pasys.errors.world import PspUnavailable as PspUnavailable
from pasys.errors.world import VelocityUnavailable as VelocityUnavailable
