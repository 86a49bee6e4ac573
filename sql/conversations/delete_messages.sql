-- A lot of a conversation's messages. A conversation of millions goes in many short statements instead of a long one.
with mine as (
    select id from {schema}.conversations where id = $1 and owner is not distinct from $2
)
delete from {schema}.messages
where id in (
    select m.id from {schema}.messages m join mine on mine.id = m.conversation_id limit $3
)
returning 1
