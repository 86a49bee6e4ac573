-- The number of a route's deferred events, about, and whether it is suspended or has any.
select coalesce(sum(events), 0)::bigint from (
    select events from {schema}.route_deferred where route = $1 order by low, id limit 1000
) next
