-- Age in seconds of the first change that is left to read, about: the earliest of those of the transactions $3, which the base saw running, and
-- of those from $4 on, behind the place ($1, $2). Null: none is left.
select extract(epoch from clock_timestamp() - min(at))::double precision as lag_s
from (
    select late.at from unnest($3::text[]::xid8[]) as running (xid)
    cross join lateral (
        select at from {schema}.changes c
        where c.xid = running.xid and (c.xid, c.number) > ($1::text::xid8, $2)
        order by c.xid, c.number
        limit 1
    ) as late
    union all
    (
        select at from {schema}.changes
        where xid >= $4::text::xid8 and (xid, number) > ($1::text::xid8, $2)
        order by xid, number
        limit 1
    )
) as first
