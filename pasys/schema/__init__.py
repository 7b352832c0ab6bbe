"""The schema, declared once. migrations/ holds its history, and a test proves that the two agree.

Amounts are BIGINT minor units, so a fraction of one cannot be stored. Ids sort by time and compare bytewise (COLLATE
"C"). Everything that must never be changed refuses UPDATE, DELETE and TRUNCATE by trigger, and by grant to pasys_app,
as whom daemons and commands work (migrations/).
"""

from __future__ import annotations

# In this order tables are created.
# isort: off
from pasys.schema.base import metadata as metadata
from pasys.schema.base import Id as Id
from pasys.schema.base import Time as Time
from pasys.schema.base import NOW as NOW
from pasys.schema.ledger import asset as asset
from pasys.schema.ledger import account as account
from pasys.schema.ledger import transfer as transfer
from pasys.schema.ledger import transfer_key as transfer_key
from pasys.schema.ledger import hold as hold
from pasys.schema.ledger import checkpoint as checkpoint
from pasys.schema.ledger import checkpoint_state as checkpoint_state
from pasys.schema.archive import archive as archive
from pasys.schema.archive import archive_account as archive_account
from pasys.schema.archive import archive_answer as archive_answer
from pasys.schema.archive import archive_transfer as archive_transfer
from pasys.schema.money_path import transaction as transaction
from pasys.schema.money_path import transaction_history as transaction_history
from pasys.schema.money_path import idempotency as idempotency
from pasys.schema.money_path import import_batch as import_batch
from pasys.schema.money_path import import_refusal as import_refusal
from pasys.schema.money_path import attempt as attempt
from pasys.schema.money_path import refund as refund
from pasys.schema.money_path import refund_history as refund_history
from pasys.schema.checks import fraud_rules as fraud_rules
from pasys.schema.checks import fraud_decision as fraud_decision
from pasys.schema.checks import reconciliation_run as reconciliation_run
from pasys.schema.checks import statement_line as statement_line
from pasys.schema.checks import reconciliation_break as reconciliation_break
from pasys.schema.checks import psp_notice as psp_notice
from pasys.schema.wire import event as event
from pasys.schema.wire import outbox as outbox
from pasys.schema.wire import inbox as inbox
from pasys.schema.wire import inbox_mark as inbox_mark
from pasys.schema.wire import overdue as overdue
