-- ANALYZE looks at thirty thousand pages of a table and at all rows in them: seconds of a core for the journal, after
-- every tenth that it has grown, and while it grows on. What the planner has to know of it and of its ids hardly changes
-- with their size: they are looked at when they have doubled, and at a tenth of the pages. A partition that is closed is
-- looked at once more, as thoroughly as any table.

create function ledger_statistics(p_table regclass, p_target int) returns void language plpgsql as $$
begin
    execute (select format('alter table %s ', p_table)
                    || string_agg(format('alter column %I set statistics %s', attname, p_target), ', ')
               from pg_attribute where attrelid = p_table and attnum > 0 and not attisdropped);
end $$;

select pg_temp.exchange('ledger_partition_add(text)', 'with (autovacuum_vacuum_insert_threshold = -1)',
                        'with (autovacuum_vacuum_insert_threshold = -1, autovacuum_analyze_scale_factor = 1)');
select pg_temp.exchange('ledger_partition_add(text)', 'execute format(''alter table transfer attach',
                        'perform ledger_statistics(quote_ident(leaf)::regclass, 10);
    execute format(''alter table transfer attach');
select pg_temp.exchange('ledger_partition_index(text)', 'execute format(''analyze %I'', p_leaf);',
                        'perform ledger_statistics(quote_ident(p_leaf)::regclass, -1);
                execute format(''analyze %I'', p_leaf);');

do $$
declare
    leaf regclass;
begin
    for leaf in select inhrelid from pg_inherits where inhparent = 'transfer'::regclass loop
        execute format('alter table %s set (autovacuum_analyze_scale_factor = 1)', leaf);
        if not exists (select from pg_index where indrelid = leaf and not indisprimary) then
            perform ledger_statistics(leaf, 10);
        end if;
    end loop;
    alter table transfer_key set (autovacuum_analyze_scale_factor = 1);
    perform ledger_statistics('transfer_key', 10);
end $$;
