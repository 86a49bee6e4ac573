-- Under the lock of the route, when nothing is deferred.
update {schema}.event_routes
set state = 'live', was_live = true
where id = $1 and state = 'suspended' and not exists (select from {schema}.route_deferred where route = $1)
returning id
