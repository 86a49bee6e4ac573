-- The first $4 messages of one import, in the order of their ids: of conversation $1, with ids from $2 to $3.
select m.id
from {schema}.messages m
where m.conversation_id = $1 and m.id between $2 and $3
order by m.id
limit $4
