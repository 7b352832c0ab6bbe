-- What the bus has lost is looked for, by each daemon for itself.

-- How far each daemon has looked through what was announced: whatever it should have had up to here it has had, or it
-- stands in `overdue`.
create table inbox_mark (
    daemon TEXT COLLATE "C" NOT NULL,
    event_id TEXT COLLATE "C" NOT NULL,
    CONSTRAINT inbox_mark_pkey PRIMARY KEY (daemon)
);

create table overdue (
    handler TEXT COLLATE "C" NOT NULL,
    event_id TEXT COLLATE "C" NOT NULL,
    times INTEGER DEFAULT '0' NOT NULL,
    parked BOOLEAN DEFAULT 'false' NOT NULL,
    due_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT overdue_pkey PRIMARY KEY (handler, event_id)
);

-- A PSP that captured another amount than it was asked for is a break that no run has found.
alter table reconciliation_break alter column run_id drop not null;
