-- A checkpoint says what the hash of a row is, and is signed: pasys/domain/ledger_checkpoint.py has the words.
create table checkpoint (
    asset TEXT COLLATE "C" NOT NULL,
    seq BIGINT NOT NULL,
    hash BYTEA NOT NULL,
    state_hash BYTEA NOT NULL,
    key_id TEXT COLLATE "C" NOT NULL,
    signature BYTEA NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT checkpoint_pkey PRIMARY KEY (asset, seq),
    CONSTRAINT checkpoint_hash_check CHECK (length(hash) = 32 and length(state_hash) = 32)
);
create trigger checkpoint_immutable before update or delete on checkpoint
    for each statement execute function refuse_change();
create trigger checkpoint_no_truncate before truncate on checkpoint
    for each statement execute function refuse_change();

-- The state that a checkpoint's state_hash is of, where the next verification begins. Only the last one is kept.
create table checkpoint_state (
    asset TEXT COLLATE "C" NOT NULL,
    seq BIGINT NOT NULL,
    state BYTEA NOT NULL,
    CONSTRAINT checkpoint_state_pkey PRIMARY KEY (asset)
);
