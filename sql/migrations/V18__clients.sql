-- Connections that any node finds by their client ids. An id begins with that of its node, so no table of connections is needed.

-- The nodes that have such connections. A row counts while it is younger than two minutes; each node renews its own. Both tables hold what is of
-- use for seconds: a crash of Postgres may empty them.
create unlogged table {schema}.client_nodes (
    node text primary key,
    seen timestamptz not null default now()
);

-- Messages to a node: requests to its connections, with the id of the connection, and answers to its own requests, without. An answer without
-- a body: there is no such connection. The node deletes what it reads. `at` ends those that no node reads.
create unlogged table {schema}.client_messages (
    number bigint generated always as identity primary key,
    node text not null,
    request uuid not null,
    sender text,
    client text,
    body bytea check (octet_length(body) <= 262144),
    at timestamptz not null default now()
);

create index client_messages_node on {schema}.client_messages (node, number);

-- Tables of the service, which cannot be watched. A migration that adds one replaces this function.
create function {schema}.tidegate_watch_own_tables() returns text[]
language sql immutable set search_path = pg_catalog, pg_temp as $$
    select regexp_split_to_array(
        'api_keys, auth_revocations, auth_tickets, changes, client_messages, client_nodes, collections, conversations, dead_letters,
        feed_floor, feed_positions, feed_readers, file_store, files, import_parts, import_rejected, imports, ingest_duplicates,
        ingest_journals, ingest_keys, ingest_lanes, ingest_partitions, ingest_receipts, ingest_removed, large_payload_parts,
        large_payloads, message_drafts, message_keys, message_pieces, messages, requests, search_documents, search_rebuild,
        sessions, tidegate_choices, tidegate_migrations, tidegate_table_sets, users, watched_tables', '[,[:space:]]+')
$$;
revoke all on function {schema}.tidegate_watch_own_tables() from public;

-- Feeds the changes of a table from now on to the subscribers of `table/{schema.table}`. Returns a description, with what is not fed.
create or replace function {schema}.tidegate_watch(relation regclass) returns text
language plpgsql security definer
set search_path = pg_catalog, pg_temp set lock_timeout = '5s' set quote_all_identifiers = off as $$
declare
    watched record;
    watch {schema}.watched_tables;
    parent oid;
    notes text[];
    key_names text;
begin
    select c.oid, c.relname, c.relnamespace, c.relkind, c.relpersistence, c.relrowsecurity, n.nspname into watched
    from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = tidegate_watch.relation;
    if not found then
        raise exception 'tidegate_watch: there is no such table' using errcode = 'undefined_table';
    elsif watched.relkind not in ('r', 'p') or watched.relpersistence = 't' or watched.nspname ~ '^pg_' or watched.nspname = 'information_schema' then
        raise exception 'tidegate_watch: % is no table that can be watched: views, foreign, temporary and system tables cannot', relation
            using errcode = 'wrong_object_type';
    elsif watched.relnamespace = to_regnamespace('{schema}')
        and (watched.relname = any({schema}.tidegate_watch_own_tables()) or watched.relname ~ '^(requests_p[0-9]{8}|records_[0-9]+)$') then
        raise exception 'tidegate_watch: % is a table of the service', relation using errcode = 'wrong_object_type';
    end if;
    perform {schema}.tidegate_watch_check_rights(relation, {schema}.tidegate_watch_caller());
    select inhparent into parent from pg_inherits where inhrelid = relation order by inhseqno limit 1;
    if found then
        raise exception 'tidegate_watch: % is a part of %, and statements through that one would not be seen: watch that one',
            relation, parent::regclass using errcode = 'wrong_object_type';
    end if;
    lock table {schema}.watched_tables in share row exclusive mode;
    select * into watch from {schema}.watched_tables w where w.relation = watched.oid;
    if not found then
        -- A table of that name that is gone, if the service has not noticed.
        perform {schema}.tidegate_watch_forget(w, 'drop') from {schema}.watched_tables w
        where (w.table_schema, w.table_name) = (watched.nspname, watched.relname);
        insert into {schema}.watched_tables (relation, table_schema, table_name, topic)
        values (watched.oid, watched.nspname, watched.relname, {schema}.tidegate_watch_topic(watched.nspname, watched.relname))
        returning * into watch;
        perform {schema}.tidegate_watch_apply(watch, false);
        perform {schema}.tidegate_watch_feed(watch.topic, 'many', '{"action": "watch"}');
    elsif {schema}.tidegate_watch_apply(watch, false) then
        perform {schema}.tidegate_watch_feed(watch.topic, 'many', '{"action": "watch"}');
    end if;

    select string_agg(quote_ident(a.attname), ', ' order by place) into key_names
    from pg_index i
    cross join unnest(i.indkey::int2[]) with ordinality as k(number, place)
    join pg_attribute a on a.attrelid = watched.oid and a.attnum = k.number
    where i.indrelid = watched.oid and i.indisprimary and i.indimmediate and i.indisvalid and place <= i.indnkeyatts;
    notes := array[
        format('%s is fed to table/%s, with the key %s.', relation, substr(watch.topic, 7), coalesce(key_names, 'null')),
        case when key_names is null then 'Without a primary key that is not deferrable, changes have no key, and updates no previous state.' end,
        case when watched.relpersistence = 'u' then 'A crash of Postgres empties the table, which is not seen.' end,
        'Not seen: statements with session_replication_role = replica, and that the table is dropped, until the service checks.',
        case when exists (
            select from pg_subscription_rel s join {schema}.tidegate_watch_tree(watched.oid) tree on tree.relation = s.srrelid
        ) then 'Not seen: rows that logical replication applies.' end,
        case when watched.relkind = 'p' or exists (select from pg_inherits i where i.inhparent = watched.oid) then
            'Not seen: that a partition or an inheriting table is attached, detached or dropped with its rows. New ones are watched once the service has found them.'
        end,
        case when exists (select from {schema}.tidegate_watch_tree(watched.oid) tree where tree.relkind = 'f') then
            'Not seen: statements on the parts that are foreign tables.' end,
        case when exists (
            select from {schema}.tidegate_watch_tree(watched.oid) tree join pg_inherits i on i.inhrelid = tree.relation
            group by i.inhrelid having count(*) > 1
        ) then 'Not seen: statements on other tables from which its parts inherit too.' end,
        case when watched.relrowsecurity then
            'Row-level security does not reach subscribers: who has realtime:read gets every row.' end
    ];
    return array_to_string(notes, ' ');
end
$$;
