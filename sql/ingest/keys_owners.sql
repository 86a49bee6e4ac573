-- Which event each key was taken by.
select key, id from {schema}.ingest_keys where key = any($1)
