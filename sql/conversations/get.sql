-- Conversations, for several requests. $1 and $2: their ids and required owners.
select asked.place::integer as place, found.*
from unnest($1::uuid[], $2::uuid[]) with ordinality as asked (id, owner, place)
cross join lateral (
    select c.id, c.title, c.created_at, c.updated_at, c.metadata::text as metadata
    from {schema}.conversations c
    where c.id = asked.id and c.owner is not distinct from asked.owner
    limit 1
) as found
