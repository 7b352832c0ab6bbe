-- Transactions: every move names the status that it moves from, so an illegal move changes no row.
-- Rows are locked in the order of their ids, before refunds, attempts and the ledger's asset rows.

-- :accounts   the accounts behind names or numbers, in one asset
select a.id, a.name, a.asset, a.type, a.status, a.metadata ->> 'payment_method' as payment_method
  from unnest(%(names)s::text[], %(assets)s::text[]) as wanted (name, asset)
  join account a on a.name = wanted.name and a.asset = wanted.asset
union
select a.id, a.name, a.asset, a.type, a.status, a.metadata ->> 'payment_method'
  from account a where a.id = any (%(numbers)s::bigint[]);

-- :take_keys   how many of the idempotency keys are ours now; a key that somebody is taking is waited for, in an order
-- that is the same in every database, and for those who take theirs by COPY
with ours as (
    insert into idempotency (actor, operation, key, body_hash, entity_id, at)
    select %(actor)s, %(operation)s, key, body_hash, entity_id, %(now)s
      from unnest(%(keys)s::text[], %(hashes)s::bytea[], %(entities)s::text[]) as t (key, body_hash, entity_id)
     order by key collate "C"
        on conflict do nothing
    returning 1)
select count(*) from ours;

-- :keys_taken   what the keys stand for that are not ours
select key, body_hash, entity_id from idempotency
 where actor = %(actor)s and operation = %(operation)s and key = any (%(keys)s::text[])
   and entity_id <> all (%(entities)s::text[]);

-- :give_back_keys   a refused creation takes no key; a key that stands for anything else is left alone
delete from idempotency
 where actor = %(actor)s and operation = %(operation)s and key = any (%(keys)s::text[])
   and entity_id = any (%(entities)s::text[]);

-- :insert   new transactions, and the two moves that brought them here
with new as (
    insert into transaction (id, kind, rail, status, asset, amount_minor, debit_account, credit_account,
                             payment_method, parent_id, batch_id, actor, metadata, hold_id, transfer_ids,
                             effective_at, created_at, final_at)
    select t.id, t.kind, t.rail, t.status, t.asset, t.amount_minor, t.debit_account, t.credit_account,
           t.payment_method, t.parent_id, t.batch_id, %(actor)s, t.metadata::jsonb,
           case when t.status = 'pending' then t.transfer_id end, array[t.transfer_id],
           t.effective_at, %(now)s, case when t.status = 'succeeded' then %(now)s end
      from unnest(%(ids)s::text[], %(kinds)s::text[], %(rails)s::text[], %(statuses)s::text[], %(assets)s::text[],
                  %(amounts)s::bigint[], %(debits)s::bigint[], %(credits)s::bigint[], %(methods)s::text[],
                  %(parents)s::text[], %(batches)s::text[], %(metadata)s::text[], %(transfers)s::uuid[],
                  %(effective)s::timestamptz[])
        as t (id, kind, rail, status, asset, amount_minor, debit_account, credit_account, payment_method, parent_id,
              batch_id, metadata, transfer_id, effective_at)
    returning id, status)
insert into transaction_history (transaction_id, from_status, to_status, at, actor)
select id, step.was, coalesce(step.becomes, status), %(now)s, %(actor)s
  from new, (values (null, 'initialized'), ('initialized', null)) as step (was, becomes);

-- :never_was   rows of this unit whose postings were refused
with gone as (delete from transaction where id = any (%(ids)s::text[])),
unsaid as (delete from event where correlation_id = any (%(ids)s::text[]) returning id)
delete from outbox o using unsaid where o.event_id = unsaid.id;

-- :select   transactions by id, with the names of their accounts
select t.*, d.name as debit_name, c.name as credit_name
  from transaction t
  join account d on d.id = t.debit_account
  join account c on c.id = t.credit_account
 where t.id = any (%(ids)s::text[]);

-- :lock   transactions, locked until the unit ends
select id from transaction where id = any (%(ids)s::text[]) order by id for update;

-- :locked   what the lock has found, with the open holds; a statement of its own, because one that waited for a lock
-- sees the row as it is now and the hold as it was before
select t.id, t.kind, t.rail, t.status, t.outcome, t.review, t.reason, t.asset, t.amount_minor, t.debit_account,
       t.credit_account, t.hold_id, t.captured_minor, t.fee_minor, t.refunding_minor, t.refunded_minor, t.credited,
       t.settling_at, t.created_at, t.psp_reference, t.transfer_ids, t.payment_method,
       t.parent_id, h.amount as hold_minor, h.debit as hold_debit, h.credit as hold_credit,
       h.expires_at as hold_expires_at
  from transaction t
  left join hold h on h.id = t.hold_id
 where t.id = any (%(ids)s::text[])
 order by t.id;

