select backfill_at, backfill_until from {schema}.event_routes where id = $1
