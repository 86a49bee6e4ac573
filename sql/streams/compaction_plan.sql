-- What a compaction of a stream ($1) would go through: from `first` on, before which forks share its bytes or nothing is kept, up to the end of the
-- chunks that were committed before a time ($3, microseconds of Unix time). Of those behind $2, up to $4 are looked at. No row: the stream is gone.
select s.compacted_to, s.compacted_bytes,
    greatest(
        s.kept_from, coalesce(s.fork_end, 0),
        coalesce((select max(f.fork_end) from {schema}.streams f where f.source = s.id and f.state < 2), 0)
    ) as first,
    (
        select max(next)
        from (
            select next, at from {schema}.stream_chunks
            where stream = s.id and next > greatest($2, s.compacted_to)
            order by next
            limit $4
        ) as ahead
        where at < timestamptz 'epoch' + $3 * interval '1 microsecond'
    ) as old_to
from {schema}.streams s
where s.id = $1 and s.state = 0 and s.compacts_by_key
