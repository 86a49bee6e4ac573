-- The chunks of a stream ($1) from an offset ($2) up to another one ($3), up to the one that exceeds $4 bytes of the stream, and up to $5 chunks.
with placed as (
    select next, sum(length) over (order by next) - length as before
    from (
        select next, case when byte_ends is null then next - greatest(first, $2) else octet_length(bytes) end as length
        from {schema}.stream_chunks where stream = $1 and next > $2 and first < $3 order by next limit $5
    ) as chunk
)
select c.first, c.next, c.append_ends, c.message_ends, c.byte_ends, c.bytes, (select generation from {schema}.streams where id = $1) as generation,
    (extract(epoch from c.at) * 1000000)::bigint as at_us
from placed
join {schema}.stream_chunks c on c.stream = $1 and c.next = placed.next
where placed.before <= $4
order by c.next
