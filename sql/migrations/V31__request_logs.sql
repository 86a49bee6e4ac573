-- The log of requests to typed collections, which superusers read. Each node adds rows in the background.
create table {schema}.request_logs (
    id text collate "C" primary key,
    created timestamptz not null,
    -- 0: information, 8: an error.
    level integer not null,
    -- The method and the URL.
    message text not null,
    -- status, execTime in milliseconds, url, method, referer, userAgent, auth, userIP, remoteIP, error, details.
    data jsonb not null
);
create index request_logs_created on {schema}.request_logs (created, id);

-- As before, with the log of requests.
create or replace function {schema}.tidegate_watch_own_tables() returns text[]
language sql immutable set search_path = pg_catalog, pg_temp as $$
    select regexp_split_to_array(
        'api_keys, app_settings, auth_revocations, auth_tickets, changes, client_messages, client_nodes, client_positions, collections, conversations,
        dead_letters, event_routes, feed_floor, feed_positions, feed_readers, file_store, files, import_parts, import_rejected, imports,
        ingest_duplicates, ingest_journals, ingest_keys, ingest_lanes, ingest_partitions, ingest_receipts, ingest_removed,
        large_payload_parts, large_payloads, mail_limits, message_drafts, message_keys, message_pieces, messages, record_files, request_logs, requests,
        route_counts, route_deferred, route_errors, route_passed, search_documents, search_rebuild, sessions, stream_chunks, stream_inbox,
        stream_producers, stream_secrets, stream_subscription_links, stream_subscriptions, streams, tidegate_choices,
        tidegate_migrations, tidegate_table_sets, users, watched_tables', '[,[:space:]]+')
$$;
