-- The oldest partitions of an asset's journal can be written to files and dropped: what follows from their rows and is
-- still asked for stays here. The journal then begins behind asset.archived_seq.

alter table asset
    add column archived_seq BIGINT DEFAULT '0' NOT NULL,
    -- So no account row ever lags behind what is gone.
    add constraint asset_archived_check check (archived_seq between 0 and projected_seq);

-- What was archived, and what was brought back: in both cases the range, its hashes, and the file that has it.
create table archive (
    asset TEXT COLLATE "C" NOT NULL,
    last_seq BIGINT NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    action TEXT NOT NULL,
    first_seq BIGINT NOT NULL,
    hash_before BYTEA NOT NULL,
    hash_after BYTEA NOT NULL,
    last_recorded_at TIMESTAMP WITH TIME ZONE NOT NULL,
    holds UUID[] NOT NULL,
    file TEXT COLLATE "C" NOT NULL,
    sha256 BYTEA NOT NULL,
    actor TEXT COLLATE "C" NOT NULL,
    CONSTRAINT archive_pkey PRIMARY KEY (asset, last_seq, at),
    CONSTRAINT archive_action_check CHECK (action in ('archived', 'restored')),
    CONSTRAINT archive_range_check CHECK (first_seq between 1 and last_seq),
    CONSTRAINT archive_hash_check CHECK (length(hash_before) = 32 and length(hash_after) = 32 and length(sha256) = 32)
);

-- What each account amounted to behind an archived row.
create table archive_account (
    asset TEXT COLLATE "C" NOT NULL,
    seq BIGINT NOT NULL,
    account BIGINT NOT NULL,
    version BIGINT NOT NULL,
    debits_pending BIGINT NOT NULL,
    debits_posted BIGINT NOT NULL,
    credits_pending BIGINT NOT NULL,
    credits_posted BIGINT NOT NULL,
    open_since TIMESTAMP WITH TIME ZONE,
    CONSTRAINT archive_account_pkey PRIMARY KEY (asset, seq, account)
);

-- Archived rows that later ones or later times still need: holds that were open then, and what counts only later.
create table archive_transfer (
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
    expires_at TIMESTAMP WITH TIME ZONE,
    seal BIGINT NOT NULL,
    reference TEXT COLLATE "C",
    CONSTRAINT archive_transfer_pkey PRIMARY KEY (asset, seq)
);

-- What each archived row still answers when its id is asked for again (pasys/domain/ledger_answer.py), end to end for the
-- rows from first_seq on. A piece of it is read without the rest.
create table archive_answer (
    asset TEXT COLLATE "C" NOT NULL,
    first_seq BIGINT NOT NULL,
    answers BYTEA NOT NULL,
    CONSTRAINT archive_answer_pkey PRIMARY KEY (asset, first_seq)
);
alter table archive_answer alter column answers set storage external;

create trigger archive_immutable before update or delete on archive
    for each statement execute function refuse_change();
create trigger archive_no_truncate before truncate on archive
    for each statement execute function refuse_change();
create trigger archive_account_immutable before update or delete on archive_account
    for each statement execute function refuse_change();
create trigger archive_account_no_truncate before truncate on archive_account
    for each statement execute function refuse_change();
create trigger archive_transfer_immutable before update or delete on archive_transfer
    for each statement execute function refuse_change();
create trigger archive_transfer_no_truncate before truncate on archive_transfer
    for each statement execute function refuse_change();
create trigger archive_answer_immutable before update or delete on archive_answer
    for each statement execute function refuse_change();
create trigger archive_answer_no_truncate before truncate on archive_answer
    for each statement execute function refuse_change();

-- The 26 bytes of one row.
create function ledger_archived_answer(p_asset text, p_seq int8) returns bytea language sql stable as $$
    select nullif(substring(b.answers from ((p_seq - b.first_seq) * 26 + 1)::int for 26), '')
      from (select first_seq, answers from archive_answer
             where asset = p_asset and first_seq <= p_seq order by first_seq desc limit 1) b
$$;

-- Every row that is still here: the journal, and what was kept of its archived part.
create view transfer_known as
select * from transfer
union all
select * from archive_transfer t where t.seq <= (select archived_seq from asset where code = t.asset);

-- What was posted, from the side of each account.
create view transfer_entry as
select asset, debit as account, credit as other, seq, id, code, -amount as change, effective_at, recorded_at, reference
  from transfer where result = 0 and kind in (0, 2)
union all
select asset, credit, debit, seq, id, code, amount, effective_at, recorded_at, reference
  from transfer where result = 0 and kind in (0, 2)
union all
select asset, debit, credit, seq, id, code, -amount, effective_at, recorded_at, reference
  from archive_transfer t
 where result = 0 and kind in (0, 2) and seq <= (select archived_seq from asset where code = t.asset)
union all
select asset, credit, debit, seq, id, code, amount, effective_at, recorded_at, reference
  from archive_transfer t
 where result = 0 and kind in (0, 2) and seq <= (select archived_seq from asset where code = t.asset);

