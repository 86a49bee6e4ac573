-- Positions in the feed of clients that cannot keep one themselves: under a name that the client chose, for its identity alone.
create table {schema}.client_positions (
    identity text not null,
    name uuid not null,
    -- Bounds the number of rows: the identity, or the address of a guest.
    owner text not null,
    -- The connection that keeps it. Others that kept it before do not write any more.
    holder text not null,
    position text not null,
    -- Whether that connection is open, as far as is known.
    is_open boolean not null default true,
    -- The last time at which a connection renewed it.
    at timestamptz not null default now(),
    primary key (identity, name)
) with (fillfactor = 70);

create index client_positions_owner on {schema}.client_positions (owner);

-- As before, with the positions of clients.
create or replace function {schema}.tidegate_watch_own_tables() returns text[]
language sql immutable set search_path = pg_catalog, pg_temp as $$
    select regexp_split_to_array(
        'api_keys, app_settings, auth_revocations, auth_tickets, changes, client_messages, client_nodes, client_positions, collections, conversations,
        dead_letters, event_routes, feed_floor, feed_positions, feed_readers, file_store, files, import_parts, import_rejected, imports,
        ingest_duplicates, ingest_journals, ingest_keys, ingest_lanes, ingest_partitions, ingest_receipts, ingest_removed,
        large_payload_parts, large_payloads, message_drafts, message_keys, message_pieces, messages, requests, route_counts,
        route_deferred, route_errors, route_passed, search_documents, search_rebuild, sessions, stream_chunks, stream_inbox,
        stream_producers, stream_secrets, stream_subscription_links, stream_subscriptions, streams, tidegate_choices,
        tidegate_migrations, tidegate_table_sets, users, watched_tables', '[,[:space:]]+')
$$;
