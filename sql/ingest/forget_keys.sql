-- Deletes keys and duplicates older than $1 seconds at $2.
with keys as (
    delete from {schema}.ingest_keys where seen_at < $2 - make_interval(secs => $1) returning 1
), duplicates as (
    delete from {schema}.ingest_duplicates where seen_at < $2 - make_interval(secs => $1) returning 1
)
select (select count(*) from keys) + (select count(*) from duplicates)
