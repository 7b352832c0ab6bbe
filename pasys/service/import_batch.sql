-- Imports: a batch is one actor's one file, and says how many of its rows are done.

-- :begin   the batch of a file, unless there is one
insert into import_batch (id, file_name, file_hash, actor, rows_total, started_at)
values (%(id)s, %(file_name)s, %(file_hash)s, %(actor)s, %(rows_total)s, %(now)s)
    on conflict (actor, file_hash) do nothing;

-- :batch_of   an actor's batch of a file
select id, file_name, rows_total, rows_done, rows_refused, started_at, finished_at
  from import_batch where actor = %(actor)s and file_hash = %(file_hash)s;

-- :advance   the next rows are done, if this unit commits and nobody else has done them
update import_batch
   set rows_done = rows_done + %(count)s,
       finished_at = case when rows_done + %(count)s = rows_total then %(now)s end
 where id = %(id)s and rows_done = %(done)s
returning id;

-- :refuse   rows that a rule refused
with refused as (
    insert into import_refusal (batch_id, line, key, rule, message)
    select %(id)s, r.* from unnest(%(lines)s::int[], %(keys)s::text[], %(rules)s::text[], %(messages)s::text[]) r
    returning line)
update import_batch set rows_refused = rows_refused + (select count(*) from refused) where id = %(id)s;

-- :refusals   what was refused, in the order of the file
select line, key, rule, message from import_refusal where batch_id = %(id)s order by line;

-- :unknown_accounts   those of these accounts that nobody has opened
select wanted.name, wanted.asset, wanted.type
  from unnest(%(names)s::text[], %(assets)s::text[], %(types)s::text[]) as wanted (name, asset, type)
  left join account a on a.name = wanted.name and a.asset = wanted.asset
 where a.id is null
 order by wanted.name, wanted.asset;

-- :open_accounts   accounts by name and asset; one that somebody else opens at the same time is waited for, and is theirs
insert into account (id, name, asset, type, flags, opened_at)
select u.id, u.name, u.asset, u.type, u.flags, %(now)s
  from unnest(%(numbers)s::bigint[], %(names)s::text[], %(assets)s::text[], %(types)s::text[], %(flags)s::int[])
    as u (id, name, asset, type, flags)
    on conflict (name, asset) do nothing
returning id, name, asset, type;

-- :tally   how the transactions of a batch stand
select status, asset, review, outcome is not null as unknown, rail <> 'book' as by_psp, count(*) as transactions,
       sum(amount_minor)::bigint as amount_minor, sum(refunded_minor)::bigint as refunded_minor,
       count(*) filter (where refunded_minor > 0) as refunded
  from transaction where batch_id = %(id)s
 group by 1, 2, 3, 4, 5 order by 1, 2, 3, 4, 5;

-- :latencies   how long the transactions of a batch took until their money had moved
select percentile_cont(0.5) within group (order by extract(epoch from final_at - created_at)) as p50_s,
       percentile_cont(0.95) within group (order by extract(epoch from final_at - created_at)) as p95_s
  from transaction where batch_id = %(id)s and rail <> 'book' and credited;

-- :by_key   the transactions that an actor's keys stand for
select key, entity_id from idempotency
 where actor = %(actor)s and operation = %(operation)s and key = any (%(keys)s::text[]);
