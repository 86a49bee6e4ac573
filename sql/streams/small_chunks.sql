-- Locks the small chunks of a stream ($1) behind an offset ($2) that are old enough for no commit to be in doubt, up to $3. Fails where another node merges
-- them.
select first, next, append_ends, message_ends, byte_ends, bytes, batch,
    (extract(epoch from at) * 1000000)::bigint as at_us,
    array(select (extract(epoch from time) * 1000000)::bigint from unnest(append_times) with ordinality as times (time, place) order by place) as times_us
from {schema}.stream_chunks
where stream = $1 and next > $2 and at < now() - interval '{age}' and octet_length(bytes) < 32768
order by next
limit $3
for update nowait
