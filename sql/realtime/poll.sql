-- A page of the changes that a snapshot sees and an older one did not, in the order of their places. $1 to $3 as for placed.sql; `snapshot`
-- returns this statement's. $4 and $5: the place behind which the page begins. Up to $6 changes, and up to the one that exceeds $7 bytes. At
-- least one row, for `snapshot`, the floor and the server's start; `found` counts up to the limit, which reports whether there may be more.
with {placed}, page as (
    select * from placed where (last, number) > ($4, $5) order by last, number limit $6
), {sized}
select pg_current_snapshot()::text as snapshot,
    (select xid::text from visible order by visible.xid desc limit 1) as highest,
    (select seen from {schema}.feed_floor) as floor,
    (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint as started_us,
    sized.xid::text, number, last, topic, record, action, keys, data, old, created_us, updated_us, at_us, found
from (select) as once
left join sized on sum - bytes <= $7
order by last, number
