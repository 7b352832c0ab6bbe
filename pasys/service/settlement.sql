-- Settlement: what was asked of a PSP, and what it said. Attempts are on record before anybody is asked.

-- :prepare   cleared transactions go to settlement, once; their attempts are on record from here on. Those that are on
-- record already were perhaps made before a restore, and stay as old as they are.
with picked as (
    select id from transaction
     where id = any (%(ids)s::text[]) and status = 'pending' and settling_at is null and rail <> 'book'
     order by id for update),
begun as (
    update transaction t set settling_at = %(now)s, review = false
      from picked where t.id = picked.id
    returning t.id, t.kind, t.rail, t.asset, t.amount_minor, t.payment_method, t.debit_account, t.credit_account),
recorded as (
    insert into attempt (entity_id, step, transaction_id, psp, asset, amount_minor, outcome, requested_at)
    select id, step, id, rail, asset, amount_minor, 'requested', %(now)s
      from begun, (values ('authorise'), ('capture')) as steps (step)
        on conflict (entity_id, step) do update set outcome = excluded.outcome
    returning entity_id, step, requested_at)
select b.id, b.rail, b.asset, b.amount_minor, b.payment_method, r.requested_at, a.name as customer
  from begun b
  join recorded r on r.entity_id = b.id and r.step = 'authorise'
  join account a on a.id = case when b.kind = 'deposit' then b.credit_account else b.debit_account end;

-- :succeeded   both steps' attempts, with what the PSP said
update attempt a
   set outcome = 'succeeded', ask_after = null, finished_at = %(now)s, reason = null,
       psp_reference = case a.step when 'authorise' then s.psp_reference else s.charge_reference end,
       auth_code = s.auth_code, processor_code = s.processor_code,
       latency_ms = case a.step when 'authorise' then s.authorise_ms else s.capture_ms end
  from unnest(%(ids)s::text[], %(references)s::text[], %(charges)s::text[], %(auth_codes)s::text[],
              %(processor_codes)s::text[], %(authorise_ms)s::int[], %(capture_ms)s::int[])
    as s (id, psp_reference, charge_reference, auth_code, processor_code, authorise_ms, capture_ms)
 where a.entity_id = s.id and a.step in ('authorise', 'capture');

-- :declined   the step that was declined; the other one went before it, or was therefore not done
update attempt a
   set outcome = case when a.step = s.step then 'declined'
                      when s.step = 'authorise' then 'skipped' else 'succeeded' end,
       ask_after = null, finished_at = %(now)s,
       reason = case when a.step = s.step then s.reason end,
       processor_code = case when a.step = s.step then s.processor_code else a.processor_code end,
       psp_reference = coalesce(s.psp_reference, a.psp_reference),
       latency_ms = case when a.step = s.step then s.latency_ms else a.latency_ms end
  from unnest(%(ids)s::text[], %(steps)s::text[], %(reasons)s::text[], %(processor_codes)s::text[],
              %(references)s::text[], %(latencies)s::int[])
    as s (id, step, reason, processor_code, psp_reference, latency_ms)
 where a.entity_id = s.id and a.step in ('authorise', 'capture');

-- :doubt   the PSP did not say what happened: asked again after a while that doubles, until the deadline. One question
-- is about both steps, so only the step in doubt has a time to ask.
with marked as (
    update transaction t set outcome = 'unknown',
           psp_reference = coalesce(t.psp_reference, s.psp_reference)
      from unnest(%(ids)s::text[], %(references)s::text[]) as s (id, psp_reference)
     where t.id = s.id and t.status = 'pending'
    returning t.id)
update attempt a
   set outcome = case when a.step = s.step then 'unknown' when s.step = 'capture' then 'succeeded' else a.outcome end,
       reason = case when a.step = s.step then s.reason when s.step = 'authorise' then a.reason end,
       latency_ms = case when a.step = s.step then s.latency_ms else a.latency_ms end,
       ask_after = case when a.step = s.step and a.requested_at > %(deadline)s
                        then %(now)s + least(interval '1 s' * power(2, least(a.asked, 6)), interval '60 s') end
  from unnest(%(ids)s::text[], %(steps)s::text[], %(reasons)s::text[], %(latencies)s::int[])
    as s (id, step, reason, latency_ms)
  join marked on marked.id = s.id
 where a.entity_id = s.id and a.step in ('authorise', 'capture');

-- :due   attempts whose outcome is unknown and whose time to ask has come; taken by one resolver. A question that waits
-- in a long queue is not asked again and again behind itself: how long it may wait doubles. After the deadline it
-- is asked once for each time that an operator wants it, whatever becomes of the answer.
with due as (
    select a.entity_id, a.step from attempt a
     where a.ask_after <= %(now)s and a.step = any (%(steps)s::text[])
     order by a.ask_after limit %(limit)s
       for update skip locked),
asked as (
    update attempt a
       set asked = a.asked + 1, ask_after = case when a.requested_at > %(deadline)s
                                                 then %(now)s + interval '30 s' * power(2, least(a.asked, 6)) end
      from due where a.entity_id = due.entity_id and a.step = due.step
    returning a.entity_id, a.transaction_id, a.requested_at)
select asked.entity_id, asked.requested_at, t.id, t.rail, t.asset, t.amount_minor, t.payment_method,
       t.psp_reference, t.status, acc.name as customer
  from asked
  join transaction t on t.id = asked.transaction_id
  join account acc on acc.id = case when t.kind = 'deposit' then t.credit_account else t.debit_account end;

-- :ask_now   an operator, or a PSP's webhook, wants the question asked at once
update attempt set ask_after = %(now)s
 where entity_id = any (%(ids)s::text[]) and outcome = 'unknown'
returning entity_id, step;

-- :noticed   pending transactions whose outcome is unknown, of which a PSP has just spoken
select t.id, t.rail, t.asset, t.amount_minor, t.payment_method, a.requested_at, t.psp_reference, acc.name as customer
  from transaction t
  join attempt a on a.entity_id = t.id and a.step = 'authorise'
  join account acc on acc.id = case when t.kind = 'deposit' then t.credit_account else t.debit_account end
 where t.id = any (%(ids)s::text[]) and t.status = 'pending' and t.outcome = 'unknown' and t.settling_at is not null
 order by t.id;

-- :doubt_silent   in settlement for too long without an answer or a doubt: the message was lost with the bus
with silent as (
    select id from transaction
     where status = 'pending' and settling_at < %(before)s and outcome is null
     order by id limit %(limit)s
       for update skip locked),
marked as (
    update transaction t set outcome = 'unknown' from silent where t.id = silent.id returning t.id)
update attempt a set outcome = 'unknown', reason = 'no answer was recorded', ask_after = %(now)s
  from marked where a.entity_id = marked.id and a.step = 'authorise';

-- :mark_flagged   judged fraud while the PSP is being asked, whose answer decides what has to be sent back, or while a
-- part of it was on its way back
update transaction set reason = %(reason)s where id = any (%(ids)s::text[]) and status in ('pending', 'refunding');
