-- Everything that the main job needs, declared in pasys/schema.

create table asset (
    code TEXT COLLATE "C" NOT NULL,
    kind TEXT NOT NULL,
    decimals SMALLINT NOT NULL,
    chain TEXT,
    contract TEXT,
    chain_decimals SMALLINT,
    last_seq BIGINT DEFAULT '0' NOT NULL,
    epoch BIGINT DEFAULT '0' NOT NULL,
    CONSTRAINT asset_pkey PRIMARY KEY (code),
    CONSTRAINT asset_decimals_check CHECK (decimals between 0 and 9),
    CONSTRAINT asset_kind_check CHECK (kind in ('fiat', 'token')))
WITH (fillfactor = 10);

create table account (
    id BIGINT NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    asset TEXT COLLATE "C" NOT NULL,
    type TEXT NOT NULL,
    status TEXT DEFAULT 'active' NOT NULL,
    flags INTEGER DEFAULT '0' NOT NULL,
    version BIGINT DEFAULT '0' NOT NULL,
    debits_pending BIGINT DEFAULT '0' NOT NULL,
    debits_posted BIGINT DEFAULT '0' NOT NULL,
    credits_pending BIGINT DEFAULT '0' NOT NULL,
    credits_posted BIGINT DEFAULT '0' NOT NULL,
    metadata JSONB,
    opened_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT account_pkey PRIMARY KEY (id),
    CONSTRAINT account_name_asset_key UNIQUE (name, asset),
    CONSTRAINT account_type_check CHECK (type in ('customer', 'merchant', 'provider', 'system')),
    CONSTRAINT account_status_check CHECK (status in ('active', 'frozen', 'closed')),
    CONSTRAINT account_counters_check CHECK (debits_pending >= 0 and debits_posted >= 0 and credits_pending >= 0 and credits_posted >= 0),
    CONSTRAINT account_debit_limit_check CHECK (flags & 1 = 0 or debits_posted + debits_pending <= credits_posted),
    CONSTRAINT account_credit_limit_check CHECK (flags & 2 = 0 or credits_posted + credits_pending <= debits_posted),
    CONSTRAINT account_asset_fkey FOREIGN KEY(asset) REFERENCES asset (code))
WITH (fillfactor = 50);

create table transfer (
    asset TEXT COLLATE "C" NOT NULL,
    seq BIGINT NOT NULL,
    id UUID NOT NULL,
    debit BIGINT NOT NULL,
    credit BIGINT NOT NULL,
    amount BIGINT NOT NULL,
    kind SMALLINT NOT NULL,
    code SMALLINT NOT NULL,
    result SMALLINT NOT NULL,
    pending_id UUID,
    corrects UUID,
    debit_version BIGINT NOT NULL,
    credit_version BIGINT NOT NULL,
    debit_balance BIGINT NOT NULL,
    credit_balance BIGINT NOT NULL,
    effective_at TIMESTAMP WITH TIME ZONE NOT NULL,
    recorded_at TIMESTAMP WITH TIME ZONE NOT NULL,
    reference TEXT COLLATE "C",
    CONSTRAINT transfer_pkey PRIMARY KEY (asset, seq),
    CONSTRAINT transfer_kind_check CHECK (kind between 0 and 3),
    CONSTRAINT transfer_amount_check CHECK (result <> 0 or (amount > 0 and debit <> credit)),
    CONSTRAINT transfer_pending_check CHECK ((kind >= 2) = (pending_id is not null))
);
CREATE INDEX transfer_credit_idx ON transfer (credit, seq);
CREATE INDEX transfer_debit_idx ON transfer (debit, seq);
CREATE UNIQUE INDEX transfer_id_key ON transfer (id);

create table hold (
    id UUID NOT NULL,
    asset TEXT COLLATE "C" NOT NULL,
    debit BIGINT NOT NULL,
    credit BIGINT NOT NULL,
    amount BIGINT NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE,
    reference TEXT COLLATE "C",
    CONSTRAINT hold_pkey PRIMARY KEY (id)
);
CREATE INDEX hold_expires_at_idx ON hold (expires_at) WHERE expires_at is not null;

