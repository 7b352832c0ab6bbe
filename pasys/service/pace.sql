-- What the server does, as it says itself.

-- :wal_bytes
select pg_current_wal_insert_lsn() - '0/0'::pg_lsn

-- :checkpoint
checkpoint

-- :lag
select coalesce(sum(last_seq - projected_seq), 0)::int8 from asset

-- :settings
select name, current_setting(name) as setting from unnest(%(names)s::text[]) with ordinality as n (name, place)
 order by place

-- :account_numbers
select id from account where type = %(type)s and asset = %(asset)s order by id
