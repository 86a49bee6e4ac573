-- The newest error of an event, with its content.
select e.event_id, e.route, r.name, e.sqlstate, e.message, e.attempts, coalesce(requests.trace_id, '') as trace_id, requests.content_type,
    to_char(coalesce(requests.received_at, e.failed_at) at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as received_at,
    to_char(e.failed_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as failed_at,
    (extract(epoch from e.failed_at) * 1000000)::bigint as failed_at_us,
    coalesce(octet_length(requests.body), octet_length(requests.payload::text), 0)::bigint as bytes,
    requests.payload::text as payload, requests.body,
    hashtextextended(coalesce(encode(requests.body, 'base64'), requests.payload::text, ''), 0) as version
from {schema}.route_errors e
join {schema}.event_routes r on r.id = e.route
left join {schema}.requests requests on requests.id = e.event_id
where e.event_id = $1
order by e.failed_at desc, e.route desc
limit 1
