-- What a batch ($2) whose commit had no answer has stored in streams ($1): it is among their last chunks. The streams are locked before, so the
-- batch has ended.
select c.stream, c.first
from unnest($1::bigint[]) as wanted (id)
cross join lateral (
    select stream, first, batch from {schema}.stream_chunks where stream = wanted.id order by next desc limit 1000
) as c
where c.batch = $2
