-- As count.sql, where an older snapshot has counted already: {known} is its number, which is right unless it has not seen a change of the
-- collection. {topic} is that of the collection, {older} the snapshot, {since} the first transaction that it may not have seen. Behind hundreds of
-- changes of any topic counting is as good.
select case when recent.has_changed then (select count(*) from {table} where {conditions}) else {known}::text::bigint end as total,
    case when recent.has_changed then pg_current_snapshot()::text end as snapshot
from (
    select count(*) > 300
        or coalesce(bool_or(topic = {topic} and not pg_visible_in_snapshot(xid, {older}::text::pg_snapshot)), false) as has_changed
    from (select xid, topic from {schema}.changes where xid >= {since}::text::xid8 order by xid limit 301) as latest
) as recent
