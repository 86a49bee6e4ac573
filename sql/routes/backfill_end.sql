with done as (
    update {schema}.event_routes set backfill_until = null, sqlstate = null, error = null where id = $1 and state <> 'disabled' returning id
)
delete from {schema}.route_passed using done where route = done.id
