-- Overview: the whole system in a few figures. What is of the last hour is found by the ids, which begin with their time.

-- :lately   how transactions fared since a time: how many came, how they ended, how long the slow ones took
select count(*) as created,
       count(*) filter (where status in ('succeeded', 'refunding', 'refunded')) as succeeded,
       count(*) filter (where status in ('failed', 'fraud')) as failed,
       percentile_cont(0.95) within group (order by extract(epoch from final_at - created_at) * 1000)
           filter (where rail <> 'book' and status in ('succeeded', 'refunding', 'refunded'))::float8 as p95_ms
  from transaction where id >= %(first)s;

-- :minutes   how many transactions came in each minute since a time, and failed; a minute without any is left out
select date_trunc('minute', created_at) as minute, count(*) as created,
       count(*) filter (where status in ('failed', 'fraud')) as failed
  from transaction where id >= %(first)s group by 1 order by 1;

-- :in_flight   what is on its way, by asset
select asset, count(*) as transactions, sum(amount_minor)::bigint as amount_minor
  from transaction where status in ('initialized', 'pending') group by asset order by asset;

-- :waiting   what waits for a person; each count by an index that holds only what is open
select (select count(*) from transaction where status = 'pending' and review) as reviews,
       (select count(*) from refund where status = 'awaiting_approval') as approvals,
       (select count(*) from transaction where status in ('pending', 'refunding') and outcome = 'unknown')
       + (select count(*) from refund where status = 'sent' and outcome = 'unknown') as unknown,
       (select count(*) from reconciliation_break where status = 'open') as breaks;
