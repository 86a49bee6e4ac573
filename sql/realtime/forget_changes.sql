-- Deletes the oldest $1 changes, as far as the floor saw them and every reader has read them.
delete from {schema}.changes
where (xid, number) in (
    select c.xid, c.number
    from {schema}.changes c, {schema}.feed_floor f
    where c.xid < pg_snapshot_xmax(f.seen::pg_snapshot) and pg_visible_in_snapshot(c.xid, f.seen::pg_snapshot)
        and not exists (select from {schema}.feed_readers r where (r.xid, r.number) < (c.xid, c.number))
    order by c.xid, c.number
    limit $1
)
returning 1
