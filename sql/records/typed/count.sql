-- The number of records for which conditions hold, and the snapshot that it was counted in.
select count(*) as total, pg_current_snapshot()::text as snapshot from {table} where {conditions}
