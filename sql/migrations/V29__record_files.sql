-- Files of records: the contents that fields of typed collections name. The names are in the records; here are their contents, which are in
-- DATA_DIR/files by their SHA-256, as those of `files` are. `collection` is the collection's number, `record` the record's id.
create table {schema}.record_files (
    collection integer not null,
    record text collate "C" not null,
    name text collate "C" not null,
    sha256 bytea not null check (length(sha256) = 32),
    size bigint not null check (size >= 0),
    -- Of the content, by its first bytes.
    mime_type text not null,
    uploaded_at timestamptz not null default now(),
    primary key (collection, record, name)
);
-- Whether a content is any record's still.
create index record_files_sha256 on {schema}.record_files (sha256);

-- As before, with the files of records.
create or replace function {schema}.tidegate_watch_own_tables() returns text[]
language sql immutable set search_path = pg_catalog, pg_temp as $$
    select regexp_split_to_array(
        'api_keys, app_settings, auth_revocations, auth_tickets, changes, client_messages, client_nodes, client_positions, collections,
        conversations, dead_letters, event_routes, feed_floor, feed_positions, feed_readers, file_store, files, import_parts, import_rejected,
        imports, ingest_duplicates, ingest_journals, ingest_keys, ingest_lanes, ingest_partitions, ingest_receipts, ingest_removed,
        large_payload_parts, large_payloads, message_drafts, message_keys, message_pieces, messages, record_files, requests, route_counts,
        route_deferred, route_errors, route_passed, search_documents, search_rebuild, sessions, stream_chunks, stream_inbox, stream_producers,
        stream_secrets, stream_subscription_links, stream_subscriptions, streams, tidegate_choices, tidegate_migrations, tidegate_table_sets,
        users, watched_tables', '[,[:space:]]+')
$$;
