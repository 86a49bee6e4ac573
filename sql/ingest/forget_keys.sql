-- Keys, and what is known of duplicates, beyond the window.
with keys as (
    delete from {schema}.ingest_keys where seen_at < now() - make_interval(secs => $1) returning 1
), duplicates as (
    delete from {schema}.ingest_duplicates where seen_at < now() - make_interval(secs => $1) returning 1
)
select (select count(*) from keys) + (select count(*) from duplicates)
