-- Conversations, for several who ask. $1 and $2: of each its id, and whose it has to be.
select asked.place::integer as place, c.id, c.title, c.created_at, c.updated_at, c.metadata::text as metadata
from unnest($1::uuid[], $2::uuid[]) with ordinality as asked (id, owner, place)
join {schema}.conversations c on c.id = asked.id and c.owner is not distinct from asked.owner
