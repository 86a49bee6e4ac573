delete from {schema}.event_routes where id = $1
