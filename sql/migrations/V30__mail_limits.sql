-- The last mail of a kind to an address: its hash, of unknown addresses too, so that these are answered alike.
create table {schema}.mail_limits (
    key bytea primary key,
    sent_at timestamptz not null
);
create index mail_limits_sent_at on {schema}.mail_limits (sent_at);

-- As before, with the limits of mails.
create or replace function {schema}.tidegate_watch_own_tables() returns text[]
language sql immutable set search_path = pg_catalog, pg_temp as $$
    select regexp_split_to_array(
        'api_keys, app_settings, auth_revocations, auth_tickets, changes, client_messages, client_nodes, client_positions, collections, conversations,
        dead_letters, event_routes, feed_floor, feed_positions, feed_readers, file_store, files, import_parts, import_rejected, imports,
        ingest_duplicates, ingest_journals, ingest_keys, ingest_lanes, ingest_partitions, ingest_receipts, ingest_removed,
        large_payload_parts, large_payloads, mail_limits, message_drafts, message_keys, message_pieces, messages, record_files, requests, route_counts,
        route_deferred, route_errors, route_passed, search_documents, search_rebuild, sessions, stream_chunks, stream_inbox,
        stream_producers, stream_secrets, stream_subscription_links, stream_subscriptions, streams, tidegate_choices,
        tidegate_migrations, tidegate_table_sets, users, watched_tables', '[,[:space:]]+')
$$;
