-- The changes of given transactions, numbers and places ($1 to $3), in order, up to the one that exceeds $4 bytes. At least one row, for
-- `snapshot`, the floor and the server's start.
with page as (
    select * from unnest($1::text[]::xid8[], $2::bigint[], $3::bigint[]) with ordinality as page (xid, number, last, nth)
), sized as (
    select c.xid, c.number, page.last, page.nth, topic, record, action, keys, c.data::text as data,
        c.old::text as old,
        (extract(epoch from created) * 1000000)::bigint as created_us,
        (extract(epoch from updated) * 1000000)::bigint as updated_us,
        (extract(epoch from at) * 1000000)::bigint as at_us,
        octet_length(c.data::text) + coalesce(octet_length(c.old::text), 0) as bytes,
        sum(octet_length(c.data::text) + coalesce(octet_length(c.old::text), 0)) over (order by page.nth) as sum
    from page
    join {schema}.changes c on c.xid = page.xid and c.number = page.number
)
select pg_current_snapshot()::text as snapshot,
    (select seen from {schema}.feed_floor) as floor,
    (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint as started_us,
    sized.xid::text, number, last, topic, record, action, keys, data, old, created_us, updated_us, at_us
from (select) as once
left join sized on sum - bytes <= $4
order by nth