create table transaction (
    id TEXT COLLATE "C" NOT NULL,
    kind TEXT NOT NULL,
    rail TEXT NOT NULL,
    status TEXT NOT NULL,
    outcome TEXT,
    review BOOLEAN DEFAULT 'false' NOT NULL,
    asset TEXT COLLATE "C" NOT NULL,
    amount_minor BIGINT NOT NULL,
    debit_account BIGINT NOT NULL,
    credit_account BIGINT NOT NULL,
    payment_method TEXT,
    reason TEXT,
    parent_id TEXT COLLATE "C",
    batch_id TEXT COLLATE "C",
    actor TEXT NOT NULL,
    metadata JSONB,
    hold_id UUID,
    transfer_ids UUID[] DEFAULT '{}' NOT NULL,
    psp_reference TEXT,
    charge_reference TEXT,
    captured_minor BIGINT DEFAULT '0' NOT NULL,
    fee_minor BIGINT DEFAULT '0' NOT NULL,
    refunding_minor BIGINT DEFAULT '0' NOT NULL,
    refunded_minor BIGINT DEFAULT '0' NOT NULL,
    credited BOOLEAN DEFAULT 'false' NOT NULL,
    settling_at TIMESTAMP WITH TIME ZONE,
    effective_at TIMESTAMP WITH TIME ZONE NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    final_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT transaction_pkey PRIMARY KEY (id),
    CONSTRAINT transaction_amount_check CHECK (amount_minor > 0),
    CONSTRAINT transaction_refundable_check CHECK (refunding_minor >= 0 and refunded_minor >= 0 and refunding_minor + refunded_minor <= captured_minor),
    CONSTRAINT transaction_outcome_check CHECK (outcome = 'unknown'),
    CONSTRAINT transaction_kind_check CHECK (kind in ('payment', 'transfer', 'deposit', 'withdrawal')),
    CONSTRAINT transaction_status_check CHECK (status in ('initialized', 'pending', 'succeeded', 'failed', 'fraud', 'refunding', 'cancelled', 'refunded')))
WITH (fillfactor = 70);
CREATE INDEX transaction_batch_id_idx ON transaction (batch_id) WHERE batch_id is not null;
CREATE INDEX transaction_credit_account_idx ON transaction (credit_account, id);
CREATE INDEX transaction_debit_account_idx ON transaction (debit_account, id);
CREATE INDEX transaction_open_idx ON transaction (id) WHERE status in ('initialized', 'pending', 'refunding');
CREATE UNIQUE INDEX transaction_parent_id_key ON transaction (parent_id) WHERE parent_id is not null;
CREATE INDEX transaction_psp_reference_idx ON transaction (psp_reference) WHERE psp_reference is not null;

create table transaction_history (
    transaction_id TEXT COLLATE "C" NOT NULL,
    from_status TEXT,
    to_status TEXT NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    reason TEXT,
    event_id TEXT COLLATE "C",
    actor TEXT
);
CREATE INDEX transaction_history_transaction_id_idx ON transaction_history (transaction_id);

create table idempotency (
    actor TEXT COLLATE "C" NOT NULL,
    operation TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    body_hash BYTEA NOT NULL,
    entity_id TEXT COLLATE "C" NOT NULL,
    at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT idempotency_pkey PRIMARY KEY (actor, operation, key)
);

create table import_batch (
    id TEXT COLLATE "C" NOT NULL,
    file_name TEXT NOT NULL,
    file_hash BYTEA NOT NULL,
    actor TEXT NOT NULL,
    rows_total INTEGER DEFAULT '0' NOT NULL,
    rows_done INTEGER DEFAULT '0' NOT NULL,
    rows_refused INTEGER DEFAULT '0' NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    finished_at TIMESTAMP WITH TIME ZONE,
    undone_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT import_batch_pkey PRIMARY KEY (id),
    CONSTRAINT import_batch_actor_file_hash_key UNIQUE (actor, file_hash)
);

create table import_refusal (
    batch_id TEXT COLLATE "C" NOT NULL,
    line INTEGER NOT NULL,
    key TEXT,
    rule TEXT NOT NULL,
    message TEXT NOT NULL,
    CONSTRAINT import_refusal_pkey PRIMARY KEY (batch_id, line)
);

create table attempt (
    entity_id TEXT COLLATE "C" NOT NULL,
    step TEXT COLLATE "C" NOT NULL,
    transaction_id TEXT COLLATE "C" NOT NULL,
    psp TEXT NOT NULL,
    asset TEXT COLLATE "C" NOT NULL,
    amount_minor BIGINT NOT NULL,
    outcome TEXT NOT NULL,
    psp_reference TEXT,
    auth_code TEXT,
    processor_code TEXT,
    reason TEXT,
    latency_ms INTEGER,
    asked INTEGER DEFAULT '1' NOT NULL,
    requested_at TIMESTAMP WITH TIME ZONE NOT NULL,
    finished_at TIMESTAMP WITH TIME ZONE,
    ask_after TIMESTAMP WITH TIME ZONE,
    CONSTRAINT attempt_pkey PRIMARY KEY (entity_id, step),
    CONSTRAINT attempt_outcome_check CHECK (outcome in ('requested', 'succeeded', 'declined', 'unknown', 'skipped')))
