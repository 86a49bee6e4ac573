-- Removes chunks of a stream ($1) before its kept start, up to $2. Those that a living fork shares stay.
delete from {schema}.stream_chunks c
using (
    select c.next
    from {schema}.streams s
    join {schema}.stream_chunks c on c.stream = s.id
    where s.id = $1 and c.next <= s.kept_from
        and not exists (
            select from {schema}.streams f
            where f.source = $1 and f.state < 2 and f.fork_end > c.first and f.kept_from < c.next
        )
    order by c.next
    limit $2
) as dropped
where c.stream = $1 and c.next = dropped.next
returning 1
