-- What the books said at any time. Of a journal whose beginning is archived only what is behind it is known.

-- :stay
-- Until the unit ends no partition is archived: what is asked from now on is asked of one journal.
lock table transfer in access share mode

-- :moment
-- Where an asset stands, and stood at a time: the last row that was recorded by then. Rows up to last_seq never change.
select a.last_seq, a.archived_seq, ledger_seq_at(a.code, %(at)s) as seq,
       coalesce(%(at)s < (select max(last_recorded_at) from archive
                           where asset = a.code and last_seq = a.archived_seq), false) as archived
  from asset a where a.code = %(asset)s

-- :present
select last_seq, archived_seq, archived_seq as seq, false as archived from asset where code = %(asset)s

-- :archived_seq
select archived_seq from asset where code = %(asset)s

-- :archived_file
-- The file that has the row which was an asset's last at a time, or at all.
select r.file from archive r join asset a on a.code = r.asset
 where r.asset = %(asset)s and r.action = 'archived' and r.last_seq <= a.archived_seq
   and (%(at)s::timestamptz is null or r.last_recorded_at >= %(at)s)
   and (%(seq)s::int8 is null or r.last_seq >= %(seq)s)
 order by r.last_seq, r.at desc limit 1

-- :balance
-- The running balance of an account's last row up to a seq; where it has none here, what it had when the rows before were
-- archived. Null where it never had any.
select coalesce(
    (select balance from (
        (select seq, debit_balance as balance from transfer
          where asset = %(asset)s and debit = %(account)s and result = 0 and seq <= %(seq)s
          order by seq desc limit 1)
        union all
        (select seq, credit_balance from transfer
          where asset = %(asset)s and credit = %(account)s and result = 0 and seq <= %(seq)s
          order by seq desc limit 1)) side
      order by seq desc limit 1),
    (select credits_posted - debits_posted from archive_account
      where asset = %(asset)s and seq = %(archived_seq)s and account = %(account)s))

-- :dated
-- What counts up to a time (there up to the row `after`) and was recorded behind a row, less what was recorded up to that
-- row and counts only later.
select coalesce(sum(case when seq > %(seq)s then change else -change end), 0)::int8 as change,
       coalesce(bool_or(seq > %(seq)s), false) as found
  from transfer_entry
 where asset = %(asset)s and account = %(account)s and effective_at <> recorded_at and seq <= %(last_seq)s
   and (seq > %(seq)s and effective_at <= %(at)s and (effective_at < %(at)s or seq <= %(after)s)
        or seq <= %(seq)s and effective_at >= %(at)s and (effective_at > %(at)s or seq > %(after)s))

-- :kept
-- What counts of the archived rows that were kept: a statement from the beginning shows them as its own lines.
select coalesce(sum(change), 0)::int8 from transfer_entry
 where asset = %(asset)s and account = %(account)s and seq <= %(archived_seq)s

-- :line
-- The movement that a page of a statement ended with.
select effective_at, recorded_at from transfer_entry
 where asset = %(asset)s and account = %(account)s and seq = %(seq)s

-- :lines_by_effective
-- A page of movements behind (at, seq) in the order in which they count. Most count when they are recorded, and come in the
-- order of the journal, between two of its rows; the others are looked for by themselves.
select line.*, a.name as counterparty
  from ((select seq, id, code, reference, other, change, effective_at as at from transfer_entry
          where asset = %(asset)s and account = %(account)s and effective_at = recorded_at
            and seq > %(low)s and seq <= %(high)s and (recorded_at, seq) > (%(at)s, %(after)s)
          order by seq limit %(limit)s)
        union all
        (select seq, id, code, reference, other, change, effective_at from transfer_entry
          where asset = %(asset)s and account = %(account)s and effective_at <> recorded_at and seq <= %(last_seq)s
            and effective_at >= %(at)s and (effective_at, seq) > (%(at)s, %(after)s) and effective_at < %(until)s
          order by effective_at, seq limit %(limit)s)) line
  left join account a on a.id = line.other
 order by line.at, line.seq limit %(limit)s

-- :lines_by_recorded
select line.*, a.name as counterparty
  from (select seq, id, code, reference, other, change, recorded_at as at from transfer_entry
         where asset = %(asset)s and account = %(account)s and seq > %(low)s and seq <= %(high)s
         order by seq limit %(limit)s) line
  left join account a on a.id = line.other
 order by line.seq

-- :trial_balance
-- System accounts by name, all others by type.
select asset, type, case when type = 'system' then name end as name, case when type = 'system' then min(id) end as id,
       count(*) as accounts, sum(debits_posted)::text as debits, sum(credits_posted)::text as credits
  from account_now
 group by 1, 2, 3
 order by 1, 2, 3

