-- Streams in SQL: a view of their messages, and appends in the transactions of users.

-- Bytes as text; null where they are no UTF-8, or have a zero, which text cannot hold.
create function {schema}.tidegate_stream_text(bytes bytea) returns text
language plpgsql immutable strict as $$
begin
    return pg_catalog.convert_from(bytes, 'UTF8');
exception when character_not_in_repertoire then
    return null;
end
$$;

-- A JSON message as jsonb; null where that cannot hold it: \u0000, lone surrogates, huge numbers, deep nesting.
create function {schema}.tidegate_stream_json(message text) returns jsonb
language plpgsql immutable strict as $$
begin
    return message::pg_catalog.jsonb;
exception when data_exception or program_limit_exceeded then
    return null;
end
$$;

-- The messages of living streams: of JSON its messages, of other types its appends. A fork has those that it inherits too. `offset` is the
-- position at which a message begins, as the protocol writes it. `message` is null where it is no text. `at` is the time of its append.
create view {schema}.streams_messages as
select s.path, '0000000000000000_' || lpad(content.first::text, 16, '0') as "offset", content.message,
    case when s.is_json then {schema}.tidegate_stream_json(content.message) end as json, content.at
from (
    select id, path, tail, kept_from, source, fork_end, lower(split_part(content_type, ';', 1)) ~ '^\s*application/json\s*$' as is_json
    from {schema}.streams
    where state = 0 and (expires_at is null or expires_at > statement_timestamp())
) as s
cross join lateral (
    -- The stream, and those that it was forked from, each with the range of offsets that it has of them.
    with recursive part as (
        select s.id, s.source, coalesce(s.fork_end, 0) as first, s.tail as next
        union all
        select above.id, above.source, coalesce(above.fork_end, 0), least(part.first, part.next)
        from part join {schema}.streams above on above.id = part.source
    )
    select id, greatest(first, s.kept_from) as first, next from part
) as part
cross join lateral (
    select c.first, c.at, c.append_ends, c.append_times, c.byte_ends,
        coalesce(case when s.is_json then c.message_ends end, c.append_ends, array[(c.next - c.first)::integer]) as ends,
        -- Read once, and not for each message.
        c.bytes || ''::bytea as bytes
    from {schema}.stream_chunks c
    where c.stream = part.id and c.next > part.first and c.first < part.next
    offset 0
) as chunk
cross join lateral (
    select chunk.first + place.first as first,
        coalesce(chunk.append_times[width_bucket(place.next - 1, chunk.append_ends) + 1], chunk.at) as at,
        -- Of the last append that a fork shares it may have a part.
        {schema}.tidegate_stream_text(substring(
            chunk.bytes from place.byte + 1
            for (least(chunk.first + place.next, part.next) - chunk.first)::integer - place.first - case when s.is_json then 1 else 0 end
        )) as message
    from (
        -- Where messages were removed, one begins behind the end of the one before.
        select ends.next - coalesce(ends.byte_end, ends.next) + coalesce(lag(coalesce(ends.byte_end, ends.next)) over (order by ends.place), 0) as first,
            coalesce(lag(coalesce(ends.byte_end, ends.next)) over (order by ends.place), 0) as byte, ends.next
        from unnest(chunk.ends, chunk.byte_ends) with ordinality as ends (next, byte_end, place)
    ) as place
    where chunk.first + place.first >= part.first and chunk.first + place.first < part.next
) as content;

-- Appends of users' transactions, which the service moves into their streams. A row that it cannot move has the reason in `error`; without that
-- it is tried again.
create table {schema}.stream_inbox (
    id bigint generated always as identity primary key,
    path text collate "C" not null,
    data bytea not null,
    is_json boolean not null,
    at timestamptz not null default now(),
    error text,
    failed_at timestamptz
) with (autovacuum_vacuum_scale_factor = 0.05);
create index stream_inbox_waiting on {schema}.stream_inbox (id) where error is null;
create index stream_inbox_failed on {schema}.stream_inbox (id) where error is not null;
alter table {schema}.stream_inbox alter column data set storage external;

-- Checks an append, and puts it into the inbox.
create function {schema}.tidegate_append_row(path text, data bytea, is_json boolean) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if path is null or octet_length(path) not between 1 and 1024 then
        raise exception 'tidegate_append: a path has 1 to 1,024 bytes' using errcode = 'invalid_parameter_value';
    end if;
    if data is null or octet_length(data) not between 1 and 33554432 then
        raise exception 'tidegate_append: an append has 1 byte to 32 MiB' using errcode = 'invalid_parameter_value';
    end if;
    insert into {schema}.stream_inbox (path, data, is_json) values (path, data, is_json);
end
$$;
revoke all on function {schema}.tidegate_append_row(text, bytea, boolean) from public;

-- Appends bytes to a stream once the caller's transaction has committed, as a request with this body does.
create function {schema}.tidegate_append(path text, data bytea) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform {schema}.tidegate_append_row(path, data, false);
end
$$;
revoke all on function {schema}.tidegate_append(text, bytea) from public;

-- Appends JSON to a stream of JSON once the caller's transaction has committed; the elements of an array as a message each.
create function {schema}.tidegate_append(path text, data jsonb) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if data = '[]' then
        raise exception 'tidegate_append: an append has at least one message' using errcode = 'invalid_parameter_value';
    end if;
    perform {schema}.tidegate_append_row(path, convert_to(data::text, 'UTF8'), true);
end
$$;
revoke all on function {schema}.tidegate_append(text, jsonb) from public;

-- As before, with the inbox of streams.
create or replace function {schema}.tidegate_watch_own_tables() returns text[]
language sql immutable set search_path = pg_catalog, pg_temp as $$
    select regexp_split_to_array(
        'api_keys, auth_revocations, auth_tickets, changes, client_messages, client_nodes, collections, conversations, dead_letters,
        event_routes, feed_floor, feed_positions, feed_readers, file_store, files, import_parts, import_rejected, imports,
        ingest_duplicates, ingest_journals, ingest_keys, ingest_lanes, ingest_partitions, ingest_receipts, ingest_removed,
        large_payload_parts, large_payloads, message_drafts, message_keys, message_pieces, messages, requests, route_counts,
        route_deferred, route_errors, route_passed, search_documents, search_rebuild, sessions, stream_chunks, stream_inbox,
        stream_producers, stream_secrets, stream_subscription_links, stream_subscriptions, streams, tidegate_choices,
        tidegate_migrations, tidegate_table_sets, users, watched_tables', '[,[:space:]]+')
$$;
