-- The chunks of a stream ($1) from an offset ($2) up to another one ($3), up to the one that exceeds $4 bytes of the stream, and up to $5 chunks.
with placed as (
    select next, sum(next - greatest(first, $2)) over (order by next) - (next - greatest(first, $2)) as before
    from (
        select first, next from {schema}.stream_chunks where stream = $1 and next > $2 and first < $3 order by next limit $5
    ) as chunk
)
select c.first, c.next, c.append_ends, c.message_ends, c.bytes,
    (extract(epoch from c.at) * 1000000)::bigint as at_us
from placed
join {schema}.stream_chunks c on c.stream = $1 and c.next = placed.next
where placed.before <= $4
order by c.next
