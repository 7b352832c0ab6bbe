-- The journal becomes a table in partitions, one range of seq of one asset each, so that what is old can be archived and
-- the indexes of what is closed can be built at once. Ids live in a table of their own, which no archive takes away:
-- PostgreSQL keeps no unique index over partitions that are not made by id.
--
-- Each row is sealed: its hash covers its fields and the hash of the row before it (pasys/domain/ledger_chain.py). The
-- row keeps the first eight bytes, the asset's row the whole hash of the last one.
--
-- Account rows may lag: each is exact as of its own version, and none is older than asset.projected_seq; what follows it
-- in the journal is the tail. account_now has them with the tail added; whoever locks an asset to post brings them up to
-- date first.

alter table asset
    add column last_hash BYTEA,
    add column last_recorded_at TIMESTAMP WITH TIME ZONE DEFAULT '-infinity' NOT NULL,
    add column projected_seq BIGINT DEFAULT '0' NOT NULL,
    add column partitioned_seq BIGINT DEFAULT '0' NOT NULL;
update asset set last_hash = sha256(convert_to('pasys journal 1 ' || code, 'UTF8'));
alter table asset
    alter column last_hash set not null,
    add constraint asset_last_hash_check check (length(last_hash) = 32),
    add constraint asset_projected_check check (projected_seq between 0 and last_seq);

alter table transfer rename to transfer_0002;
alter table transfer_0002 rename constraint transfer_pkey to transfer_0002_pkey;
drop index transfer_credit_idx;
drop index transfer_debit_idx;
drop trigger transfer_immutable on transfer_0002;

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
    expires_at TIMESTAMP WITH TIME ZONE,
    seal BIGINT NOT NULL,
    reference TEXT COLLATE "C",
    CONSTRAINT transfer_pkey PRIMARY KEY (asset, seq),
    CONSTRAINT transfer_kind_check CHECK (kind between 0 and 3),
    CONSTRAINT transfer_amount_check CHECK (result <> 0 or (amount > 0 and debit <> credit)),
    CONSTRAINT transfer_pending_check CHECK ((kind >= 2) = (pending_id is not null)),
    CONSTRAINT transfer_expires_check CHECK (expires_at is null or kind = 1)
) partition by range (asset, seq);

create trigger transfer_immutable before update or delete on transfer
    for each statement execute function refuse_change();
create trigger transfer_no_truncate before truncate on transfer
    for each statement execute function refuse_change();

create table transfer_key (
    id UUID NOT NULL,
    asset TEXT COLLATE "C" NOT NULL,
    seq BIGINT NOT NULL,
    CONSTRAINT transfer_key_pkey PRIMARY KEY (id)
);
create trigger transfer_key_immutable before update or delete on transfer_key
    for each statement execute function refuse_change();
create trigger transfer_key_no_truncate before truncate on transfer_key
    for each statement execute function refuse_change();

-- The partition behind an asset's last one. The caller has locked the asset's row.
create function ledger_partition_add(p_asset text) returns text language plpgsql as $$
declare
    rows_each constant int8 := coalesce(current_setting('pasys.partition_rows', true), '1000000');
    first int8;
    leaf text;
