-- The changes of given transactions, numbers and places ($1 to $3), in order, up to the one that exceeds $4 bytes. At least one row, for
-- `snapshot`, the floor and the server's start.
with page as (
    select * from unnest($1::text[]::xid8[], $2::bigint[], $3::bigint[]) as page (xid, number, last)
), {sized}
select pg_current_snapshot()::text as snapshot,
    (select seen from {schema}.feed_floor) as floor,
    (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint as started_us,
    sized.xid::text, number, last, topic, record, action, keys, data, old, created_us, updated_us, at_us
from (select) as once
left join sized on sum - bytes <= $4
order by last, number