-- :move   from one status to the next, with what goes with it; only rows that are where they are said to be
with moved as (
    update transaction t
       set status = m.becomes,
           reason = coalesce(m.reason, t.reason),
           outcome = null,
           review = false,
           captured_minor = t.captured_minor + m.captured_minor,
           fee_minor = t.fee_minor + m.fee_minor,
           credited = t.credited or m.credited,
           psp_reference = coalesce(m.psp_reference, t.psp_reference),
           charge_reference = coalesce(m.charge_reference, t.charge_reference),
           transfer_ids = t.transfer_ids || string_to_array(nullif(m.transfer_ids, ''), ',')::uuid[],
           final_at = coalesce(t.final_at, %(now)s)
      from unnest(%(ids)s::text[], %(was)s::text[], %(becomes)s::text[], %(reasons)s::text[], %(captured)s::bigint[],
                  %(fees)s::bigint[], %(credited)s::boolean[], %(references)s::text[], %(charges)s::text[],
                  %(transfers)s::text[])
        as m (id, was, becomes, reason, captured_minor, fee_minor, credited, psp_reference, charge_reference,
              transfer_ids)
     where t.id = m.id and t.status = m.was
    returning t.id)
insert into transaction_history (transaction_id, from_status, to_status, at, reason, event_id, actor)
select m.id, m.was, m.becomes, %(now)s, m.reason, m.event_id, %(actor)s
  from unnest(%(ids)s::text[], %(was)s::text[], %(becomes)s::text[], %(reasons)s::text[], %(events)s::text[])
    as m (id, was, becomes, reason, event_id)
  join moved on moved.id = m.id
returning transaction_id;

-- :promise   so much of a payment is promised to a refund, or the promise is taken back
update transaction
   set refunding_minor = refunding_minor + %(promised_minor)s
 where id = %(id)s
   and refunding_minor + refunded_minor + %(promised_minor)s between 0 and captured_minor
returning refunding_minor, refunded_minor, captured_minor;

-- :give_back   what was promised has gone back
update transaction
   set refunding_minor = refunding_minor - %(amount_minor)s,
       refunded_minor = refunded_minor + %(amount_minor)s,
       transfer_ids = transfer_ids || %(transfers)s::uuid[]
 where id = %(id)s
returning refunding_minor, refunded_minor, captured_minor;

-- :history   how it came to be what it is, oldest first
select from_status, to_status, at, reason, event_id, actor
  from transaction_history where transaction_id = %(id)s
 order by at, case when from_status is null then 0 else 1 end;

-- :attempts   every call of a PSP for a transaction and its refunds
select entity_id, step, psp, asset, amount_minor, outcome, psp_reference, auth_code, processor_code, reason,
       latency_ms, asked, requested_at, finished_at
  from attempt where transaction_id = %(id)s
 order by requested_at, entity_id, step;

-- :reversals_of   the transactions that reversed these, if any
select parent_id, id from transaction where parent_id = any (%(ids)s::text[]);

-- :insert_reversals   the mirror images of book transactions; their accounts are the originals', exchanged
with new as (
    insert into transaction (id, kind, rail, status, asset, amount_minor, debit_account, credit_account, parent_id,
                             batch_id, actor, reason, transfer_ids, effective_at, created_at, final_at)
    select r.id, t.kind, t.rail, 'succeeded', t.asset, t.amount_minor, t.credit_account, t.debit_account, t.id,
           t.batch_id, %(actor)s, %(reason)s, array[r.transfer_id], %(now)s, %(now)s, %(now)s
      from unnest(%(ids)s::text[], %(parents)s::text[], %(transfers)s::uuid[]) as r (id, parent_id, transfer_id)
      join transaction t on t.id = r.parent_id
    returning id)
insert into transaction_history (transaction_id, from_status, to_status, at, reason, actor)
select id, step.was, step.becomes, %(now)s, %(reason)s, %(actor)s
  from new, (values (null, 'initialized'), ('initialized', 'succeeded')) as step (was, becomes);

-- :batch   the transactions of an import that are no reversals themselves: by asset, in the order that the books are
-- locked in, and the newest first, so that money comes back from where it went last
select t.id, exists (select from transaction r where r.parent_id = t.id) as reversed
  from transaction t where t.batch_id = %(batch_id)s and t.parent_id is null
 order by t.asset, t.id desc;

-- :under_way   how many are not final yet
select count(*) from transaction where status in ('initialized', 'pending');

-- :pace   how transactions get on
with settled as (
    select extract(epoch from final_at - created_at) * 1000 as took_ms
      from transaction where status = 'succeeded' and kind <> 'deposit')
select (select count(*) from transaction where status in ('initialized', 'pending')) as under_way,
       count(*) as succeeded,
       percentile_cont(0.5) within group (order by took_ms)::float8 as p50_ms,
       percentile_cont(0.99) within group (order by took_ms)::float8 as p99_ms
  from settled;
