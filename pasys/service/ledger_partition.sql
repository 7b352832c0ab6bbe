-- The journal's partitions. What makes one is ledger_partition_add (migrations/versions/0003_ledger_engine.sql).

-- :keeper
-- One keeper at a time.
select pg_try_advisory_xact_lock(7082503)

-- :partitions
-- Every leaf, its bounds as PostgreSQL writes them, how many of the two indexes it has, and where the assets stand.
select c.relname as name, pg_get_expr(c.relpartbound, c.oid) as bounds,
       (select count(*) from pg_index i
         where i.indrelid = c.oid and i.indisvalid and not i.indisprimary and i.indpred is null) as indexes,
       (select coalesce(jsonb_object_agg(code, last_seq), '{}') from asset) as heads
  from pg_inherits h join pg_class c on c.oid = h.inhrelid
 where h.inhparent = 'transfer'::regclass

-- :short
-- Assets whose last partition is half full: the next one is made before anybody waits for it.
select a.code from asset a
 where a.partitioned_seq - a.last_seq
       < coalesce(current_setting('pasys.partition_rows', true), '1000000')::int8 / 2
 order by a.code

-- :add
-- Under the asset's lock; nothing where somebody else was faster.
select ledger_partition_add(a.code)
  from (select code, last_seq, partitioned_seq from asset where code = %(asset)s for no key update) a
 where a.partitioned_seq - a.last_seq
       < coalesce(current_setting('pasys.partition_rows', true), '1000000')::int8 / 2

-- :index
-- Both indexes of a closed leaf, by sorting: a tenth of what inserting row by row would have cost.
select ledger_partition_index(%(leaf)s)
