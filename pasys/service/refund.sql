-- Refunds. Lock order: the transaction, then its refund, then the attempt, then the ledger's asset row.

-- :insert   a refund as it is asked for, with the moves that brought it here
with new as (
    insert into refund (id, transaction_id, asset, amount_minor, status, automatic, reason, requested_by, created_at)
    values (%(id)s, %(transaction_id)s, %(asset)s, %(amount_minor)s, %(status)s, %(automatic)s, %(reason)s,
            %(actor)s, %(now)s)
    returning id)
insert into refund_history (refund_id, from_status, to_status, at, reason, actor)
select id, step.was, coalesce(step.becomes, %(status)s), %(now)s, %(reason)s, %(actor)s
  from new, (values (null, 'requested'), ('requested', null)) as step (was, becomes);

-- :transaction_of   whose refunds these are; read before anything is locked
select id, transaction_id from refund where id = any (%(ids)s::text[]);

-- :lock   refunds, locked until the unit ends, after their transactions
select id, transaction_id, asset, amount_minor, status, outcome, automatic, reason, requested_by, decided_by,
       psp_reference, reserved_from, transfer_ids, created_at
  from refund where id = any (%(ids)s::text[])
 order by id for update;

-- :move   one refund from one status to the next, with its line of history
with moved as (
    update refund r
       set status = %(becomes)s,
           outcome = null,
           decline_reason = coalesce(%(decline_reason)s, decline_reason),
           decided_by = coalesce(%(decided_by)s, decided_by),
           psp_reference = coalesce(%(psp_reference)s, psp_reference),
           reserved_from = coalesce(%(reserved_from)s::bigint, reserved_from),
           transfer_ids = transfer_ids || %(transfers)s::uuid[],
           final_at = case when %(final)s then %(now)s else final_at end
     where id = %(id)s and status = %(was)s
    returning id)
insert into refund_history (refund_id, from_status, to_status, at, reason, event_id, actor)
select id, %(was)s, %(becomes)s, %(now)s, %(why)s, %(event_id)s, %(actor)s from moved
returning refund_id;

-- :was_before   what a transaction was when its money began to go back
select from_status from transaction_history
 where transaction_id = %(id)s and to_status = 'refunding'
 order by at desc limit 1;

-- :record_attempt   the PSP is going to be asked. What is on record already was perhaps done before a restore, and stays
-- as old as it is.
insert into attempt (entity_id, step, transaction_id, psp, asset, amount_minor, outcome, requested_at)
values (%(id)s, 'refund', %(transaction_id)s, %(psp)s, %(asset)s, %(amount_minor)s, 'requested', %(now)s)
    on conflict (entity_id, step) do update set outcome = excluded.outcome
returning requested_at;

-- :finish_attempt   the PSP has answered
update attempt
   set outcome = %(outcome)s, reason = %(reason)s, psp_reference = coalesce(%(psp_reference)s, psp_reference),
       latency_ms = %(latency_ms)s, finished_at = %(now)s, ask_after = null
 where entity_id = %(id)s and step = 'refund';

-- :doubt   the PSP did not say what happened: asked again after a while that doubles, until the deadline
with marked as (
    update refund set outcome = 'unknown' where id = %(id)s and status = 'sent' returning id)
update attempt a
   set outcome = 'unknown', reason = %(reason)s, latency_ms = %(latency_ms)s,
       ask_after = case when a.requested_at > %(deadline)s
                        then %(now)s + least(interval '1 s' * power(2, least(a.asked, 6)), interval '60 s') end
  from marked where a.entity_id = marked.id and a.step = 'refund';

-- :doubt_silent   sent long ago without an answer or a doubt: the message was lost with the bus
with silent as (
    select r.id from refund r join attempt a on a.entity_id = r.id and a.step = 'refund'
     where r.status = 'sent' and r.outcome is null and a.requested_at < %(before)s
     order by r.id limit %(limit)s
       for update of r skip locked),
marked as (
    update refund r set outcome = 'unknown' from silent where r.id = silent.id returning r.id)
update attempt a set outcome = 'unknown', reason = 'no answer was recorded', ask_after = %(now)s
  from marked where a.entity_id = marked.id and a.step = 'refund';

-- :due   refunds whose outcome is unknown and whose time to ask has come; taken by one resolver
with due as (
    select entity_id from attempt
     where ask_after <= %(now)s and step = 'refund'
     order by ask_after limit %(limit)s
       for update skip locked),
asked as (
    update attempt a set asked = a.asked + 1, ask_after = case when a.requested_at > %(deadline)s
                                                 then %(now)s + interval '30 s' * power(2, least(a.asked, 6)) end
      from due where a.entity_id = due.entity_id and a.step = 'refund'
    returning a.entity_id, a.requested_at)
select r.id, r.transaction_id, r.asset, r.amount_minor, asked.requested_at as sent_at, t.rail as psp,
       t.psp_reference
  from asked
  join refund r on r.id = asked.entity_id
  join transaction t on t.id = r.transaction_id
 where r.status = 'sent';

-- :noticed   refunds of which a PSP has just spoken, and whose outcome is unknown
select r.id, r.transaction_id, r.asset, r.amount_minor, a.requested_at as sent_at, t.rail as psp, t.psp_reference
  from refund r
  join attempt a on a.entity_id = r.id and a.step = 'refund'
  join transaction t on t.id = r.transaction_id
 where r.id = any (%(ids)s::text[]) and r.status = 'sent' and r.outcome = 'unknown'
 order by r.id;

-- :ask_now   an operator wants the question asked at once
update attempt set ask_after = %(now)s
 where entity_id = %(id)s and step = 'refund' and outcome = 'unknown'
returning entity_id;

-- :history   how it came to be what it is, oldest first
select from_status, to_status, at, reason, event_id, actor
  from refund_history where refund_id = %(id)s
 order by at, case when from_status is null then 0 else 1 end;
