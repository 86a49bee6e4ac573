-- The next dead letters to redrive, in the order of their ids, each with its size. Overloads were never accepted, so they are selected only
-- by name.
select id, coalesce(octet_length(body), octet_length(payload::text), 0)::bigint as bytes
from {schema}.dead_letters
where id > $1
  and ($2::uuid[] is null or id = any($2))
  and (reason = $3 or ($3::text is null and (reason <> 'overload' or $2::uuid[] is not null)))
  and ($4::bigint is null or failed_at >= timestamptz 'epoch' + $4 * interval '1 microsecond')
  and ($5::bigint is null or failed_at < timestamptz 'epoch' + $5 * interval '1 microsecond')
order by id
limit $6
