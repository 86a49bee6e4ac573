-- The error for which a route stays suspended, or becomes so.
update {schema}.event_routes
set sqlstate = $2, error = left($3, 1000), suspended_at = case when state = 'live' then clock_timestamp() else suspended_at end, state = 'suspended'
where id = $1 and state in ('live', 'suspended')
