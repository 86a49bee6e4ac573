-- The event that holds each key.
select key, id from {schema}.ingest_keys where key = any($1)
