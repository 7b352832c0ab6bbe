-- The journal's queries. The functions of the posting path are in migrations/versions/0003_ledger_engine.sql and
-- 0015_alone.sql.

-- :load
-- Lock the asset (where asked) and read what a batch touches: one call.
select * from ledger_load(%s, %s, %s, %s, %s)

-- :apply
-- Write a judged batch: journal, accounts, holds. One call.
select ledger_apply(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)

-- :apply_one
-- The same for one transfer in plain numbers.
select ledger_apply_one(%b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b)

-- :advance
-- The first half of the same for many rows; they come by COPY.
select ledger_advance(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)

-- :lock
-- In the order that posting keeps: the asset before any of its accounts.
select ledger_lock(%(code)s)

-- :project
select ledger_project(%(code)s)

-- :accounts_now
-- What a batch touches, behind the last transfer, for who judges it without a lock. One statement is one snapshot.
select id, (asset <> %(asset)s)::int, flags, case status when 'active' then 0 when 'frozen' then 1 else 2 end, version,
       debits_pending, debits_posted, credits_pending, credits_posted
  from account_state(%(numbers)s::int8[]) order by id

-- :earlier
-- What the journal has under these ids; of rows that are archived, what they have left behind.
select k.id, k.asset, k.seq, t.debit, t.credit, t.amount, t.kind, t.code, t.result, t.pending_id, t.corrects,
       t.effective_at, t.reference, case when t.id is null then ledger_archived_answer(k.asset, k.seq) end as answer
  from transfer_key k left join transfer t on t.asset = k.asset and t.seq = k.seq
 where k.id = any (%(ids)s)

-- :ensure_asset
insert into asset (code, kind, decimals, chain, contract, chain_decimals)
values (%(code)s, %(kind)s, %(decimals)s, %(chain)s, %(contract)s, %(chain_decimals)s)
on conflict (code) do nothing

-- :names
-- What an error calls an account.
select id, name, asset from account where id = any (%(numbers)s)

-- :transfers
-- One asset's journal in commit order. Refused transfers stand in it with the rule that refused them.
select t.*, d.name as debit_name, c.name as credit_name
  from (select * from transfer
         where asset = %(asset)s and seq > %(after_seq)s
         order by seq limit %(limit)s) t
  left join account d on d.id = t.debit left join account c on c.id = t.credit
 order by t.seq

-- :transfers_of_account
select t.*, d.name as debit_name, c.name as credit_name
  from ((select * from transfer where debit = %(account)s and asset = %(asset)s and seq > %(after_seq)s
          order by seq limit %(limit)s)
        union all
        (select * from transfer where credit = %(account)s and asset = %(asset)s and seq > %(after_seq)s
            and debit <> credit
          order by seq limit %(limit)s)) t
  left join account d on d.id = t.debit left join account c on c.id = t.credit
 order by t.seq limit %(limit)s

-- :transfers_by_id
select t.*, d.name as debit_name, c.name as credit_name
  from transfer_key k join transfer_known t on t.asset = k.asset and t.seq = k.seq
       left join account d on d.id = t.debit left join account c on c.id = t.credit
 where k.id = any (%(ids)s)
 order by t.asset, t.seq

-- :archived_by_id
-- Which of these ids stand for rows that are archived, and in which file each is.
select k.id, k.asset, k.seq, r.file
  from transfer_key k join asset a on a.code = k.asset and k.seq <= a.archived_seq
       join lateral (select file from archive
                      where asset = k.asset and first_seq <= k.seq and last_seq >= k.seq and action = 'archived'
                      order by at desc limit 1) r on true
 where k.id = any (%(ids)s)
   and not exists (select from archive_transfer t where t.asset = k.asset and t.seq = k.seq)
 order by k.asset, k.seq

-- :holds
select id, asset, debit, credit, amount, expires_at, reference from hold where id = any (%(ids)s)

-- :expired_holds
-- Still open, though past the deadline; the oldest first.
select id, asset, debit, credit, amount, expires_at, reference from hold
 where expires_at <= %(now)s
 order by expires_at, id limit %(limit)s

