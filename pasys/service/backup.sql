-- Restored books: how far they go, and what was perhaps done in the time that they have lost.

-- :last   the newest event
select id, at from event order by id desc limit 1;

-- :first_after   when the first event was announced that is newer than another
select min(at) from event where id > %(id)s;

-- :unhandled   what some handler has not had, or may not have had, into the outbox. What is older than every daemon's
-- mark it has had, or it stands in `overdue`; where no daemon has looked yet, that is everything. What stood among the
-- dead letters is gone with the bus, and handled anew.
with late as (
    update overdue set parked = false, due_at = %(now)s returning event_id),
again as (
    select id from event
     where id > coalesce((select min(event_id) from inbox_mark), '')
    union
    select e.id from late join event e on e.id = late.event_id)
insert into outbox (event_id, claimed_until) select id, %(now)s from again order by id
    on conflict do nothing
returning event_id;

-- :perhaps_charged   payments that were not at their PSP yet, but may have been in the time that is lost: their attempts
-- are on record as old as they are themselves, so that a key that the PSP has forgotten is never taken for a new one
insert into attempt (entity_id, step, transaction_id, psp, asset, amount_minor, outcome, reason, requested_at)
select t.id, step, t.id, t.rail, t.asset, t.amount_minor, 'requested', %(reason)s, t.created_at
  from transaction t, (values ('authorise'), ('capture')) as steps (step)
 where t.status in ('initialized', 'pending') and t.settling_at is null and t.rail <> 'book'
    on conflict do nothing
returning entity_id;

-- :perhaps_sent   the same for refunds
insert into attempt (entity_id, step, transaction_id, psp, asset, amount_minor, outcome, reason, requested_at)
select r.id, 'refund', r.transaction_id, t.rail, r.asset, r.amount_minor, 'requested', %(reason)s, r.created_at
  from refund r join transaction t on t.id = r.transaction_id
 where r.status in ('requested', 'awaiting_approval', 'approved', 'reserved')
    on conflict do nothing
returning entity_id;
