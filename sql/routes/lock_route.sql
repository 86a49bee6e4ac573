-- Waits for the batches of a route that are under way, and keeps others waiting. Then the ranges that they deferred can be seen.
select pg_advisory_xact_lock({schema}.tidegate_route_lock($1))
