-- Unknown: what a PSP was asked to do and has not said, of transactions and of refunds, by the indexes of what is open.

-- :listing   what is not known, longest first; of a transaction's steps the one that is in doubt
with doubted as (
    select id, id as transaction_id, status from transaction
     where status in ('pending', 'refunding') and outcome = 'unknown'
    union all
    select id, transaction_id, status from refund where status = 'sent' and outcome = 'unknown')
select d.id, d.transaction_id, d.status, a.step, a.psp, a.asset, a.amount_minor, a.reason, a.asked,
       a.requested_at as since, a.ask_after
  from doubted d
  join lateral (select * from attempt
                 where entity_id = d.id and outcome = 'unknown' order by step limit 1) a on true
 order by a.requested_at, d.id
 limit %(limit)s;
