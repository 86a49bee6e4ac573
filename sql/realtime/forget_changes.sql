-- Deletes the oldest $1 changes, as far as they are older than $2 seconds at $3 and every reader has read them. They are nearly in the
-- order of time. Subscribers learn from the floor that something is gone.
with gone as (
    delete from {schema}.changes
    where (xid, number) in (
        select xid, number
        from (select xid, number, at from {schema}.changes order by xid, number limit $1) as oldest
        where at < $3 - make_interval(secs => $2)
            and not exists (select from {schema}.feed_readers r where (r.xid, r.number) < (oldest.xid, oldest.number))
    )
    returning xid, number
), floor as (
    update {schema}.feed_floor f
    set xid = last.xid, number = last.number
    from (select xid, number from gone order by xid desc, number desc limit 1) as last
    where (last.xid, last.number) > (f.xid, f.number)
)
select 1 from gone
