-- Takes ranges of a route from its list, the oldest first, until they have $2 events. The transaction routes them, or puts them back.
with next as (
    select id, sum(events) over (order by low, id) - events as before
    from (select id, low, events from {schema}.route_deferred where route = $1 order by low, id limit 1000) oldest
), taken as (
    delete from {schema}.route_deferred d using next where d.id = next.id and next.before < $2
    returning d.tag, d.first, d.last, d.low, d.high
)
select requests.id, coalesce(octet_length(requests.body), 0)::bigint + 4 * coalesce(pg_column_size(requests.payload), 0)::bigint as bytes
from taken
join {schema}.requests requests
    on requests.id between taken.low and taken.high
    and {schema}.ingest_tag(requests.id) = taken.tag
    and {schema}.ingest_sequence(requests.id) between taken.first and taken.last
order by requests.id
