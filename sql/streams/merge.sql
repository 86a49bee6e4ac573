-- Replaces chunks of a stream ($1) by merged ones: those at $2 go, and those at $3 begin at $4, with the ends $5, $6 and $9, the times $7 as arrays in
-- text, and the bytes $8.
with removed as (
    delete from {schema}.stream_chunks where stream = $1 and next = any($2::bigint[])
)
update {schema}.stream_chunks c
set first = merged.first, append_ends = merged.append_ends::integer[], message_ends = merged.message_ends::integer[],
    byte_ends = merged.byte_ends::integer[],
    append_times = (
        select array_agg(timestamptz 'epoch' + us * interval '1 microsecond' order by place)
        from unnest(merged.times_us::bigint[]) with ordinality as times (us, place)
    ),
    bytes = merged.bytes
from unnest($3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::bytea[], $9::text[])
    as merged (next, first, append_ends, message_ends, times_us, bytes, byte_ends)
where c.stream = $1 and c.next = merged.next
