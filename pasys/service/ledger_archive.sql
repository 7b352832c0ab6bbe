-- The archive: partitions of the journal that lie in files, and what of them is still asked for.

-- :archiver
-- One archiver of an asset at a time.
select pg_try_advisory_xact_lock(7082504, hashtext(%(asset)s))

-- :head
select archived_seq from asset where code = %(asset)s

-- :open_holds
-- How many holds of a range are open, and the oldest of them.
select count(*) as holds, (array_agg(h.id order by k.seq))[1] as hold_id,
       (array_agg(h.reference order by k.seq))[1] as reference
  from hold h join transfer_key k on k.id = h.id
 where h.asset = %(asset)s and k.asset = h.asset and k.seq between %(first_seq)s and %(last_seq)s

-- :recorded_at
select recorded_at from transfer where asset = %(asset)s and seq = %(seq)s

-- :numbers
select array_send(array_agg(id)) as numbers
  from (select id from account where asset = %(asset)s order by id) ordered

-- :names
select id, name from account where asset = %(asset)s and id = any (%(numbers)s)

-- :system
select id, name from account where asset = %(asset)s and type = 'system' order by id

-- :start
-- What the journal that is still here begins with.
select r.last_seq, r.hash_after as hash, timestamptz_send(r.last_recorded_at) as recorded_at, a.*, h.*
  from asset s
  join lateral (select * from archive where asset = s.code and last_seq = s.archived_seq and action = 'archived'
                 order by at desc limit 1) r on true,
       lateral (select array_send(array_agg(account)) as numbers, array_send(array_agg(version)) as version,
                       array_send(array_agg(debits_pending)) as debits_pending,
                       array_send(array_agg(debits_posted)) as debits_posted,
                       array_send(array_agg(credits_pending)) as credits_pending,
                       array_send(array_agg(credits_posted)) as credits_posted
                  from (select * from archive_account
                         where asset = s.code and seq = s.archived_seq order by account) ordered) a,
       lateral (select array_send(array_agg(id)) as hold_ids, array_send(array_agg(debit)) as hold_debits,
                       array_send(array_agg(credit)) as hold_credits, array_send(array_agg(amount)) as hold_amounts,
                       array_send(array_agg(coalesce(expires_at, 'infinity'))) as hold_expires
                  from archive_transfer where asset = s.code and id = any (r.holds)) h
 where s.code = %(asset)s

-- :add
insert into archive (asset, first_seq, last_seq, action, hash_before, hash_after, last_recorded_at, holds, file, sha256,
                     at, actor)
values (%(asset)s, %(first_seq)s, %(last_seq)s, %(action)s, %(hash_before)s, %(hash_after)s, %(last_recorded_at)s,
        %(holds)s::uuid[], %(file)s, %(sha256)s, %(at)s, %(actor)s)

-- :keep_accounts
insert into archive_account (asset, seq, account, version, debits_pending, debits_posted, credits_pending, credits_posted)
select %s, %s, u.* from unnest(%s, %s, %s, %s, %s, %s) u
    on conflict do nothing

-- :keep_account
-- A clearing account, with when it left zero.
insert into archive_account (asset, seq, account, version, debits_pending, debits_posted, credits_pending, credits_posted,
                             open_since)
values (%(asset)s, %(seq)s, %(account)s, %(version)s, %(debits_pending)s, %(debits_posted)s, %(credits_pending)s,
        %(credits_posted)s, %(open_since)s)
    on conflict do nothing

-- :keep_transfers
insert into archive_transfer
select * from transfer
 where asset = %(asset)s and seq between %(first_seq)s and %(last_seq)s and result = 0
   and (kind = 1 and id = any (%(holds)s::uuid[]) or kind in (0, 2) and effective_at > %(last_recorded_at)s)
    on conflict do nothing

-- :keep_answers
insert into archive_answer (asset, first_seq, answers) values (%(asset)s, %(first_seq)s, %(answers)s)
    on conflict do nothing

-- :busy
-- Somebody has had the journal open for longer than anybody should have to wait behind us.
select exists (select from pg_locks l join pg_stat_activity a on a.pid = l.pid
                where l.locktype = 'relation' and l.relation = 'transfer'::regclass and l.granted
                  and l.database = (select oid from pg_database where datname = current_database())
                  and l.pid <> pg_backend_pid() and a.xact_start < clock_timestamp() - interval '500 milliseconds')

-- :drop
select ledger_partition_drop(%(asset)s, %(first_seq)s, %(last_seq)s)

-- :listing
select asset, first_seq, last_seq, action, file, sha256, last_recorded_at, at, actor from archive
 where %(asset)s::text is null or asset = %(asset)s
 order by at desc, asset, last_seq desc limit %(limit)s

-- :latest
select asset, first_seq, last_seq, action, file, sha256, last_recorded_at, at, actor from archive
 where asset = %(asset)s and last_seq = %(last_seq)s
 order by at desc limit 1

-- :last
-- What was archived last of what is not here.
select r.* from archive r join asset s on s.code = r.asset and s.archived_seq = r.last_seq
 where r.asset = %(asset)s and r.action = 'archived'
 order by r.at desc limit 1

-- :gone
-- What is archived now, in the order of the journal.
select distinct on (r.last_seq) r.asset, r.first_seq, r.last_seq, r.hash_after, r.file
  from archive r join asset s on s.code = r.asset and r.last_seq <= s.archived_seq
 where r.asset = %(asset)s and r.action = 'archived'
 order by r.last_seq, r.at desc

-- :answers
select answers from archive_answer
 where asset = %(asset)s and first_seq between %(first_seq)s and %(last_seq)s order by first_seq

-- :strangers
-- Rows of a file whose id does not stand for them.
select u.seq from unnest(%s, %s) u (id, seq)
  left join transfer_key k on k.id = u.id and k.asset = %s and k.seq = u.seq
 where k.id is null
 order by u.seq limit 100

-- :restorer
select pg_try_advisory_xact_lock(7082505)

-- :stage
select ledger_partition_stage(%(asset)s, %(first_seq)s, %(last_seq)s)

-- :fill
insert into transfer_restored (asset, seq, id, debit, credit, amount, kind, code, result, pending_id, corrects,
                               debit_version, credit_version, debit_balance, credit_balance,
                               effective_at, recorded_at, expires_at, seal, reference)
select %s, u.seq, u.id, u.debit, u.credit, u.amount, u.kind, u.code, u.result,
       nullif(u.pending_id, '00000000-0000-0000-0000-000000000000'),
       nullif(u.corrects, '00000000-0000-0000-0000-000000000000'),
       u.debit_version, u.credit_version, u.debit_balance, u.credit_balance,
       u.effective_at, u.recorded_at, nullif(u.expires_at, 'infinity'), u.seal, u.reference
  from unnest(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
       u (seq, id, debit, credit, amount, kind, code, result, pending_id, corrects,
          debit_version, credit_version, debit_balance, credit_balance,
          effective_at, recorded_at, expires_at, seal, reference)

-- :attach
select ledger_partition_attach(%(asset)s, %(first_seq)s, %(last_seq)s)
