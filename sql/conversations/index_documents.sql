-- The words of messages and titles ($1). What is gone by now has none. The first 100,000 characters count: a tsvector has
-- no room for all the words of the longest messages.
insert into {schema}.search_documents (id, conversation_id, words)
select found.id, found.conversation_id,
    to_tsvector('simple', left(found.content, 100000)) || array_to_tsvector(array['owner ' || coalesce(found.owner::text, '')])
from (
    select m.id, m.conversation_id, m.content, c.owner
    from {schema}.messages m
    join {schema}.conversations c on c.id = m.conversation_id
    where m.id = any($1)
    union all
    select c.id, c.id, c.title, c.owner from {schema}.conversations c where c.id = any($1)
) as found
order by found.id
on conflict (id) do update set words = excluded.words
