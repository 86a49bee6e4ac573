-- The server that answers: its start, its system identifier and the time line of its write-ahead log. A standby has no such line yet.
select (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint as started_us,
    (select system_identifier from pg_control_system()) as system,
    substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) as timeline
