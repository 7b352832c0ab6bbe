-- A part of an account's name is found by its trigrams. The revision installs the extension pg_trgm before this (it
-- comes with PostgreSQL, and the owner of a database may); where it cannot, this is left out, and names are read one by
-- one. Built while everybody works: each statement is a transaction of its own, and one that was interrupted begins
-- again.

-- Whether a part is rare, and worth the index, or so usual that the next accounts have it, is seen in a sample of names.
alter table account alter column name set statistics 1000;
analyze account (name);

drop index concurrently if exists account_name_part_idx;
create index concurrently account_name_part_idx on account using gin (name gin_trgm_ops);
