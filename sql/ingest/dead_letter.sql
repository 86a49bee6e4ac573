-- One dead letter, with all columns.
select id, trace_id, reason, error, attempts, content_type,
    to_char(received_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as received_at,
    to_char(failed_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as failed_at,
    (extract(epoch from failed_at) * 1000000)::bigint as failed_at_us,
    coalesce(octet_length(body), octet_length(payload::text), 0)::bigint as bytes,
    hashtextextended(coalesce(encode(body, 'base64'), payload::text, ''), 0) as version,
    payload::text as payload, body
from {schema}.dead_letters
where id = $1
