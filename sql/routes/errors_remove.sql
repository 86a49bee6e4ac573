delete from {schema}.route_errors where route = $1 and event_id = any($2)
