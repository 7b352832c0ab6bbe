-- A batch costs two calls: ledger_load locks the asset and reads, ledger_apply writes. What happens between them is
-- pasys/domain/ledger_rules.py. Columns come and go as binary arrays (array_send), which numpy reads as they are.
--
-- Lock order: asset rows by code, before any account row. Whoever changes an account's status or limits takes the same
-- lock and moves asset.epoch.

create function ledger_load(
    p_asset text, p_lock boolean, p_accounts int8[], p_ids uuid[], p_holds uuid[],
    out last_seq int8, out epoch int8, out repeats boolean,
    out numbers bytea, out is_foreign bytea, out flags bytea, out status bytea, out versions bytea,
    out debits_pending bytea, out debits_posted bytea, out credits_pending bytea, out credits_posted bytea,
    out hold_ids uuid[], out hold_assets text[], out hold_debits int8[], out hold_credits int8[],
    out hold_amounts int8[], out hold_open boolean[], out hold_expires timestamptz[])
language plpgsql
-- A batch names its rows by key, however few rows the planner believes a young table to have.
set enable_seqscan = off set enable_hashjoin = off set plan_cache_mode = force_generic_plan as $$
begin
    if p_lock then
        -- Not FOR UPDATE: opening an account takes a key share of this row and need not wait.
        select a.last_seq, a.epoch into last_seq, epoch from asset a where a.code = p_asset for no key update;
    else
        select a.last_seq, a.epoch into last_seq, epoch from asset a where a.code = p_asset;
    end if;
    if last_seq is null then return; end if;

    -- A statement of its own: only now, under the lock, does its snapshot see all that was committed before.
    select array_send(array_agg(a.id)), array_send(array_agg((a.asset <> p_asset)::int::int8)),
           array_send(array_agg(a.flags::int8)),
           array_send(array_agg(case a.status when 'active' then 0::int8 when 'frozen' then 1 else 2 end)),
           array_send(array_agg(a.version)),
           array_send(array_agg(a.debits_pending)), array_send(array_agg(a.debits_posted)),
           array_send(array_agg(a.credits_pending)), array_send(array_agg(a.credits_posted))
      into numbers, is_foreign, flags, status, versions, debits_pending, debits_posted, credits_pending, credits_posted
      from (select * from account where id = any (p_accounts) order by id) a;

    select exists (select from transfer t where t.id = any (p_ids)) into repeats;

    if p_holds is not null then
        select array_agg(t.id), array_agg(t.asset), array_agg(t.debit), array_agg(t.credit), array_agg(t.amount),
               array_agg(h.id is not null), array_agg(h.expires_at)
          into hold_ids, hold_assets, hold_debits, hold_credits, hold_amounts, hold_open, hold_expires
          from transfer t left join hold h on h.id = t.id
         where t.id = any (p_holds) and t.kind = 1 and t.result = 0;
    end if;
end $$;

-- Zero uuid: none. Infinity: none. A null array: none in the whole batch.
create function ledger_apply(
    p_asset text, p_last_seq int8, p_epoch int8, p_recorded_at timestamptz,
    p_ids uuid[], p_debits int8[], p_credits int8[], p_amounts int8[],
    p_kinds int2[], p_codes int2[], p_results int2[],
    p_debit_versions int8[], p_credit_versions int8[], p_debit_balances int8[], p_credit_balances int8[],
    p_pending_ids uuid[], p_corrects uuid[], p_effective_at timestamptz[], p_expires_at timestamptz[],
    p_references text[],
    p_accounts int8[], p_versions int8[],
    p_debits_pending int8[], p_debits_posted int8[], p_credits_pending int8[], p_credits_posted int8[])
returns void language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
set plan_cache_mode = force_generic_plan as $$
declare
    none constant uuid := '00000000-0000-0000-0000-000000000000';
    n bigint;
begin
    -- What was read must still be so: under the lock it always is; a poster that trusts its memory learns it here.
    update asset set last_seq = last_seq + cardinality(p_ids)
     where code = p_asset and last_seq = p_last_seq and epoch = p_epoch;
    if not found then
        raise exception 'the books of % have moved on', p_asset using errcode = 'serialization_failure';
    end if;

    insert into transfer (asset, seq, id, debit, credit, amount, kind, code, result, pending_id, corrects,
                          debit_version, credit_version, debit_balance, credit_balance,
                          effective_at, recorded_at, reference)
    select p_asset, p_last_seq + u.n, u.id, u.debit, u.credit, u.amount, u.kind, u.code, u.result,
           nullif(u.pending_id, none), nullif(u.corrects, none),
           u.debit_version, u.credit_version, u.debit_balance, u.credit_balance,
           coalesce(nullif(u.effective_at, 'infinity'), p_recorded_at), p_recorded_at, u.reference
      from unnest(p_ids, p_debits, p_credits, p_amounts, p_kinds, p_codes, p_results, p_pending_ids, p_corrects,
                  p_debit_versions, p_credit_versions, p_debit_balances, p_credit_balances,
                  p_effective_at, p_references) with ordinality
           u (id, debit, credit, amount, kind, code, result, pending_id, corrects,
              debit_version, credit_version, debit_balance, credit_balance, effective_at, reference, n);

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

    if p_expires_at is not null then
        insert into hold (id, asset, debit, credit, amount, expires_at, reference)
        select u.id, p_asset, u.debit, u.credit, u.amount, nullif(u.expires_at, 'infinity'), u.reference
          from unnest(p_ids, p_debits, p_credits, p_amounts, p_kinds, p_results, p_expires_at, p_references)
               u (id, debit, credit, amount, kind, result, expires_at, reference)
         where u.kind = 1 and u.result = 0;
    end if;

    if p_pending_ids is not null then
        delete from hold h
         using unnest(p_pending_ids, p_results) u (id, result)
         where h.id = u.id and u.id <> none and u.result = 0;
        get diagnostics n = row_count;
        if n <> (select count(*) from unnest(p_pending_ids, p_results) u (id, result)
                  where u.id <> none and u.result = 0) then
            raise exception 'a hold of this batch is gone' using errcode = 'serialization_failure';
        end if;
    end if;
end $$;
