-- ledger_apply takes columns, and for one transfer the arrays cost more than the rows. Who waits for a single direct
-- transfer that was accepted has it written by this: both of its account rows are as of now, and its sides as they are
-- behind it.
create function ledger_apply_one(
    p_asset text, p_last_seq int8, p_epoch int8, p_projected_seq int8, p_last_hash bytea, p_recorded_at timestamptz,
    p_projected_to int8,
    p_id uuid, p_amount int8, p_code int2, p_corrects uuid, p_effective_at timestamptz, p_seal int8, p_reference text,
    p_debit int8, p_debit_version int8, p_debit_debits_pending int8, p_debit_debits_posted int8,
    p_debit_credits_pending int8, p_debit_credits_posted int8, p_debit_balance int8,
    p_credit int8, p_credit_version int8, p_credit_debits_pending int8, p_credit_debits_posted int8,
    p_credit_credits_pending int8, p_credit_credits_posted int8, p_credit_balance int8)
returns void language plpgsql
set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
declare
    n bigint;
begin
    perform ledger_advance(p_asset, p_last_seq, p_epoch, p_projected_seq, 1, p_last_hash, p_recorded_at,
                           p_projected_to, null, null, null, null, null, null);

    -- One statement for both: each begins by reading the table's constraints anew.
    update account
       set version = case id when p_debit then p_debit_version else p_credit_version end,
           debits_pending = case id when p_debit then p_debit_debits_pending else p_credit_debits_pending end,
           debits_posted = case id when p_debit then p_debit_debits_posted else p_credit_debits_posted end,
           credits_pending = case id when p_debit then p_debit_credits_pending else p_credit_credits_pending end,
           credits_posted = case id when p_debit then p_debit_credits_posted else p_credit_credits_posted end
     where id = any (array[p_debit, p_credit]);
    get diagnostics n = row_count;
    if n <> 2 then
        raise exception 'an account of this transfer is gone' using errcode = 'serialization_failure';
    end if;

    insert into transfer_key (id, asset, seq) values (p_id, p_asset, p_last_seq + 1);
    insert into transfer (asset, seq, id, debit, credit, amount, kind, code, result, corrects,
                          debit_version, credit_version, debit_balance, credit_balance,
                          effective_at, recorded_at, seal, reference)
    values (p_asset, p_last_seq + 1, p_id, p_debit, p_credit, p_amount, 0, p_code, 0, p_corrects,
            p_debit_version, p_credit_version, p_debit_balance, p_credit_balance,
            coalesce(p_effective_at, p_recorded_at), p_recorded_at, p_seal, p_reference);
end $$;
