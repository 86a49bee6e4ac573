-- Drops what an interrupted build left: unused, and maintained all the same.
drop index concurrently if exists {schema}."{table}_trace_id"
