-- What is written once was kept from being changed by triggers alone, which the tables' owner may switch off, and a
-- superuser passes by. Daemons and commands work as pasys_app now (pasys/driver.py): it owns nothing, adds to what is
-- append-only, and has no right to change it, whatever became of the triggers. Where no role can be made, all stays as it
-- was; a role pasys_app that the login is a member of, and `select grant_app()`, make up for it.

-- Give pasys_app what it needs of pasys's own tables, and no more: what refuses a change by trigger does so by grant as
-- well. A revision that makes tables ends with it; one that makes a function which runs as its owner adds that to the
-- doors, by name, because others may have such functions here. False: no such role is ours.
create function grant_app() returns boolean language plpgsql as $$
declare
    house constant oid := (select relowner from pg_class where oid = 'transfer'::regclass);
    doors constant regprocedure[] := array['ledger_partition_add(text)', 'ledger_partition_index(text)'];
    one record;
begin
    for one in select unnest(doors) as name loop
        execute format('revoke all on function %s from public', one.name);
    end loop;
    begin
        if to_regrole('pasys_app') is null then
            create role pasys_app nologin;
        end if;
    exception
        when duplicate_object or unique_violation then
            null;  -- another database of this server is being migrated, too
        when insufficient_privilege then
            return false;
    end;
    if pg_has_role('pasys_app', house, 'member') then
        return false;  -- it may do whatever the owner may
    end if;
    if not pg_has_role(session_user, 'pasys_app', 'usage') then
        begin
            execute format('grant pasys_app to %I', session_user);
        exception
            when unique_violation then
                null;
            when insufficient_privilege then
                if not pg_has_role(session_user, 'pasys_app', 'member') then
                    return false;
                end if;
        end;
    end if;
    execute format('grant usage on schema %I to pasys_app', current_schema());
    for one in
        select c.oid::regclass as name,
               case when c.relkind = 'v' or c.relname = 'alembic_version' then 'select'
                    when exists (select from pg_trigger t
                                  where t.tgrelid = c.oid and t.tgfoid = 'refuse_change'::regproc)
                    then 'select, insert'
                    else 'select, insert, update, delete' end as rights
          from pg_class c
         where c.relnamespace = current_schema()::regnamespace and c.relowner = house
           and c.relkind in ('r', 'p', 'v') and not c.relispartition
    loop
        execute format('revoke all on %s from pasys_app', one.name);
        execute format('grant %s on %s to pasys_app', one.rights, one.name);
    end loop;
    for one in select unnest(doors) as name loop
        execute format('grant execute on function %s to pasys_app', one.name);
    end loop;
    return true;
end $$;

-- What the journal's keeper does is the owner's business: a partition ahead, and the indexes of one that is closed. What
-- takes rows out of the journal, or puts them back, is not among it: who archives has to be the owner. Whoever may make
-- functions in this schema must not be able to put one in the place of a system's, so these are named in full.
select pg_temp.exchange('ledger_partition_index(text)', 'if to_regclass(quote_ident(p_leaf)) is null then',
                        'if not exists (select from pg_inherits where inhparent = ''transfer''::regclass
                                         and inhrelid = to_regclass(quote_ident(p_leaf))) then');
do $$
declare
    one regprocedure;
begin
    foreach one in array array['ledger_partition_add(text)', 'ledger_partition_index(text)',
                               'ledger_statistics(regclass,int)']::regprocedure[] loop
        perform pg_temp.exchange(one, 'format(', 'pg_catalog.format(');
    end loop;
    foreach one in array array['ledger_partition_add(text)', 'ledger_partition_index(text)']::regprocedure[] loop
        execute format('alter function %s security definer set search_path = %I, pg_temp', one, current_schema());
    end loop;
end $$;

do $$
begin
    if not grant_app() then
        raise notice 'there is no role pasys_app for this login: what is append-only stays so by trigger alone';
    end if;
end $$;