WITH (fillfactor = 70);
CREATE INDEX attempt_ask_after_idx ON attempt (ask_after) WHERE ask_after is not null;
CREATE INDEX attempt_transaction_id_idx ON attempt (transaction_id);

create table refund (
    id TEXT COLLATE "C" NOT NULL,
    transaction_id TEXT COLLATE "C" NOT NULL,
    asset TEXT COLLATE "C" NOT NULL,
    amount_minor BIGINT NOT NULL,
    status TEXT NOT NULL,
    outcome TEXT,
    automatic BOOLEAN DEFAULT 'false' NOT NULL,
    reason TEXT,
    decline_reason TEXT,
    requested_by TEXT NOT NULL,
    decided_by TEXT,
    psp_reference TEXT,
    reserved_from BIGINT,
    transfer_ids UUID[] DEFAULT '{}' NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    final_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT refund_pkey PRIMARY KEY (id),
    CONSTRAINT refund_amount_check CHECK (amount_minor > 0),
    CONSTRAINT refund_outcome_check CHECK (outcome = 'unknown'),
    CONSTRAINT refund_status_check CHECK (status in ('requested', 'awaiting_approval', 'approved', 'rejected', 'reserved', 'sent', 'completed', 'declined', 'released')),
    CONSTRAINT refund_transaction_id_fkey FOREIGN KEY(transaction_id) REFERENCES transaction (id))
WITH (fillfactor = 70);
CREATE INDEX refund_open_idx ON refund (status, id) WHERE status in ('requested', 'awaiting_approval', 'approved', 'reserved', 'sent');
CREATE INDEX refund_transaction_id_idx ON refund (transaction_id);

create table refund_history (
    refund_id TEXT COLLATE "C" NOT NULL,
    from_status TEXT,
    to_status TEXT NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    reason TEXT,
    event_id TEXT COLLATE "C",
    actor TEXT
);
CREATE INDEX refund_history_refund_id_idx ON refund_history (refund_id);

create table fraud_rules (
    version INTEGER NOT NULL,
    rules JSONB NOT NULL,
    note TEXT DEFAULT '' NOT NULL,
    actor TEXT NOT NULL,
    at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT fraud_rules_pkey PRIMARY KEY (version)
);

create table fraud_decision (
    id TEXT COLLATE "C" NOT NULL,
    transaction_id TEXT COLLATE "C" NOT NULL,
    outcome TEXT NOT NULL,
    score FLOAT NOT NULL,
    reasons JSONB NOT NULL,
    signals JSONB NOT NULL,
    rules_version INTEGER NOT NULL,
    model_version TEXT,
    decided_by TEXT NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT fraud_decision_pkey PRIMARY KEY (id),
    CONSTRAINT fraud_decision_outcome_check CHECK (outcome in ('cleared', 'review', 'flagged'))
);
CREATE INDEX fraud_decision_transaction_id_idx ON fraud_decision (transaction_id, id);

create table reconciliation_run (
    id TEXT COLLATE "C" NOT NULL,
    psp TEXT NOT NULL,
    status TEXT NOT NULL,
    since TIMESTAMP WITH TIME ZONE NOT NULL,
    until TIMESTAMP WITH TIME ZONE NOT NULL,
    lines INTEGER DEFAULT '0' NOT NULL,
    matched INTEGER DEFAULT '0' NOT NULL,
    breaks INTEGER DEFAULT '0' NOT NULL,
    reason TEXT,
    actor TEXT NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    finished_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT reconciliation_run_pkey PRIMARY KEY (id),
    CONSTRAINT reconciliation_run_status_check CHECK (status in ('reading', 'completed', 'failed'))
);
CREATE INDEX reconciliation_run_psp_idx ON reconciliation_run (psp, id);

