-- The secrets, and the time.
select now.us as now_us, s.id, s.kind, s.secret, (extract(epoch from s.since) * 1000000)::bigint as since_us
from (select (extract(epoch from clock_timestamp()) * 1000000)::bigint as us) as now
left join {schema}.stream_secrets s on true
