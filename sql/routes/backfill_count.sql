-- The events that a backfill has still to read.
select count(*) from {schema}.requests join {schema}.event_routes r on requests.id > r.backfill_at and requests.id <= r.backfill_until where r.id = $1