-- :accounts
select id, name, asset, type, debits_pending, debits_posted, credits_pending, credits_posted, opened_at
  from account_state(%(numbers)s)

-- :assets
select code from asset order by code

-- :audit_state
-- An asset's accounts, holds and end, in one statement and so in one snapshot; the journal up to there cannot change.
select s.last_seq, s.last_hash,
       coalesce((select max(seq) from transfer where asset = s.code), s.archived_seq) as max_seq,
       a.*, h.*
  from asset s,
       lateral (select array_send(array_agg(id)) as numbers, array_send(array_agg(flags::int8)) as flags,
                       array_send(array_agg(version)) as versions,
                       array_send(array_agg(debits_pending)) as debits_pending,
                       array_send(array_agg(debits_posted)) as debits_posted,
                       array_send(array_agg(credits_pending)) as credits_pending,
                       array_send(array_agg(credits_posted)) as credits_posted
                  from (select * from account_now where asset = s.code order by id) ordered) a,
       lateral (select array_send(array_agg(id)) as hold_ids, array_send(array_agg(debit)) as hold_debits,
                       array_send(array_agg(credit)) as hold_credits, array_send(array_agg(amount)) as hold_amounts,
                       array_send(array_agg(coalesce(expires_at, 'infinity'))) as hold_expires
                  from hold where asset = s.code) h
 where s.code = %(asset)s

-- :audit_piece
-- Rows in order, each as it is hashed but for its reference (pasys/domain/ledger_chain.py), one behind the other; their
-- seals, their references, and who says in so many words what is hashed as nothing. Columns by array_agg and array_send
-- would cost half as much again, rows ten times.
select string_agg(
           int8send(seq) || uuid_send(id) || int8send(debit) || int8send(credit) || int8send(amount)
           || int2send(kind) || int2send(code) || int2send(result)
           || int8send(debit_version) || int8send(credit_version)
           || int8send(debit_balance) || int8send(credit_balance)
           || timestamptz_send(effective_at) || timestamptz_send(recorded_at)
           || coalesce(timestamptz_send(expires_at), '\x7fffffffffffffff')
           || coalesce(uuid_send(pending_id), '\x00000000000000000000000000000000')
           || coalesce(uuid_send(corrects), '\x00000000000000000000000000000000')
           || coalesce(int4send(octet_length(reference)), '\xffffffff'), '') as rows,
       string_agg(int8send(seal), '') as seals,
       string_agg(convert_to(reference, 'UTF8'), '') as texts,
       array_send(array_agg(seq) filter (
           where expires_at = 'infinity' or '00000000-0000-0000-0000-000000000000' in (pending_id, corrects)
       )) as disguised
  from (select * from transfer
         where asset = %(asset)s and seq > %(after_seq)s and seq <= %(last_seq)s
         order by seq limit %(limit)s) piece

-- :audit_keys
-- Rows of a range whose id does not stand for them.
select t.seq from transfer t left join transfer_key k on k.id = t.id and k.asset = t.asset and k.seq = t.seq
 where t.asset = %(asset)s and t.seq > %(after_seq)s and t.seq <= %(last_seq)s and k.id is null
 order by t.seq limit 100

-- :audit_keys_wrong
-- How many these are. The planner, which expects many, would look them up one by one; to count them it reads both tables.
select count(*) from transfer t
  left join (select * from transfer_key where asset = %(asset)s and seq > %(after_seq)s and seq <= %(last_seq)s) k
    on k.id = t.id and k.seq = t.seq
 where t.asset = %(asset)s and t.seq > %(after_seq)s and t.seq <= %(last_seq)s and k.id is null

-- :audit_key_count
-- The ids up to a row, and those that stand for rows behind the last of the asset, whoever posts meanwhile.
select count(*) filter (where seq <= %(last_seq)s) as up_to,
       count(*) filter (where seq > (select last_seq from asset where code = %(asset)s)) as behind
  from transfer_key where asset = %(asset)s
