-- Subscriptions to streams (Durable Streams, sections 6 and 7), and the secrets by which their webhooks and tokens are verified.

-- A subscription. `number` is used once, an `id` may be made anew. `generation` counts wakes. `phase`, of the wake `wake_id`: 0 due at `due_at`,
-- 1 announced, 2 leased until `due_at`, by `holder` if a worker claimed it. Null: there is no wake under way. `failures` are failed deliveries in
-- a row, `failure` is the last one. Explicit streams are links.
create table {schema}.stream_subscriptions (
    id text collate "C" primary key,
    number bigint generated always as identity unique,
    webhook_url text,
    pattern text collate "C",
    wake_stream text collate "C",
    lease_ms bigint not null,
    description text,
    config_hash bytea not null,
    created_at timestamptz not null default now(),
    generation bigint not null default 0,
    wake_id text collate "C",
    phase smallint check (phase between 0 and 2),
    due_at timestamptz,
    holder text,
    failures integer not null default 0,
    failure text,
    check ((wake_id is null) = (phase is null))
) with (fillfactor = 70);
create index stream_subscriptions_due on {schema}.stream_subscriptions (due_at) where due_at is not null;

-- A link to a stream. `acked` is the acknowledged offset of the stream with the id `stream`: another stream at the same path begins anew. Null:
-- there was no stream yet. `is_explicit`: a request named it; else the pattern matches it.
create table {schema}.stream_subscription_links (
    subscription bigint not null references {schema}.stream_subscriptions (number) on delete cascade,
    path text collate "C" not null,
    stream bigint,
    acked bigint not null,
    is_explicit boolean not null,
    primary key (subscription, path)
) with (fillfactor = 70);
create index stream_subscription_links_path on {schema}.stream_subscription_links (path);

-- The secrets that all nodes share: keys that sign webhooks (`kind` signing; they sign from `since` on) and the secret of tokens (`kind` token).
create table {schema}.stream_secrets (
    id text collate "C" primary key,
    kind text collate "C" not null check (kind in ('signing', 'token')),
    secret bytea not null,
    since timestamptz not null default now()
);
create unique index stream_secrets_token on {schema}.stream_secrets (kind) where kind = 'token';

-- As before, with the tables of subscriptions.
create or replace function {schema}.tidegate_watch_own_tables() returns text[]
language sql immutable set search_path = pg_catalog, pg_temp as $$
    select regexp_split_to_array(
        'api_keys, auth_revocations, auth_tickets, changes, client_messages, client_nodes, collections, conversations, dead_letters,
        event_routes, feed_floor, feed_positions, feed_readers, file_store, files, import_parts, import_rejected, imports, ingest_duplicates,
        ingest_journals, ingest_keys, ingest_lanes, ingest_partitions, ingest_receipts, ingest_removed, large_payload_parts,
        large_payloads, message_drafts, message_keys, message_pieces, messages, requests, route_counts, route_deferred,
        route_errors, route_passed, search_documents, search_rebuild, sessions, stream_chunks, stream_producers, stream_secrets,
        stream_subscription_links, stream_subscriptions, streams, tidegate_choices, tidegate_migrations, tidegate_table_sets, users,
        watched_tables', '[,[:space:]]+')
$$;
