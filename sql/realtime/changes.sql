-- A page of changes after the cursor ($1, $2): up to $3 of them, and up to the one that exceeds $4 bytes. Nothing is ever added
-- before `horizon`. `is_gone` reports whether changes after the cursor were deleted. At least one row, for these two;
-- `found` counts up to the limit, which reports whether there may be more. {topic} is a fixed condition on $5.
select pg_snapshot_xmin(pg_current_snapshot())::text as horizon,
    exists (select from {schema}.feed_floor f where (f.xid, f.number) > ($1::text::xid8, $2)) as is_gone,
    lot.*
from (select) as once
left join lateral (
    with page as (
        select xid, number, topic, record, action, data::text as data,
            (extract(epoch from created) * 1000000)::bigint as created_us,
            (extract(epoch from updated) * 1000000)::bigint as updated_us,
            (extract(epoch from at) * 1000000)::bigint as at_us
        from {schema}.changes
        where (xid, number) > ($1::text::xid8, $2) and xid < pg_snapshot_xmin(pg_current_snapshot()) and {topic}
        order by xid, number
        limit $3
    ), sized as (
        select *, count(*) over () as found, octet_length(data) as bytes,
            sum(octet_length(data)) over (order by xid, number) as sum
        from page
    )
    select xid::text, number, topic, record, action, data, created_us, updated_us, at_us, found
    from sized
    where sum - bytes <= $4
) as lot on true
order by lot.xid::xid8, lot.number
