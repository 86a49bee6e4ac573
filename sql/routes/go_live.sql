-- Under the lock of the route, when nothing is deferred. $2: events were routed before. A route that was too slow for a batch has to show that it
-- is not, or to wait until the batch is repeated: it is deferred then.
update {schema}.event_routes
set state = 'live', was_live = true
where id = $1 and state = 'suspended' and not exists (select from {schema}.route_deferred where route = $1)
    and ($2 or sqlstate is distinct from '57014' or suspended_at < clock_timestamp() - interval '2 minutes')
returning id
