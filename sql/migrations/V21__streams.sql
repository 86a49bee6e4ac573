-- Streams (Durable Streams): append-only sequences of bytes or of JSON messages.

-- A stream. `tail` is its end, in bytes of the stored form; a JSON message is stored with a comma behind it. `state`: 0 living, 1 deleted while
-- forks need it, 2 deleted, its chunks are being removed. `expires_at` ends it by Postgres' clock; a stream with a `ttl_s` moves it on.
-- `has_lifetime` does not change, so that an index on it leaves updates within their page. `seq` is the last Stream-Seq. `closed_by_…`
-- is the producer's request that closed it. A fork shares the bytes of `source` before `fork_end`; `fork_source`, `fork_offset` and
-- `fork_sub_offset` are those of its request. `kept_from` is the first offset that is kept. `generation` counts compactions.
create table {schema}.streams (
    id bigint generated always as identity primary key,
    path text collate "C" not null,
    content_type text collate "C" not null,
    tail bigint not null default 0,
    kept_from bigint not null default 0,
    is_closed boolean not null default false,
    state smallint not null default 0 check (state between 0 and 2),
    has_lifetime boolean not null default false,
    ttl_s bigint,
    expires_at timestamptz,
    created_at timestamptz not null default now(),
    seq bytea,
    closed_by_id text collate "C",
    closed_by_epoch bigint,
    closed_by_seq bigint,
    source bigint,
    fork_end bigint,
    fork_source text collate "C",
    fork_offset bigint,
    fork_sub_offset bigint,
    inherits_lifetime boolean not null default false,
    retention_age_s bigint,
    retention_bytes bigint,
    compacts_by_key boolean not null default false,
    generation integer not null default 0
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
create unique index streams_path on {schema}.streams (path) where state < 2;
create index streams_source on {schema}.streams (source) where source is not null;
create index streams_lifetimes on {schema}.streams (id) where has_lifetime and state < 2;
create index streams_deleted on {schema}.streams (id) where state = 2;

-- The bytes of streams: a row for the appends to one stream that were committed together, or for several such rows that were merged.
-- `next` is the offset behind its last byte. `append_ends` are the ends of its appends, in bytes from `first`; null: it is one append.
-- `message_ends` are those of JSON messages; null: every append is one message. `append_times` are the times of its appends; null: all
-- of them at `at`. `batch` finds the outcome of a commit whose answer was lost.
create table {schema}.stream_chunks (
    stream bigint not null,
    first bigint not null,
    next bigint not null,
    batch bigint not null,
    at timestamptz not null default now(),
    append_ends integer[],
    message_ends integer[],
    append_times timestamptz[],
    bytes bytea not null,
    primary key (stream, next)
);
-- Compression costs more than it saves for parts that are read whole.
alter table {schema}.stream_chunks alter column bytes set storage external;

-- The newest epoch of each producer of a stream, and the last sequence number accepted in it.
create table {schema}.stream_producers (
    stream bigint not null,
    producer text collate "C" not null,
    epoch bigint not null,
    seq bigint not null,
    at timestamptz not null default now(),
    primary key (stream, producer)
) with (fillfactor = 70);

-- Tables of the service, which cannot be watched. A migration that adds one replaces this function.
create or replace function {schema}.tidegate_watch_own_tables() returns text[]
language sql immutable set search_path = pg_catalog, pg_temp as $$
    select regexp_split_to_array(
        'api_keys, auth_revocations, auth_tickets, changes, client_messages, client_nodes, collections, conversations, dead_letters,
        event_routes, feed_floor, feed_positions, feed_readers, file_store, files, import_parts, import_rejected, imports, ingest_duplicates,
        ingest_journals, ingest_keys, ingest_lanes, ingest_partitions, ingest_receipts, ingest_removed, large_payload_parts,
        large_payloads, message_drafts, message_keys, message_pieces, messages, requests, route_counts, route_deferred,
        route_errors, route_passed, search_documents, search_rebuild, sessions, stream_chunks, stream_producers, streams,
        tidegate_choices, tidegate_migrations, tidegate_table_sets, users, watched_tables', '[,[:space:]]+')
$$;
