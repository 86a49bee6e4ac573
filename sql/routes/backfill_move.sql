update {schema}.event_routes set backfill_at = $2, backfilled = backfilled + $3 where id = $1