-- :trial_balance_from_now
-- The same behind a row of one asset: what was recorded later is taken off what stands there now.
with later as (
    select account, sum(debits) as debits, sum(credits) as credits
      from (select debit as account, sum(amount) as debits, 0 as credits from transfer
             where asset = %(asset)s and seq > %(seq)s and result = 0 and kind in (0, 2) group by debit
            union all
            select credit, 0, sum(amount) from transfer
             where asset = %(asset)s and seq > %(seq)s and result = 0 and kind in (0, 2) group by credit) side
     group by account),
dated as (
    select account, sum(-least(change, 0) * sign) as debits, sum(greatest(change, 0) * sign) as credits
      from (select account, change, case when seq > %(seq)s then 1 else -1 end as sign from transfer_entry
             where asset = %(asset)s and effective_at <> recorded_at and %(dated)s
               and (seq > %(seq)s) = (effective_at <= %(at)s)) entry
     group by account)
select a.asset, a.type, case when a.type = 'system' then a.name end as name,
       case when a.type = 'system' then min(a.id) end as id, count(*) as accounts,
       sum(a.debits_posted - coalesce(l.debits, 0) + coalesce(d.debits, 0))::text as debits,
       sum(a.credits_posted - coalesce(l.credits, 0) + coalesce(d.credits, 0))::text as credits
  from account_now a left join later l on l.account = a.id left join dated d on d.account = a.id
 where a.asset = %(asset)s
   and (a.opened_at <= %(at)s or d.account is not null
        or a.debits_posted > coalesce(l.debits, 0) or a.credits_posted > coalesce(l.credits, 0))
 group by 1, 2, 3
 order by 1, 2, 3

-- :trial_balance_from_then
-- The same from the other end, which is nearer: what was archived and what was recorded up to there.
with earlier as (
    select account, sum(debits) as debits, sum(credits) as credits
      from (select account, debits_posted as debits, credits_posted as credits from archive_account
             where asset = %(asset)s and seq = %(archived_seq)s
            union all
            select debit, sum(amount), 0 from transfer
             where asset = %(asset)s and seq > %(archived_seq)s and seq <= %(seq)s and result = 0 and kind in (0, 2) group by debit
            union all
            select credit, 0, sum(amount) from transfer
             where asset = %(asset)s and seq > %(archived_seq)s and seq <= %(seq)s and result = 0 and kind in (0, 2) group by credit) side
     group by account),
dated as (
    select account, sum(-least(change, 0) * sign) as debits, sum(greatest(change, 0) * sign) as credits
      from (select account, change, case when seq > %(seq)s then 1 else -1 end as sign from transfer_entry
             where asset = %(asset)s and effective_at <> recorded_at and %(dated)s
               and (seq > %(seq)s) = (effective_at <= %(at)s)) entry
     group by account)
select a.asset, a.type, case when a.type = 'system' then a.name end as name,
       case when a.type = 'system' then min(a.id) end as id, count(*) as accounts,
       sum(coalesce(l.debits, 0) + coalesce(d.debits, 0))::text as debits,
       sum(coalesce(l.credits, 0) + coalesce(d.credits, 0))::text as credits
  from account a left join earlier l on l.account = a.id left join dated d on d.account = a.id
 where a.asset = %(asset)s and (a.opened_at <= %(at)s or l.account is not null or d.account is not null)
 group by 1, 2, 3
 order by 1, 2, 3

-- :open_since
-- When a clearing account last left zero, behind a row: its first movement after the last row that left it at zero. Where
-- that is archived, it was looked for then.
with zero as (
    select greatest(
        (select seq from transfer where asset = %(asset)s and debit = %(account)s and result = 0 and debit_balance = 0
            and seq <= %(seq)s order by seq desc limit 1),
        (select seq from transfer where asset = %(asset)s and credit = %(account)s and result = 0 and credit_balance = 0
            and seq <= %(seq)s order by seq desc limit 1)) as seq),
first_movement as (
    (select recorded_at as at from transfer
      where asset = %(asset)s and debit = %(account)s and result = 0 and kind in (0, 2)
        and seq > coalesce((select seq from zero), 0) and seq <= %(seq)s
      order by seq limit 1)
    union all
    (select recorded_at from transfer
      where asset = %(asset)s and credit = %(account)s and result = 0 and kind in (0, 2)
        and seq > coalesce((select seq from zero), 0) and seq <= %(seq)s
      order by seq limit 1))
select coalesce(
    (select open_since from archive_account
      where asset = %(asset)s and seq = %(archived_seq)s and account = %(account)s and (select seq from zero) is null),
    (select min(at) from first_movement))
