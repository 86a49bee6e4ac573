-- Runs a route over stored events, and records what it did.
select done.written, coalesce(cardinality(done.ids), 0)::bigint as refused, coalesce(done.ids, '{}') as ids,
    {schema}.tidegate_route_end({id}, done.written, (extract(epoch from clock_timestamp() - now()) * 1000000)::bigint,
        done.ids, done.states, done.messages) is null as recorded
from {schema}.{function}_apply((
    select array_agg(one order by one.id) from {schema}.requests one where one.id = any($1)
)) as done
