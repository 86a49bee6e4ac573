-- Renews the TTL of streams ($1) that were read so many microseconds ago ($2), before they ended. One that is locked is written, which renews it too, or is
-- renewed next time. Returns those that were renewed.
with renewed as materialized (
    select s.id, wanted.ago
    from unnest($1::bigint[], $2::bigint[]) as wanted (id, ago)
    join {schema}.streams s on s.id = wanted.id
    where s.state = 0 and s.ttl_s is not null and s.expires_at > now() - wanted.ago * interval '1 microsecond'
    order by s.id
    for no key update of s skip locked
)
update {schema}.streams s
set expires_at = greatest(s.expires_at, now() - renewed.ago * interval '1 microsecond' + s.ttl_s * interval '1 second')
from renewed
where s.id = renewed.id
returning s.id
