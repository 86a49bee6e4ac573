-- The server settings that the promises depend on.
select current_setting('server_version') as version,
    current_setting('server_encoding') as encoding,
    current_setting('fsync') as fsync,
    current_setting('full_page_writes') as full_page_writes,
    current_setting('synchronous_commit') as synchronous_commit,
    current_setting('default_transaction_read_only') as read_only,
    pg_is_in_recovery() as in_recovery,
    current_setting('max_connections')::int as max_connections,
    (extract(epoch from clock_timestamp()) * 1000)::bigint as now_ms
