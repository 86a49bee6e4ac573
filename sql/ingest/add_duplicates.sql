-- Skipped events, each with the event that was stored in its place.
insert into {schema}.ingest_duplicates (id, first_id, seen_at)
select id, first_id, now() from unnest($1::uuid[], $2::uuid[]) as duplicate (id, first_id)
on conflict (id) do nothing
