-- Of two events with one key the first is stored. In the order of the keys, so that two batches with the same keys do not deadlock.
-- A key that is older than the window by both clocks, this server's and the service's ($4), counts as gone.
insert into {schema}.ingest_keys (key, id, seen_at)
select key, id, now() from unnest($1::uuid[], $2::uuid[]) as claimed (key, id) order by key
on conflict (key) do update set id = excluded.id, seen_at = excluded.seen_at
where ingest_keys.seen_at < least(now(), $4) - make_interval(secs => $3)
returning key
