-- Up to $4 of a user's ($1) conversations, in the order of their index, after a cursor ($2, $3).
select id, updated_at
from {schema}.conversations
where owner = $1 and (updated_at, id) < ($2, $3)
order by updated_at desc, id desc
limit $4