create table statement_line (
    psp TEXT COLLATE "C" NOT NULL,
    line_id TEXT COLLATE "C" NOT NULL,
    occurrence SMALLINT NOT NULL,
    run_id TEXT COLLATE "C" NOT NULL,
    type TEXT NOT NULL,
    asset TEXT COLLATE "C" NOT NULL,
    amount_minor BIGINT NOT NULL,
    fee_minor BIGINT NOT NULL,
    source_id TEXT COLLATE "C",
    transaction_id TEXT COLLATE "C",
    refund_id TEXT COLLATE "C",
    status TEXT NOT NULL,
    description TEXT DEFAULT '' NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    matched BOOLEAN DEFAULT 'false' NOT NULL,
    matched_id TEXT COLLATE "C",
    CONSTRAINT statement_line_pkey PRIMARY KEY (psp, line_id, occurrence)
);
CREATE INDEX statement_line_created_at_idx ON statement_line (created_at);
CREATE INDEX statement_line_matched_id_idx ON statement_line (matched_id) WHERE matched_id is not null;

create table reconciliation_break (
    id TEXT COLLATE "C" NOT NULL,
    run_id TEXT COLLATE "C" NOT NULL,
    psp TEXT NOT NULL,
    kind TEXT NOT NULL,
    asset TEXT COLLATE "C" NOT NULL,
    difference_minor BIGINT NOT NULL,
    line_id TEXT COLLATE "C",
    entity_id TEXT COLLATE "C",
    evidence JSONB NOT NULL,
    status TEXT DEFAULT 'open' NOT NULL,
    resolution TEXT,
    note TEXT,
    actor TEXT,
    transfer_ids UUID[] DEFAULT '{}' NOT NULL,
    found_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    resolved_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT reconciliation_break_pkey PRIMARY KEY (id),
    CONSTRAINT reconciliation_break_kind_check CHECK (kind in ('amount', 'currency', 'status', 'fee', 'missing_in_ledger', 'missing_at_psp', 'duplicate', 'late')),
    CONSTRAINT reconciliation_break_status_check CHECK (status in ('open', 'resolved'))
);
CREATE INDEX reconciliation_break_entity_id_idx ON reconciliation_break (entity_id);
CREATE INDEX reconciliation_break_line_id_idx ON reconciliation_break (line_id);
CREATE INDEX reconciliation_break_open_idx ON reconciliation_break (psp, id) WHERE status = 'open';

create table psp_notice (
    psp TEXT COLLATE "C" NOT NULL,
    event_id TEXT COLLATE "C" NOT NULL,
    notice_id TEXT COLLATE "C" NOT NULL,
    type TEXT NOT NULL,
    object_id TEXT COLLATE "C",
    transaction_id TEXT COLLATE "C",
    payload JSONB NOT NULL,
    received_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT psp_notice_pkey PRIMARY KEY (psp, event_id),
    CONSTRAINT psp_notice_notice_id_key UNIQUE (notice_id)
);
CREATE INDEX psp_notice_transaction_id_idx ON psp_notice (transaction_id) WHERE transaction_id is not null;

create table event (
    id TEXT COLLATE "C" NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    asset TEXT COLLATE "C" NOT NULL,
    entity_id TEXT COLLATE "C" NOT NULL,
    correlation_id TEXT COLLATE "C" NOT NULL,
    body BYTEA NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT event_pkey PRIMARY KEY (id)
);
CREATE INDEX event_correlation_id_idx ON event (correlation_id);

create table outbox (
    event_id TEXT COLLATE "C" NOT NULL,
    claimed_until TIMESTAMP WITH TIME ZONE,
    CONSTRAINT outbox_pkey PRIMARY KEY (event_id)
);

create table inbox (
    event_id TEXT COLLATE "C" NOT NULL,
    handler TEXT COLLATE "C" NOT NULL,
    CONSTRAINT inbox_pkey PRIMARY KEY (event_id, handler)
);

-- What is written once stays as it was written.
create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception '% is append-only', tg_table_name using errcode = 'restrict_violation';
end $$;

create trigger transfer_immutable before update or delete on transfer
    for each statement execute function refuse_change();
create trigger transfer_no_truncate before truncate on transfer
    for each statement execute function refuse_change();
create trigger transaction_history_immutable before update or delete on transaction_history
    for each statement execute function refuse_change();
create trigger transaction_history_no_truncate before truncate on transaction_history
    for each statement execute function refuse_change();
create trigger refund_history_immutable before update or delete on refund_history
    for each statement execute function refuse_change();
create trigger refund_history_no_truncate before truncate on refund_history
    for each statement execute function refuse_change();
create trigger fraud_decision_immutable before update or delete on fraud_decision
    for each statement execute function refuse_change();
create trigger fraud_decision_no_truncate before truncate on fraud_decision
    for each statement execute function refuse_change();
create trigger fraud_rules_immutable before update or delete on fraud_rules
    for each statement execute function refuse_change();
create trigger fraud_rules_no_truncate before truncate on fraud_rules
    for each statement execute function refuse_change();
