-- What is done to a partition of `requests` directly, so that a recount can tell it from a loss. A trigger of the parent
-- does not see it.

-- The time in an id, in milliseconds of Unix time.
create function {schema}.ingest_ms(id uuid) returns bigint
    language sql immutable strict parallel safe
    as $$ select ('x' || encode(substring(uuid_send(id) from 1 for 6), 'hex'))::bit(48)::bigint $$;

-- `partition`: a day's partition was dropped or detached by hand, and made anew since.
alter table {schema}.ingest_removed
    drop constraint ingest_removed_cause_check,
    add constraint ingest_removed_cause_check check (cause in ('delete', 'truncate', 'retention', 'partition'));

-- The days of which a partition was made. One that is made a second time was taken out in between.
create table {schema}.ingest_partitions (
    from_id uuid primary key,
    made_at timestamptz not null default clock_timestamp()
);

create function {schema}.ingest_note_partition_truncate() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp
    as $$
declare
    lowest uuid;
    highest uuid;
begin
    execute format('select id from %s order by id limit 1', tg_relid::regclass) into lowest;
    execute format('select id from %s order by id desc limit 1', tg_relid::regclass) into highest;
    if lowest is not null then
        insert into {schema}.ingest_removed (cause, from_id, to_id) values ('truncate', lowest, highest);
    end if;
    return null;
end
$$;

do $$
declare
    partition record;
begin
    for partition in
        select child.oid::regclass as name, child.relname,
            substring(pg_get_expr(child.relpartbound, child.oid) from 'FROM \(''([0-9a-f-]{36})''\)')::uuid as from_id
        from pg_inherits
        join pg_class child on child.oid = inhrelid
        where inhparent = '{schema}.requests'::regclass
    loop
        execute format('create trigger ingest_note_partition_truncate before truncate on %s
            for each statement execute function {schema}.ingest_note_partition_truncate()', partition.name);
        -- The default one is emptied into new partitions, which is no removal.
        if partition.from_id is not null then
            execute format('create trigger ingest_note_delete after delete on %s referencing old table as gone
                for each statement execute function {schema}.ingest_note_delete()', partition.name);
            insert into {schema}.ingest_partitions (from_id) values (partition.from_id);
        end if;
    end loop;
end
$$;
