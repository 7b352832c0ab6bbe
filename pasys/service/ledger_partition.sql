-- The journal's partitions. What makes one is ledger_partition_add (migrations/versions/0003_ledger_engine.sql), as the
-- tables' owner, whoever calls it.

-- :keeper
-- One keeper at a time.
select pg_try_advisory_xact_lock(7082503)

-- :partitions
-- Every leaf, its bounds as PostgreSQL writes them, how many of its indexes it has, and where the assets stand.
select c.relname as name, pg_get_expr(c.relpartbound, c.oid) as bounds,
       (select count(*) from pg_index i where i.indrelid = c.oid and i.indisvalid and not i.indisprimary) as indexes,
       (select coalesce(jsonb_object_agg(code, last_seq), '{}') from asset) as heads
  from pg_inherits h join pg_class c on c.oid = h.inhrelid
 where h.inhparent = 'transfer'::regclass

-- :short
-- An asset that has less than a whole partition left: the next one is there before anybody needs it.
select a.code from asset a
 where a.partitioned_seq - a.last_seq < coalesce(current_setting('pasys.partition_rows', true), '1000000')::int8
 order by a.code limit 1

-- :lock
select ledger_lock(%(asset)s)

-- :patience
-- With the asset locked nothing is waited for long.
set local lock_timeout = '200ms'

-- :add
-- Under the asset's lock; nothing where somebody else was faster.
select ledger_partition_add(a.code)
  from (select code, last_seq, partitioned_seq from asset where code = %(asset)s) a
 where a.partitioned_seq - a.last_seq < coalesce(current_setting('pasys.partition_rows', true), '1000000')::int8

-- :index
-- The next index of a closed leaf, by sorting: a tenth of what inserting row by row would have cost.
select ledger_partition_index(%(leaf)s)