-- Where a post or a void is told what its hold was, the hold may be archived. One that was resolved before that has no row
-- any more, and its sides are null: that it is resolved is all there is to know.
select pg_temp.exchange('ledger_tail(text)', 'transfer_key k join transfer p', 'transfer_key k join transfer_known p');
select pg_temp.exchange('ledger_load(text,boolean,int8[],uuid[],uuid[])', was, becomes) from (values
    ('array_agg(t.id), array_agg(t.asset), array_agg(t.debit)', 'array_agg(k.id), array_agg(k.asset), array_agg(t.debit)'),
    ('transfer_key k join transfer t on', 'transfer_key k left join transfer_known t on'),
    ('left join hold h on h.id = t.id', 'left join hold h on h.id = k.id'),
    ('and t.kind = 1 and t.result = 0',
     'and case when t.id is not null then t.kind = 1 and t.result = 0
                          else substring(ledger_archived_answer(k.asset, k.seq) for 2) = ''\x0100''::bytea end')
    ) v (was, becomes);
alter function ledger_tail(text) parallel restricted;

-- The last transfer of an asset that was recorded at a time or before; the last archived one where there is none. A later
-- row is never recorded earlier, so it is found by halving.
create or replace function ledger_seq_at(p_asset text, p_at timestamptz) returns int8
language plpgsql stable parallel restricted set enable_seqscan = off as $$
declare
    low int8;
    high int8;
    middle int8;
    at timestamptz;
begin
    select archived_seq, last_seq into low, high from asset where code = p_asset;
    while low < high loop
        middle := (low + high + 1) / 2;
        select recorded_at into at from transfer where asset = p_asset and seq = middle;
        if at <= p_at then low := middle; else high := middle - 1; end if;
    end loop;
    return coalesce(low, 0);
end $$;

-- The next index that a closed partition lacks, one a call: its name, or null where it has all.
drop function ledger_partition_index;
create function ledger_partition_index(p_leaf text) returns text language plpgsql
-- One process, beside those that post.
set maintenance_work_mem = '128MB' set max_parallel_maintenance_workers = 0 as $$
declare
    name text;
    part text;
begin
    if to_regclass(quote_ident(p_leaf)) is null then
        return null;  -- archived meanwhile
    end if;
    for name, part in
        select p_leaf || suffix, what from (values
            ('_debit_idx', '(debit, seq)'),
            ('_credit_idx', '(credit, seq)'),
            -- The few that count at another time than they were recorded at.
            ('_debit_dated_idx', '(debit, effective_at, seq) where effective_at <> recorded_at'),
            ('_credit_dated_idx', '(credit, effective_at, seq) where effective_at <> recorded_at')) v (suffix, what)
    loop
        if to_regclass(quote_ident(name)) is null then
            execute format('create index %I on %I ', name, p_leaf) || part;
            if name = p_leaf || '_debit_idx' then
                execute format('analyze %I', p_leaf);  -- else the planner believes what the leaf was when it was young
            end if;
            return name;
        end if;
    end loop;
    return null;
end $$;

-- The oldest partition of an asset leaves the journal. The caller has locked the asset's row, and has the rows elsewhere.
-- Only the tables' owner can do this; those who post wait for it, so it waits for nobody for long.
create function ledger_partition_drop(p_asset text, p_first int8, p_last int8) returns void language plpgsql
set lock_timeout = '200ms' as $$
declare
    leaf constant text := format('transfer_%s_%s', lower(p_asset), p_first);
begin
    execute format('alter table transfer detach partition %I', leaf);
    execute format('drop table %I', leaf);
    update asset set archived_seq = p_last where code = p_asset and archived_seq = p_first - 1;
    if not found then
        raise exception 'the journal of % does not begin at %', p_asset, p_first;
    end if;
end $$;

-- A partition that comes back is filled by itself, and then attached. Its bounds are checked row by row before: attaching
-- believes the constraint, and so reads nothing while the caller has the asset's row locked.
create function ledger_partition_stage(p_asset text, p_first int8, p_last int8) returns void language plpgsql as $$
begin
    create table transfer_restored (like transfer including defaults including constraints including indexes);
    execute format('alter table transfer_restored add constraint bounds
                    check (asset is not null and seq is not null and asset = %L and seq >= %s and seq < %s)',
                   p_asset, p_first, p_last + 1);
end $$;

create function ledger_partition_attach(p_asset text, p_first int8, p_last int8) returns void language plpgsql
set lock_timeout = '200ms' as $$
declare
    leaf constant text := format('transfer_%s_%s', lower(p_asset), p_first);
begin
    execute format('alter table transfer_restored rename to %I', leaf);
    execute format('alter index transfer_restored_pkey rename to %I', leaf || '_pkey');
    execute format('alter table transfer attach partition %I for values from (%L, %s) to (%L, %s)',
                   leaf, p_asset, p_first, p_asset, p_last + 1);
    execute format('alter table %I drop constraint bounds', leaf);
    execute format('create trigger transfer_immutable before update or delete on %I
                    for each statement execute function refuse_change()', leaf);
    execute format('create trigger transfer_no_truncate before truncate on %I
                    for each statement execute function refuse_change()', leaf);
    update asset set archived_seq = p_first - 1 where code = p_asset and archived_seq = p_last;
    if not found then
        raise exception 'the journal of % does not begin behind %', p_asset, p_last;
    end if;
end $$;
