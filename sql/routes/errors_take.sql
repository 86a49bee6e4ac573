-- The next refused events of a route ($1), behind an id, and their sizes; null: the event is no longer there. Other redrives take others.
with taken as (
    select event_id from {schema}.route_errors
    where route = $1 and event_id > $2 and ($3::uuid[] is null or event_id = any($3)) and ($4::text is null or sqlstate = $4)
    order by event_id limit $5 for update skip locked
)
select taken.event_id,
    case when requests.id is not null then
        coalesce(octet_length(requests.body), 0)::bigint + 4 * coalesce(pg_column_size(requests.payload), 0)::bigint
    end as bytes
from taken left join {schema}.requests requests on requests.id = taken.event_id
order by taken.event_id
