-- Those of the next $3 changes of a poll that need indexing, in order. $4 and $5: the transactions that the poll's base saw running, and its end.
-- $6: the end of the poll; null: this statement's snapshot. ($1, $2): the last change of the poll that was read. One row is always returned: it
-- names the last change that was read now, this statement's snapshot, and the highest transaction of which it sees a change.
with lot as (
    select * from (
        -- A transaction may have many changes: each is read from its own place on.
        select late.* from unnest($4::text[]::xid8[]) as running (xid)
        cross join lateral (
            select xid, number, topic, record, action, data
            from {schema}.changes c
            where c.xid = running.xid and (c.xid, c.number) > ($1::text::xid8, $2)
                and ($6::text is null or pg_visible_in_snapshot(c.xid, (select $6::text::pg_snapshot)))
            order by c.xid, c.number
            limit $3
        ) as late
        union all
        (
            select xid, number, topic, record, action, data
            from {schema}.changes
            where xid >= $5::text::xid8 and (xid, number) > ($1::text::xid8, $2)
                and ($6::text is null or pg_visible_in_snapshot(xid, (select $6::text::pg_snapshot)))
            order by xid, number
            limit $3
        )
    ) as poll
    order by xid, number
    limit $3
), wanted as (
    select xid, number, action, substr(topic, 14)::uuid as conversation_id,
        case when action <> 'import' then record::uuid end as id,
        case when action = 'import' then (data ->> 'first')::uuid end as first,
        case when action = 'import' then (data ->> 'last')::uuid end as last,
        case when action = 'import' then (data ->> 'count')::bigint end as count
    from lot
    where topic like 'conversation:%' and (
        action in ('update', 'import') or (action in ('create', 'append') and coalesce(data ->> 'done', 'true') = 'true')
    )
)
select (select count(*) from lot) as found,
    (select xid::text from lot order by lot.xid desc, number desc limit 1) as last_xid,
    (select number from lot order by xid desc, number desc limit 1) as last_number,
    pg_current_snapshot()::text as snapshot,
    (select xid::text from {schema}.changes order by changes.xid desc, number desc limit 1) as highest,
    wanted.xid::text, wanted.number, conversation_id, id, first, last,
    -- An import without a count may fill a batch.
    coalesce(count, 9223372036854775807) as count
from (select) as once
left join wanted on true
order by wanted.xid, wanted.number