begin
    select partitioned_seq + 1 into first from asset where code = p_asset;
    leaf := format('transfer_%s_%s', lower(p_asset), first);
    execute format('create table %I (like transfer including defaults including constraints)', leaf);
    execute format('alter table transfer attach partition %I for values from (%L, %s) to (%L, %s)',
                   leaf, p_asset, first, p_asset, first + rows_each);
    -- Triggers for statements do not come with the parent, and the leaf has a name that anybody can write.
    execute format('create trigger transfer_immutable before update or delete on %I
                    for each statement execute function refuse_change()', leaf);
    execute format('create trigger transfer_no_truncate before truncate on %I
                    for each statement execute function refuse_change()', leaf);
    update asset set partitioned_seq = partitioned_seq + rows_each where code = p_asset;
    return leaf;
end $$;

-- An account's history in a partition that is closed.
create function ledger_partition_index(p_leaf text) returns void language plpgsql
set maintenance_work_mem = '128MB' as $$
begin
    execute format('create index if not exists %I on %I (debit, seq)', p_leaf || '_debit_idx', p_leaf);
    execute format('create index if not exists %I on %I (credit, seq)', p_leaf || '_credit_idx', p_leaf);
    -- The few that count at another time than they were recorded at: as-of balances look for them.
    execute format('create index if not exists %I on %I (debit) where effective_at <> recorded_at',
                   p_leaf || '_debit_dated_idx', p_leaf);
    execute format('create index if not exists %I on %I (credit) where effective_at <> recorded_at',
                   p_leaf || '_credit_dated_idx', p_leaf);
end $$;

-- The last transfer of an asset that was recorded at a time or before; 0 for none. A later row is never recorded earlier,
-- so it is found by halving.
create function ledger_seq_at(p_asset text, p_at timestamptz) returns int8
language plpgsql stable set enable_seqscan = off as $$
declare
    low int8 := 0;
    high int8;
    middle int8;
    at timestamptz;
begin
    select last_seq into high from asset where code = p_asset;
    while low < high loop
        middle := (low + high + 1) / 2;
        select recorded_at into at from transfer where asset = p_asset and seq = middle;
        if at <= p_at then low := middle; else high := middle - 1; end if;
    end loop;
    return coalesce(low, 0);
end $$;

-- The journal always has its next partition before it needs it.
create function ledger_partition_first() returns trigger language plpgsql as $$
begin
    perform ledger_partition_add(new.code);
    return null;
end $$;
create trigger asset_partition after insert on asset
    for each row execute function ledger_partition_first();

create function ledger_genesis() returns trigger language plpgsql as $$
begin
    new.last_hash := sha256(convert_to('pasys journal 1 ' || new.code, 'UTF8'));
    return new;
end $$;
create trigger asset_genesis before insert on asset
    for each row execute function ledger_genesis();

-- A row as it is hashed: the definition in SQL of what pasys/domain/ledger_chain.py packs.
create function ledger_row_bytes(t transfer) returns bytea language sql immutable as $$
    select int8send(t.seq) || uuid_send(t.id) || int8send(t.debit) || int8send(t.credit) || int8send(t.amount)
        || int2send(t.kind) || int2send(t.code) || int2send(t.result)
        || int8send(t.debit_version) || int8send(t.credit_version)
        || int8send(t.debit_balance) || int8send(t.credit_balance)
        || timestamptz_send(t.effective_at) || timestamptz_send(t.recorded_at)
        || coalesce(timestamptz_send(t.expires_at), int8send(9223372036854775807))
        || coalesce(uuid_send(t.pending_id), decode(repeat('00', 16), 'hex'))
        || coalesce(uuid_send(t.corrects), decode(repeat('00', 16), 'hex'))
        || coalesce(int4send(octet_length(t.reference)) || convert_to(t.reference, 'UTF8'), int4send(-1))
$$;

-- What the journal has of before moves over, in order, and is sealed on the way.
create function pg_temp.move(p_asset text) returns void language plpgsql as $$
declare
    t transfer;
    at timestamptz := '-infinity';
    hash bytea := sha256(convert_to('pasys journal 1 ' || p_asset, 'UTF8'));
begin
    while (select partitioned_seq <= last_seq from asset where code = p_asset) loop
        perform ledger_partition_add(p_asset);
    end loop;
    for t in select o.asset, o.seq, o.id, o.debit, o.credit, o.amount, o.kind, o.code, o.result, o.pending_id,
                    o.corrects, o.debit_version, o.credit_version, o.debit_balance, o.credit_balance,
                    o.effective_at, o.recorded_at, h.expires_at, 0, o.reference
               from transfer_0002 o left join hold h on h.id = o.id
              where o.asset = p_asset order by o.seq
    loop
        at := greatest(at, t.recorded_at);  -- from now on, a later row is never recorded earlier
        t.recorded_at := at;
        hash := sha256(hash || ledger_row_bytes(t));
        t.seal := ('x' || encode(substring(hash for 8), 'hex'))::bit(64)::int8;
        insert into transfer select t.*;
    end loop;
    update asset set last_hash = hash, last_recorded_at = at, projected_seq = last_seq where code = p_asset;
end $$;
select pg_temp.move(code) from asset;
insert into transfer_key (id, asset, seq) select id, asset, seq from transfer_0002 order by id;
drop table transfer_0002;

-- What the tail adds to the accounts that lag behind it: transfers, and the four sums. Nothing where none does.
create function ledger_tail(p_asset text default null)
returns table (account int8, version int8, debits_pending int8, debits_posted int8,
               credits_pending int8, credits_posted int8)
language plpgsql stable rows 10 as $$
declare
    s record;
begin
    for s in select code, projected_seq, last_seq from asset
              where projected_seq < last_seq and (p_asset is null or code = p_asset)
    loop
        return query
        with tail as materialized (
            select t.debit, t.credit, t.debit_version, t.credit_version,
                   case when t.kind in (0, 2) then t.amount else 0 end as posted,
                   case t.kind when 1 then t.amount when 3 then -t.amount
                        when 2 then -(select p.amount from transfer_key k join transfer p
                                          on p.asset = k.asset and p.seq = k.seq where k.id = t.pending_id)
                        else 0 end as pending
              from transfer t
             where t.asset = s.code and t.seq > s.projected_seq and t.seq <= s.last_seq and t.result = 0)
        select e.account, count(*)::int8, sum(e.dp)::int8, sum(e.d)::int8, sum(e.cp)::int8, sum(e.c)::int8
          from (select debit as account, debit_version as version, pending as dp, posted as d, 0 as cp, 0 as c from tail
                union all select credit, credit_version, 0, 0, pending, posted from tail) e
          join account a on a.id = e.account and a.version < e.version
         group by e.account;
    end loop;
end $$;

-- Accounts as they are, whether their rows lag or not.
create view account_now as
select a.id, a.name, a.asset, a.type, a.status, a.flags,
       a.version + coalesce(t.version, 0) as version,
       a.debits_pending + coalesce(t.debits_pending, 0) as debits_pending,
       a.debits_posted + coalesce(t.debits_posted, 0) as debits_posted,
       a.credits_pending + coalesce(t.credits_pending, 0) as credits_pending,
       a.credits_posted + coalesce(t.credits_posted, 0) as credits_posted,
       a.metadata, a.opened_at
  from account a left join ledger_tail() t on t.account = a.id;

-- Bring an asset's account rows up to its journal. The caller has locked the asset's row.
create function ledger_project(p_asset text) returns boolean
language plpgsql set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
begin
    if not exists (select from asset where code = p_asset and projected_seq < last_seq) then
        return false;
    end if;
    update account a
       set version = a.version + t.version,
           debits_pending = a.debits_pending + t.debits_pending, debits_posted = a.debits_posted + t.debits_posted,
           credits_pending = a.credits_pending + t.credits_pending, credits_posted = a.credits_posted + t.credits_posted
      from (select * from ledger_tail(p_asset) order by account) t
     where a.id = t.account;
    update asset set projected_seq = last_seq where code = p_asset;
    return true;
end $$;

drop function ledger_load, ledger_apply;

-- A batch costs two calls: ledger_load locks the asset and reads, ledger_apply writes. What happens between them is
-- pasys/domain/ledger_rules.py. Columns come and go as binary arrays (array_send), which numpy reads as they are.
--
-- Lock order: asset rows by code, before any account row. Whoever changes an account's status or limits takes the same
-- lock and moves asset.epoch.

-- Lock an asset. A session learns of partitions that others have made only when it takes a lock on a table that it does
-- not hold yet, and a transaction that has read the journal may hold all that it needs: it would then miss the newest
-- rows. pg_relation_size takes such a lock, and lets it go again.
create function ledger_lock(p_asset text) returns void language plpgsql as $$
begin
    -- Not FOR UPDATE: opening an account takes a key share of this row and need not wait.
    perform from asset a where a.code = p_asset for no key update;
    perform pg_relation_size('pg_catalog.pg_am'::regclass);
end $$;

create function ledger_load(
    p_asset text, p_lock boolean, p_accounts int8[], p_ids uuid[], p_holds uuid[],
    out last_seq int8, out epoch int8, out projected_seq int8, out last_hash bytea, out last_recorded_at bytea,
    out repeats boolean,
    out numbers bytea, out is_foreign bytea, out flags bytea, out status bytea, out versions bytea,
    out debits_pending bytea, out debits_posted bytea, out credits_pending bytea, out credits_posted bytea,
    out hold_ids uuid[], out hold_assets text[], out hold_debits int8[], out hold_credits int8[],
    out hold_amounts int8[], out hold_open boolean[], out hold_expires timestamptz[])
language plpgsql
-- A batch names its rows by key, however few rows the planner believes a young table to have.
set enable_seqscan = off set enable_hashjoin = off set plan_cache_mode = force_generic_plan as $$
begin
    if p_lock then
        perform ledger_lock(p_asset);
        perform ledger_project(p_asset);
    end if;
    select a.last_seq, a.epoch, a.projected_seq, a.last_hash, timestamptz_send(a.last_recorded_at)
      into last_seq, epoch, projected_seq, last_hash, last_recorded_at
      from asset a where a.code = p_asset;
    if last_seq is null then return; end if;

    -- A statement of its own: only now, under the lock, does its snapshot see all that was committed before.
    if p_accounts is not null then
        select array_send(array_agg(a.id)), array_send(array_agg((a.asset <> p_asset)::int::int8)),
               array_send(array_agg(a.flags::int8)),
               array_send(array_agg(case a.status when 'active' then 0::int8 when 'frozen' then 1 else 2 end)),
               array_send(array_agg(a.version)),
               array_send(array_agg(a.debits_pending)), array_send(array_agg(a.debits_posted)),
               array_send(array_agg(a.credits_pending)), array_send(array_agg(a.credits_posted))
          into numbers, is_foreign, flags, status, versions,
               debits_pending, debits_posted, credits_pending, credits_posted
          from (select * from account where id = any (p_accounts) order by id) a;
    end if;

    if p_ids is not null then
        select exists (select from transfer_key t where t.id = any (p_ids)) into repeats;
    end if;

    if p_holds is not null then
        select array_agg(h.id), array_agg(h.asset), array_agg(h.debit), array_agg(h.credit), array_agg(h.amount),
               array_agg(true), array_agg(h.expires_at)
          into hold_ids, hold_assets, hold_debits, hold_credits, hold_amounts, hold_open, hold_expires
          from hold h where h.id = any (p_holds);
        -- The rest were resolved before, or never were holds: only the journal knows.
        if coalesce(cardinality(hold_ids), 0) < cardinality(p_holds) then
            select array_agg(t.id), array_agg(t.asset), array_agg(t.debit), array_agg(t.credit), array_agg(t.amount),
                   array_agg(h.id is not null), array_agg(t.expires_at)
              into hold_ids, hold_assets, hold_debits, hold_credits, hold_amounts, hold_open, hold_expires
              from transfer_key k join transfer t on t.asset = k.asset and t.seq = k.seq
                   left join hold h on h.id = t.id
             where k.id = any (p_holds) and t.kind = 1 and t.result = 0;
        end if;
    end if;
end $$;

-- The books of an asset move on by so many transfers: what was read must still be so. The account rows that are named
-- are as of now; all others must be at least as of p_projected_to (null: as before). Under the lock what was read always
-- is so; a poster that trusts its memory learns it here.
create function ledger_advance(
    p_asset text, p_last_seq int8, p_epoch int8, p_projected_seq int8, p_count int8,
    p_last_hash bytea, p_recorded_at timestamptz, p_projected_to int8,
    p_accounts int8[], p_versions int8[],
    p_debits_pending int8[], p_debits_posted int8[], p_credits_pending int8[], p_credits_posted int8[])
returns void language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
set plan_cache_mode = force_generic_plan as $$
declare
    last int8 := p_last_seq + p_count;
    room int8;
    n bigint;
begin
    update asset
       set last_seq = last, last_hash = p_last_hash, last_recorded_at = p_recorded_at,
           projected_seq = coalesce(p_projected_to, projected_seq)
     where code = p_asset and last_seq = p_last_seq and epoch = p_epoch and projected_seq = p_projected_seq
    returning partitioned_seq into room;
    if not found then
        raise exception 'the books of % have moved on', p_asset using errcode = 'serialization_failure';
    end if;
    while room < last loop
        perform ledger_partition_add(p_asset);
        select partitioned_seq into room from asset where code = p_asset;
    end loop;
    if p_accounts is null then return; end if;
    update account a
       set version = u.version, debits_pending = u.debits_pending, debits_posted = u.debits_posted,
           credits_pending = u.credits_pending, credits_posted = u.credits_posted
      from unnest(p_accounts, p_versions, p_debits_pending, p_debits_posted, p_credits_pending, p_credits_posted)
           u (id, version, debits_pending, debits_posted, credits_pending, credits_posted)
     where a.id = u.id;
    get diagnostics n = row_count;
    if n <> cardinality(p_accounts) then
        raise exception 'an account of this batch is gone' using errcode = 'serialization_failure';
    end if;
end $$;

-- Write a judged batch of any kind. Zero uuid: none. Infinity: none. A null array: none in the whole batch (for kinds
-- and results: all zero). Many direct transfers without more come by COPY instead, behind ledger_advance.
create function ledger_apply(
    p_asset text, p_last_seq int8, p_epoch int8, p_projected_seq int8, p_last_hash bytea, p_recorded_at timestamptz,
    p_projected_to int8, p_accounts int8[], p_versions int8[],
    p_debits_pending int8[], p_debits_posted int8[], p_credits_pending int8[], p_credits_posted int8[],
    p_ids uuid[], p_debits int8[], p_credits int8[], p_amounts int8[],
    p_kinds int2[], p_codes int2[], p_results int2[],
    p_debit_versions int8[], p_credit_versions int8[], p_debit_balances int8[], p_credit_balances int8[],
    p_seals int8[],
    p_pending_ids uuid[], p_corrects uuid[], p_effective_at timestamptz[], p_expires_at timestamptz[],
    p_references text[])
returns void language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
set plan_cache_mode = force_generic_plan as $$
declare
    none constant uuid := '00000000-0000-0000-0000-000000000000';
    n bigint;
begin
    perform ledger_advance(p_asset, p_last_seq, p_epoch, p_projected_seq, cardinality(p_ids), p_last_hash,
                           p_recorded_at, p_projected_to, p_accounts, p_versions, p_debits_pending, p_debits_posted,
                           p_credits_pending, p_credits_posted);

    insert into transfer_key (id, asset, seq)
    select u.id, p_asset, p_last_seq + u.n from unnest(p_ids) with ordinality u (id, n);

    insert into transfer (asset, seq, id, debit, credit, amount, kind, code, result, pending_id, corrects,
                          debit_version, credit_version, debit_balance, credit_balance,
                          effective_at, recorded_at, expires_at, seal, reference)
    select p_asset, p_last_seq + u.n, u.id, u.debit, u.credit, u.amount, coalesce(u.kind, 0), u.code,
           coalesce(u.result, 0), nullif(u.pending_id, none), nullif(u.corrects, none),
           u.debit_version, u.credit_version, u.debit_balance, u.credit_balance,
           coalesce(nullif(u.effective_at, 'infinity'), p_recorded_at), p_recorded_at,
           nullif(u.expires_at, 'infinity'), u.seal, u.reference
      from unnest(p_ids, p_debits, p_credits, p_amounts, p_kinds, p_codes, p_results, p_pending_ids, p_corrects,
                  p_debit_versions, p_credit_versions, p_debit_balances, p_credit_balances,
                  p_effective_at, p_expires_at, p_seals, p_references) with ordinality
           u (id, debit, credit, amount, kind, code, result, pending_id, corrects,
              debit_version, credit_version, debit_balance, credit_balance,
              effective_at, expires_at, seal, reference, n);

    -- What has a deadline or not is a hold if it is pending; the kinds are null where the batch has none.
    if p_kinds is not null then
        insert into hold (id, asset, debit, credit, amount, expires_at, reference)
        select u.id, p_asset, u.debit, u.credit, u.amount, nullif(u.expires_at, 'infinity'), u.reference
          from unnest(p_ids, p_debits, p_credits, p_amounts, p_kinds, p_results, p_expires_at, p_references)
               u (id, debit, credit, amount, kind, result, expires_at, reference)
         where u.kind = 1 and coalesce(u.result, 0) = 0;
    end if;

    if p_pending_ids is not null then
        delete from hold h
         using unnest(p_pending_ids, p_results) u (id, result)
         where h.id = u.id and u.id <> none and coalesce(u.result, 0) = 0;
        get diagnostics n = row_count;
        if n <> (select count(*) from unnest(p_pending_ids, p_results) u (id, result)
                  where u.id <> none and coalesce(u.result, 0) = 0) then
            raise exception 'a hold of this batch is gone' using errcode = 'serialization_failure';
        end if;
    end if;
end $$;
