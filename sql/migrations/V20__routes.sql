-- Routes: tables of users, filled by a select over each batch of events, in the transaction that stores it.
--
-- A route is a row here, a trigger on requests, and two functions: `tidegate_route_<id>` is that of the trigger, `tidegate_route_<id>_apply`
-- takes the events as an array. Both are generated (sql/routes/trigger.sql, apply.sql), run as the route's role (security definer), and
-- reach the tables below only through the functions of this file.

-- `state`: `live`; `suspended`: the ranges of new events are kept in route_deferred until they are caught up; `disabled`: events pass;
-- `removed`: as disabled, until the trigger can be dropped. `whole`: the select aggregates, so a batch is taken or refused as a whole.
-- `backfill_until` is the highest id that was in requests when the trigger was made; null: no backfill is open. `backfill_at` is the position
-- of the backfill: events up to it are done.
create table {schema}.event_routes (
    id integer generated always as identity primary key,
    name text collate "C" not null unique,
    target_schema text not null,
    target_table text not null,
    statement text not null,
    target_columns text[] not null,
    key_columns text[] not null,
    on_conflict text,
    run_as text not null,
    strict boolean not null,
    serial boolean not null,
    whole boolean not null,
    state text not null check (state in ('live', 'suspended', 'disabled', 'removed')),
    suspended_at timestamptz,
    sqlstate text,
    error text,
    was_live boolean not null,
    backfill_until uuid,
    backfill_at uuid,
    backfill_wanted boolean not null default false,
    backfilled bigint not null default 0,
    version bigint not null default 1,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

-- Events that are in requests, and that a route could not take.
create table {schema}.route_errors (
    route integer not null references {schema}.event_routes on delete cascade,
    event_id uuid not null,
    sqlstate text not null,
    message text not null,
    attempts integer not null,
    failed_at timestamptz not null,
    primary key (route, event_id)
);
create index route_errors_failed_at on {schema}.route_errors (failed_at, event_id, route);
create index route_errors_event on {schema}.route_errors (event_id);

-- Events that a suspended route has still to take: sequences of a journal, with the lowest and the highest id.
create table {schema}.route_deferred (
    id bigint generated always as identity primary key,
    route integer not null references {schema}.event_routes on delete cascade,
    tag bytea not null,
    first bigint not null,
    last bigint not null,
    low uuid not null,
    high uuid not null,
    events bigint not null
);
create index route_deferred_low on {schema}.route_deferred (route, low);

-- While a backfill is open: events up to `backfill_until` that were stored later, and so came through the trigger.
create table {schema}.route_passed (
    route integer not null references {schema}.event_routes on delete cascade,
    tag bytea not null,
    first bigint not null,
    last bigint not null,
    low uuid not null,
    high uuid not null
);
create index route_passed_high on {schema}.route_passed (route, high);

-- What each batch of a route did: a row a batch, so that batches do not wait for each other. The service adds them up.
create table {schema}.route_counts (
    route integer not null references {schema}.event_routes on delete cascade,
    rows bigint not null,
    errors bigint not null,
    microseconds bigint not null,
    batches bigint not null
);
create index route_counts_route on {schema}.route_counts (route);

-- Without keys, and rows are deleted: a publication for all tables takes them so.
alter table {schema}.route_passed replica identity full;
alter table {schema}.route_counts replica identity full;

-- The advisory lock of a route: its batches hold it shared, and whoever makes it live again alone.
create function {schema}.tidegate_route_lock(route integer) returns bigint
    language sql immutable set search_path = pg_catalog, pg_temp
    as $$ select hashtextextended('tidegate route {schema} ' || route, 0) $$;
revoke all on function {schema}.tidegate_route_lock(integer) from public;

-- The beginning of a batch: its state holds until the end of the transaction. A serial route is alone with its target.
create function {schema}.tidegate_route_begin(route integer, serial_target text, out state text, out backfill_until uuid)
    language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '10s'
    as $$
begin
    perform pg_advisory_xact_lock_shared({schema}.tidegate_route_lock(route));
    if serial_target is not null then
        perform pg_advisory_xact_lock(hashtextextended('tidegate target ' || serial_target, 0));
    end if;
    select r.state, r.backfill_until into state, backfill_until from {schema}.event_routes r where r.id = route;
end
$$;
revoke all on function {schema}.tidegate_route_begin(integer, text) from public;

-- Records the events that a route refused. An event that is refused again counts an attempt.
create function {schema}.tidegate_route_refuse(route integer, ids uuid[], states text[], messages text[]) returns void
    language sql security definer set search_path = pg_catalog, pg_temp
    as $$
    insert into {schema}.route_errors as known (route, event_id, sqlstate, message, attempts, failed_at)
    select route, refused.id, refused.state, left(refused.message, 1000), 1, now()
    from unnest(ids, states, messages) as refused (id, state, message)
    on conflict on constraint route_errors_pkey do update
    set sqlstate = excluded.sqlstate, message = excluded.message, attempts = known.attempts + 1, failed_at = excluded.failed_at
$$;
revoke all on function {schema}.tidegate_route_refuse(integer, uuid[], text[], text[]) from public;

-- The end of a batch: its counts and its refused events.
create function {schema}.tidegate_route_end(
    route integer, rows bigint, microseconds bigint, ids uuid[], states text[], messages text[]
) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp
    as $$
declare
    refused bigint := coalesce(cardinality(ids), 0);
begin
    if refused > 0 then
        perform {schema}.tidegate_route_refuse(route, ids, states, messages);
    end if;
    insert into {schema}.route_counts (route, rows, errors, microseconds, batches) values (route, rows, refused, microseconds, 1);
end
$$;
revoke all on function {schema}.tidegate_route_end(integer, bigint, bigint, uuid[], text[], text[]) from public;

-- Suspends a route for an error that no row is at fault for. Of two batches that fail, one does; the other does not wait for it.
create function {schema}.tidegate_route_suspend(route integer, state text, message text) returns void
    language sql security definer set search_path = pg_catalog, pg_temp
    as $$
    update {schema}.event_routes r
    set state = 'suspended', suspended_at = clock_timestamp(), sqlstate = tidegate_route_suspend.state, error = left(message, 1000)
    where r.id in (
        select one.id from {schema}.event_routes one
        where one.id = route and one.state = 'live' for no key update skip locked
    )
$$;
revoke all on function {schema}.tidegate_route_suspend(integer, text, text) from public;

-- The sequences of events, as ranges without gaps.
create function {schema}.tidegate_route_ranges(ids uuid[])
    returns table (tag bytea, first bigint, last bigint, low uuid, high uuid, events bigint)
    language sql immutable set search_path = pg_catalog, pg_temp
    as $$
    select tag, min(sequence), max(sequence), min(id::text)::uuid, max(id::text)::uuid, count(*)
    from (
        select id, tag, sequence, sequence - row_number() over (partition by tag order by sequence) as island
        from (
            select id, {schema}.ingest_tag(id) as tag, {schema}.ingest_sequence(id) as sequence from unnest(ids) as event (id)
        ) as events
    ) as islands
    group by tag, island
$$;
revoke all on function {schema}.tidegate_route_ranges(uuid[]) from public;

-- Keeps events for later, in the transaction that stores them.
create function {schema}.tidegate_route_defer(route integer, ids uuid[]) returns void
    language sql security definer set search_path = pg_catalog, pg_temp
    as $$
    insert into {schema}.route_deferred (route, tag, first, last, low, high, events)
    select route, tag, first, last, low, high, events from {schema}.tidegate_route_ranges(ids)
$$;
revoke all on function {schema}.tidegate_route_defer(integer, uuid[]) from public;

-- Keeps an open backfill from events that came through the trigger.
create function {schema}.tidegate_route_pass(route integer, ids uuid[]) returns void
    language sql security definer set search_path = pg_catalog, pg_temp
    as $$
    insert into {schema}.route_passed (route, tag, first, last, low, high)
    select route, tag, first, last, low, high from {schema}.tidegate_route_ranges(ids)
$$;
revoke all on function {schema}.tidegate_route_pass(integer, uuid[]) from public;

-- As before, with the tables of routes.
create or replace function {schema}.tidegate_watch_own_tables() returns text[]
language sql immutable set search_path = pg_catalog, pg_temp as $$
    select regexp_split_to_array(
        'api_keys, auth_revocations, auth_tickets, changes, client_messages, client_nodes, collections, conversations, dead_letters,
        event_routes, feed_floor, feed_positions, feed_readers, file_store, files, import_parts, import_rejected, imports, ingest_duplicates,
        ingest_journals, ingest_keys, ingest_lanes, ingest_partitions, ingest_receipts, ingest_removed, large_payload_parts,
        large_payloads, message_drafts, message_keys, message_pieces, messages, requests, route_counts, route_deferred,
        route_errors, route_passed, search_documents, search_rebuild,
        sessions, tidegate_choices, tidegate_migrations, tidegate_table_sets, users, watched_tables', '[,[:space:]]+')
$$;
