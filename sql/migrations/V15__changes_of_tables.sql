-- Changes of watched tables, and the previous state of what was changed.
-- Statements of users write into `changes`: they must not wait long for a migration that waits for its lock.
set local lock_timeout = '5s';

-- `old` is the state before an update. `keys` are the parts of a key of several columns, whose `record` is then empty.
alter table {schema}.changes add column old jsonb, add column keys text[];

alter table {schema}.changes drop constraint changes_action_check;
alter table {schema}.changes add constraint changes_action_check check (
    action in ('create', 'update', 'delete', 'append', 'import', 'publish', 'truncate', 'many')) not valid;

-- Without `set search_path`, which costs as much as the rest of a call: every name is qualified instead.
create or replace function {schema}.expect_rows(name text, sent bigint, stored bigint) returns boolean
    language plpgsql immutable
    as $$
begin
    if stored operator(pg_catalog.<) sent then
        raise exception using errcode = 'TG001', table = name,
            message = pg_catalog.format(
                'a trigger dropped %s of %s rows of %s', sent operator(pg_catalog.-) stored, sent, name);
    end if;
    return true;
end
$$;
