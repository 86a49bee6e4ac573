-- The oldest $1 changes, as far as they are older than $2 seconds. They lie in the order of time, near enough.
delete from {schema}.changes
where (xid, number) in (
    select xid, number
    from (select xid, number, at from {schema}.changes order by xid, number limit $1) as oldest
    where at < now() - make_interval(secs => $2)
)
returning 1
