-- Those of the next $3 changes that need indexing, in order. One row is always returned: it names the last change that was read.
with lot as (
    select xid, number, topic, record, action, data
    from {schema}.changes
    where (xid, number) > ($1::text::xid8, $2) and xid < pg_snapshot_xmin(pg_current_snapshot())
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
    pg_snapshot_xmin(pg_current_snapshot())::text as horizon,
    wanted.xid::text, wanted.number, conversation_id, id, first, last,
    -- An import without a count may fill a batch.
    coalesce(count, 9223372036854775807) as count
from (select) as once
left join wanted on true
order by wanted.xid, wanted.number
