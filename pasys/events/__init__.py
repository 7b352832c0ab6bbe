"""Every fact that travels on the bus: past tense, frozen, versioned. The docstring says what is now true.

A subject is `<noun>.<past participle>`, and on the wire `.<ASSET>` follows as the shard key. Money travels as whole
minor units beside its asset. An event whose declaration says `final=True` has no consumer inside pasys.
"""

from __future__ import annotations

# In this order the catalogue lists them.
# isort: off
from pasys.events.base import CATALOG as CATALOG
from pasys.events.base import Event as Event
from pasys.events.base import fact as fact
from pasys.events.base import Envelope as Envelope
from pasys.events.base import Announcement as Announcement
from pasys.events.base import encode as encode
from pasys.events.base import decode as decode
from pasys.events.base import pattern as pattern
from pasys.events.facts import Facts as Facts
from pasys.events.account import AccountOpened as AccountOpened
from pasys.events.account import AccountChanged as AccountChanged
from pasys.events.transaction import TransactionCreated as TransactionCreated
from pasys.events.transaction import TransactionSucceeded as TransactionSucceeded
from pasys.events.transaction import TransactionFailed as TransactionFailed
from pasys.events.transaction import TransactionCancelled as TransactionCancelled
from pasys.events.transaction import TransactionFlagged as TransactionFlagged
from pasys.events.transaction import TransactionRefunded as TransactionRefunded
from pasys.events.fraud import FraudCleared as FraudCleared
from pasys.events.fraud import FraudReview as FraudReview
from pasys.events.fraud import FraudFlagged as FraudFlagged
from pasys.events.settlement import SettlementRequested as SettlementRequested
from pasys.events.settlement import SettlementSucceeded as SettlementSucceeded
from pasys.events.settlement import SettlementFailed as SettlementFailed
from pasys.events.settlement import SettlementUnknown as SettlementUnknown
from pasys.events.settlement import PspNotified as PspNotified
from pasys.events.refund import RefundRequested as RefundRequested
from pasys.events.refund import RefundApproved as RefundApproved
from pasys.events.refund import RefundRejected as RefundRejected
from pasys.events.refund import RefundReserved as RefundReserved
from pasys.events.refund import RefundSent as RefundSent
from pasys.events.refund import RefundCompleted as RefundCompleted
from pasys.events.refund import RefundDeclined as RefundDeclined
from pasys.events.refund import RefundUnknown as RefundUnknown
from pasys.events.refund import RefundReleased as RefundReleased
from pasys.events.reconciliation import ReconciliationRequested as ReconciliationRequested
from pasys.events.reconciliation import StatementLine as StatementLine
from pasys.events.reconciliation import ReconciliationFetched as ReconciliationFetched
from pasys.events.reconciliation import ReconciliationUnavailable as ReconciliationUnavailable
from pasys.events.reconciliation import ReconciliationMatched as ReconciliationMatched
from pasys.events.reconciliation import ReconciliationMismatched as ReconciliationMismatched
from pasys.events.reconciliation import ReconciliationResolved as ReconciliationResolved
from pasys.events.analytics import AnalyticsRecorded as AnalyticsRecorded
