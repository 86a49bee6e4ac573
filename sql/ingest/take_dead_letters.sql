-- Concurrent redrives take other rows.
select id, trace_id, convert_to(payload::text, 'UTF8') as payload, body, content_type,
    (extract(epoch from received_at) * 1000000)::bigint as received_at_us, reason
from {schema}.dead_letters
where id = any($1)
order by id
for update skip locked
