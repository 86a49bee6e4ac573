-- Deletes the oldest $1 changes, as far as the floor saw them and every reader has read them. $2: where readers may not run, a pattern of
-- the topics that they want: others do not wait for them, or the feed would grow until they run again.
delete from {schema}.changes
where (xid, number) in (
    select c.xid, c.number
    from {schema}.changes c, {schema}.feed_floor f
    where c.xid < pg_snapshot_xmax(f.seen::pg_snapshot) and pg_visible_in_snapshot(c.xid, f.seen::pg_snapshot)
        and (
            c.topic not like $2
            or not exists (
                select from {schema}.feed_readers r where not pg_visible_in_snapshot(c.xid, r.seen::pg_snapshot)
            )
        )
    order by c.xid, c.number
    limit $1
)
returning 1
