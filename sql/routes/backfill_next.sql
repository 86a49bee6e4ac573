-- The next events of a backfill, by id, and whether each came through the trigger. In the order of ids, nothing of it can appear behind the
-- position later that the trigger does not see.
select requests.id, coalesce(octet_length(requests.body), 0)::bigint + 4 * coalesce(pg_column_size(requests.payload), 0)::bigint as bytes,
    exists (
        select from {schema}.route_passed passed
        where passed.route = $1 and passed.low <= requests.id and passed.high >= requests.id
            and passed.tag = {schema}.ingest_tag(requests.id)
            and {schema}.ingest_sequence(requests.id) between passed.first and passed.last
    ) as has_passed
from {schema}.event_routes r
join {schema}.requests requests on requests.id > r.backfill_at and requests.id <= r.backfill_until
where r.id = $1 and r.state <> 'disabled'
order by requests.id
limit $2
