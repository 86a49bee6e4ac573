-- Whether chunks of a locked stream ($1) are as they were read: their next offsets ($3), first ones ($4) and lengths ($5); and no fork shares what is behind
-- an offset ($2). Locks the chunks, which are merged by others.
with locked as (
    select next, first, octet_length(bytes) as length
    from {schema}.stream_chunks where stream = $1 and next = any($3)
    order by next
    for update
)
select not exists (select from {schema}.streams f where f.source = $1 and f.state < 2 and f.fork_end > $2)
    and (
        select count(*)
        from locked join unnest($3::bigint[], $4::bigint[], $5::bigint[]) as known (next, first, length) on known.next = locked.next
        where locked.first = known.first and locked.length = known.length
    ) = cardinality($3) as is_same
