-- The last chunks of a stream ($1) behind an offset ($2) that end at or before another one ($3), up to the one that exceeds $4 bytes, and up to $5.
with placed as (
    select next, sum(length) over (order by next desc) - length as after
    from (
        select next, octet_length(bytes) as length
        from {schema}.stream_chunks where stream = $1 and next > $2 and next <= $3
        order by next desc
        limit $5
    ) as chunk
)
select c.first, c.next, c.append_ends, c.message_ends, c.byte_ends, c.bytes,
    (extract(epoch from c.at) * 1000000)::bigint as at_us,
    array(select (extract(epoch from time) * 1000000)::bigint from unnest(c.append_times) with ordinality as times (time, place) order by place) as times_us
from placed
join {schema}.stream_chunks c on c.stream = $1 and c.next = placed.next
where placed.after <= $4
order by c.next
