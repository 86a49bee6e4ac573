-- Moves the kept start of a stream ($1) to the first append that is neither older than its retention's age nor followed by as many bytes as are kept.
-- Of the chunks before it the first ones are looked at, up to $2, so that a long part goes in several steps. Returns the kept start and whether
-- it moved; no row: the stream is gone, or keeps all.
with kept as materialized (
    select id, tail, kept_from, retention_bytes,
        now() - retention_age_s * interval '1 second' as since
    from {schema}.streams
    where id = $1 and state = 0 and (retention_age_s is not null or retention_bytes is not null)
    for no key update
), chunk as materialized (
    select c.first, c.next, c.at, c.append_ends, c.append_times
    from kept
    cross join lateral (
        select first, next, at, append_ends, append_times
        from {schema}.stream_chunks
        where stream = kept.id and next > kept.kept_from
        order by next
        limit $2
    ) as c
), append as (
    select chunk.first + coalesce(previous.ends, 0) as start, chunk.first + ends.ends as next,
        coalesce(chunk.append_times[ends.place], chunk.at) as at
    from chunk
    cross join lateral unnest(coalesce(chunk.append_ends, array[(chunk.next - chunk.first)::integer])) with ordinality as ends (ends, place)
    left join lateral (select chunk.append_ends[ends.place - 1]) as previous (ends) on true
), first_kept as (
    -- The appends that were looked at may all be dropped: then it is their end.
    select coalesce(
        min(append.start) filter (
            where not coalesce(append.at < kept.since, false)
                and not coalesce(kept.tail - append.next >= kept.retention_bytes, false)),
        max(append.next)) as start
    from append, kept
), moved as (
    update {schema}.streams s set kept_from = first_kept.start
    from first_kept, kept
    where s.id = kept.id and first_kept.start > kept.kept_from
    returning s.kept_from
)
select coalesce((select kept_from from moved), kept.kept_from) as kept_from, exists (select from moved) as has_moved from kept
