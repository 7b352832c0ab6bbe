-- While somebody posts in bulk, account rows lag behind the journal by up to a million transfers, and whoever looks at one
-- account must not add up what happened to all others.

drop view account_now;
drop function ledger_tail(text);

-- What the journal holds beyond the account rows, by account: of one asset or of all, of all accounts or of some (of
-- those on the other side of their transfers, too, but not all of it). One statement is one snapshot: rows and what they
-- lack fit together only within it.
create function ledger_tail(p_asset text default null, p_accounts int8[] default null)
returns table (account int8, version int8, debits_pending int8, debits_posted int8,
               credits_pending int8, credits_posted int8)
language plpgsql stable parallel restricted rows 10
set work_mem = '64MB' as $$
declare
    s record;
begin
    for s in select code, projected_seq, last_seq from asset
              where projected_seq < last_seq and (p_asset is null or code = p_asset)
                and (p_accounts is null
                     or exists (select from account a where a.id = any (p_accounts) and a.asset = code))
    loop
        return query
        select e.account, count(*)::int8, sum(e.debit_pending)::int8, sum(e.debit)::int8,
               sum(e.credit_pending)::int8, sum(e.credit)::int8
          from transfer t
         cross join lateral (
               select case when t.kind in (0, 2) then t.amount else 0 end as posted,
                      case t.kind when 1 then t.amount when 3 then -t.amount
                           when 2 then -(select p.amount from transfer_key k join transfer_known p
                                             on p.asset = k.asset and p.seq = k.seq where k.id = t.pending_id)
                           else 0 end as pending) m
         cross join lateral (
               values (t.debit, t.debit_version, m.pending, m.posted, 0::int8, 0::int8),
                      (t.credit, t.credit_version, 0, 0, m.pending, m.posted))
               e (account, version, debit_pending, debit, credit_pending, credit)
          join account a on a.id = e.account and a.version < e.version
         where t.asset = s.code and t.seq > s.projected_seq and t.seq <= s.last_seq and t.result = 0
           and (p_accounts is null or t.debit = any (p_accounts) or t.credit = any (p_accounts))
         group by e.account;
    end loop;
end $$;

-- Accounts as they are, whether their rows lag or not: all of them, and some.
create view account_now as
select a.id, a.name, a.asset, a.type, a.status, a.flags,
       a.version + coalesce(t.version, 0) as version,
       a.debits_pending + coalesce(t.debits_pending, 0) as debits_pending,
       a.debits_posted + coalesce(t.debits_posted, 0) as debits_posted,
       a.credits_pending + coalesce(t.credits_pending, 0) as credits_pending,
       a.credits_posted + coalesce(t.credits_posted, 0) as credits_posted,
       a.metadata, a.opened_at
  from account a left join ledger_tail() t on t.account = a.id;

create function account_state(p_accounts int8[]) returns setof account_now
language sql stable parallel restricted rows 50 as $$
select a.id, a.name, a.asset, a.type, a.status, a.flags,
       a.version + coalesce(t.version, 0),
       a.debits_pending + coalesce(t.debits_pending, 0), a.debits_posted + coalesce(t.debits_posted, 0),
       a.credits_pending + coalesce(t.credits_pending, 0), a.credits_posted + coalesce(t.credits_posted, 0),
       a.metadata, a.opened_at
  from account a left join ledger_tail(null, p_accounts) t on t.account = a.id
 where a.id = any (p_accounts)
$$;
