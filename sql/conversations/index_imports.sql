-- The first $6 messages of imports, in the order of the imports and of their ids. $1 to $3: each import's conversation, and the first and
-- last id that it added; $4 and $5: ranges that cover all these ids, and no id twice. One part of a file may hold as many imports as
-- lines, with overlapping ids, so the ranges are read once instead of once per import.
with import as materialized (
    select * from unnest($1::uuid[], $2::uuid[], $3::uuid[]) with ordinality as import (conversation_id, first, last, nth)
)
select import.nth - 1 as nth, found.id
from unnest($4::uuid[], $5::uuid[]) as range (first, last)
cross join lateral (
    select m.id, m.conversation_id
    from {schema}.messages m
    where m.id between range.first and range.last
    -- Forces a read by ids: an index by conversation would be read once for each import.
    offset 0
) as found
join import on import.conversation_id = found.conversation_id and found.id between import.first and import.last
order by import.nth, found.id
limit $6
