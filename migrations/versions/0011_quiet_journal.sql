-- The journal and its ids are only ever added to: there is nothing to clean up in them. The server would go through every
-- new row all the same, while the next ones are written, only to mark what is old enough to be frozen. It has time for
-- that until a table is autovacuum_freeze_max_age transactions old: then it does it anyway, once.

alter table transfer_key set (autovacuum_vacuum_insert_threshold = -1);

do $$
declare
    leaf regclass;
begin
    for leaf in select inhrelid from pg_inherits where inhparent = 'transfer'::regclass loop
        execute format('alter table %s set (autovacuum_vacuum_insert_threshold = -1)', leaf);
    end loop;
end $$;

select pg_temp.exchange('ledger_partition_add(text)', 'including defaults including constraints)',
                        'including defaults including constraints) with (autovacuum_vacuum_insert_threshold = -1)');
