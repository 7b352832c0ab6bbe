-- Fraud: decisions are appended, never changed; a transaction's review stands beside them and is closed by a person.
-- Transaction rows are locked in the order of their ids.

-- :undecided   the payments that still want a verdict, with their payers' names; `late` where policy was faster
select given.id, a.name as account, d.decided_by is not null as late,
       (select max(version) from fraud_rules) as rules_version
  from unnest(%(ids)s::text[], %(accounts)s::bigint[]) as given (id, account)
  join transaction t on t.id = given.id
  join account a on a.id = given.account
  left join lateral (select decided_by from fraud_decision
                      where transaction_id = given.id order by id desc limit 1) d on true
 where (d.decided_by is null and t.status = 'pending')
    or (d.decided_by = %(policy)s and t.status in ('pending', 'succeeded'));

-- :record   decisions; one that asks for a review does so only where the payment still waits, else it is not recorded
with given as (
    select * from unnest(%(ids)s::text[], %(transactions)s::text[], %(outcomes)s::text[], %(scores)s::float8[],
                         %(reasons)s::text[], %(signals)s::text[], %(models)s::text[])
               as g (id, transaction_id, outcome, score, reasons, signals, model_version)),
waiting as (
    select id from transaction
     where id = any (%(reviews)s::text[]) and status = 'pending'
     order by id for update),
marked as (
    update transaction t set review = true from waiting where t.id = waiting.id returning t.id)
insert into fraud_decision (id, transaction_id, outcome, score, reasons, signals, rules_version, model_version,
                            decided_by, at)
select id, transaction_id, outcome, score, reasons::jsonb, signals::jsonb, %(rules_version)s, model_version,
       %(decided_by)s, %(now)s
  from given
 where outcome <> 'review' or transaction_id in (select id from marked)
returning transaction_id;

-- :overdue   payments that nobody has judged in time, locked; those that somebody works on are left to the next time
select t.id, t.asset
  from transaction t
 where t.status = 'pending' and t.rail <> 'book' and t.settling_at is null and t.created_at < %(before)s
   and not exists (select from fraud_decision d where d.transaction_id = t.id)
 order by t.id limit %(limit)s
   for update skip locked;

-- :close_review   a review that is open is closed, once
update transaction set review = false
 where id = %(id)s and review and status = 'pending'
returning id, asset;

-- :lock   a transaction stands still: what is read of it next is what there is
select id from transaction where id = %(id)s for update;

-- :judged   a transaction, with the last decision about it
select t.id, t.asset, t.rail, t.status, t.review, d.outcome, d.score, d.rules_version, d.model_version,
       d.id as decision_id
  from transaction t
  left join lateral (select * from fraud_decision
                      where transaction_id = t.id order by id desc limit 1) d on true
 where t.id = %(id)s;

-- :reviews   what waits for a person, longest first
select t.id as transaction_id, t.kind, t.asset, t.amount_minor, a.name as account, t.payment_method,
       d.id as decision_id, d.score, d.reasons, d.rules_version, d.at as since
  from transaction t
  join account a on a.id = case when t.kind = 'deposit' then t.credit_account else t.debit_account end
  join lateral (select * from fraud_decision where transaction_id = t.id order by id desc limit 1) d on true
 where t.review and t.status = 'pending' and d.outcome = 'review'
 order by t.id limit %(limit)s;

-- :history   payments since a time, and whether a PSP refused the payer's card
select t.id as transaction_id, t.amount_minor, t.created_at,
       case when t.kind = 'deposit' then t.credit_account else t.debit_account end as account,
       -- not `exists`, which the planner may answer by reading every attempt there is
       coalesce((select true from attempt a
                  where a.entity_id = t.id and a.outcome = 'declined' and a.reason = any (%(declines)s) limit 1), false)
           as declined
  from transaction t
 where t.id >= %(earliest)s and t.created_at >= %(since)s and t.rail <> 'book';

-- :payment   a payment that a PSP has just declined, as history will have it
select t.id as transaction_id, t.amount_minor, t.created_at,
       case when t.kind = 'deposit' then t.credit_account else t.debit_account end as account, true as declined
  from transaction t where t.id = %(id)s;
