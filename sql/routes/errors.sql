-- A page of the events that routes refused, newest first. The cursor is the last one of the previous page.
select e.event_id, e.route, r.name, e.sqlstate, e.message, e.attempts, coalesce(requests.trace_id, '') as trace_id, requests.content_type,
    to_char(coalesce(requests.received_at, e.failed_at) at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as received_at,
    to_char(e.failed_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as failed_at,
    (extract(epoch from e.failed_at) * 1000000)::bigint as failed_at_us,
    coalesce(octet_length(requests.body), octet_length(requests.payload::text), 0)::bigint as bytes
from (
    select * from {schema}.route_errors e
    where ($1::text is null or e.route = (select id from {schema}.event_routes where name = $1))
        and ($2::text is null or e.sqlstate = $2)
        and ($3::bigint is null or e.failed_at >= timestamptz 'epoch' + $3 * interval '1 microsecond')
        and ($4::bigint is null or e.failed_at < timestamptz 'epoch' + $4 * interval '1 microsecond')
        and ($5::bigint is null
            or (e.failed_at, e.event_id, e.route) < (timestamptz 'epoch' + $5 * interval '1 microsecond', $6::uuid, $7::integer))
    order by e.failed_at desc, e.event_id desc, e.route desc
    limit $8
) e
join {schema}.event_routes r on r.id = e.route
left join {schema}.requests requests on requests.id = e.event_id
order by e.failed_at desc, e.event_id desc, e.route desc
