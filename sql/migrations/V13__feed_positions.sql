-- Positions in the feed are snapshots: a change is read as soon as its transaction has ended, and an open transaction delays only its own.
-- Statements of users write into `changes`: they must not wait long for a migration that waits for its lock.
set local lock_timeout = '5s';

-- Where the feed stood, some times within the retention of changes. What the newest one that is older saw is deleted.
create table {schema}.feed_positions (
    at timestamptz primary key,
    seen text not null
);

-- The changes that `seen` saw may be deleted. `origin` is the server whose transactions it names.
alter table {schema}.feed_floor add column seen text, add column origin text;
update {schema}.feed_floor set seen = (xid::text::bigint + 1) || ':' || (xid::text::bigint + 1) || ':';
alter table {schema}.feed_floor alter column seen set not null, drop column xid, drop column number;

alter table {schema}.changes drop constraint changes_action_check;
alter table {schema}.changes add constraint changes_action_check
    check (action in ('create', 'update', 'delete', 'append', 'import', 'publish')) not valid;

-- Publishes JSON to the subscribers of `topic/<topic>` with the commit of the caller's transaction; a rolled-back one is silent.
create function {schema}.tidegate_publish(topic text, data jsonb) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if topic is null or octet_length(topic) not between 1 and 200 then
        raise exception 'tidegate_publish: a topic has 1 to 200 bytes' using errcode = 'invalid_parameter_value';
    end if;
    if data is null or octet_length(data::text) > 1048576 then
        raise exception 'tidegate_publish: the data is JSON of up to 1 MiB' using errcode = 'invalid_parameter_value';
    end if;
    insert into {schema}.changes (number, topic, record, action, created, updated, data)
    values (nextval('{schema}.change_numbers'), 'topic:' || topic, '', 'publish', now(), now(), data);
end
$$;
revoke all on function {schema}.tidegate_publish(text, jsonb) from public;
