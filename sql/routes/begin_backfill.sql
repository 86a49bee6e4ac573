-- Under the lock of requests: everything up to the highest id now is older than the trigger. With a key, new events wait until the older ones
-- are done, as the newest has to win.
update {schema}.event_routes
set state = case when cardinality(key_columns) > 0 then 'suspended' else 'live' end, suspended_at = null, sqlstate = null, error = null,
    was_live = true, backfill_wanted = true, version = version + 1, updated_at = now(),
    backfill_until = (select id from {schema}.requests order by id desc limit 1),
    backfill_at = '00000000-0000-0000-0000-000000000000'
where id = $1
