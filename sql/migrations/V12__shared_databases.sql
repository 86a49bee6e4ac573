-- What a database that others use too asks for: replication of all tables, triggers of others, dumps that are restored.

-- A publication `for all tables`, which every tool for change data capture makes, refuses updates and deletes of a table that has
-- no replica identity. These have no key; the first is updated, the others are small.
alter table {schema}.feed_floor replica identity full;
alter table {schema}.ingest_removed replica identity full;
alter table {schema}.file_store replica identity full;

-- Refuses a statement of which a trigger dropped rows, by returning null: what is answered as stored has to be there. For the
-- statement that stores them to call.
create function {schema}.expect_rows(name text, sent bigint, stored bigint) returns boolean
    language plpgsql immutable set search_path = pg_catalog, pg_temp
    as $$
begin
    if stored < sent then
        raise exception using errcode = 'TG001', table = name,
            message = format('a trigger dropped %s of %s rows of %s', sent - stored, sent, name);
    end if;
    return true;
end
$$;

-- Set after a restore on another server: messages and titles behind this id, in the order of ids, may not be known to search. The feed
-- no longer says so, as the changes of another server's transactions cannot be put in order with those of this one.
alter table {schema}.feed_readers add column catch_up uuid;
