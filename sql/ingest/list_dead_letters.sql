-- A page, newest first. The cursor is the last row of the previous page.
select id, trace_id, reason, error, attempts, content_type,
    to_char(received_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as received_at,
    to_char(failed_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as failed_at,
    (extract(epoch from failed_at) * 1000000)::bigint as failed_at_us,
    coalesce(octet_length(body), octet_length(payload::text), 0)::bigint as bytes,
    hashtextextended(coalesce(encode(body, 'base64'), payload::text, ''), 0) as version
from {schema}.dead_letters
where ($1::text is null or reason = $1)
  and ($2::bigint is null or failed_at >= timestamptz 'epoch' + $2 * interval '1 microsecond')
  and ($3::bigint is null or failed_at < timestamptz 'epoch' + $3 * interval '1 microsecond')
  and ($4::bigint is null or (failed_at, id) < (timestamptz 'epoch' + $4 * interval '1 microsecond', $5::uuid))
order by failed_at desc, id desc
limit $6
