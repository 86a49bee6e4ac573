-- The words of messages and titles ($1, no id twice). What is gone by now has none. The first 100,000 characters count: a tsvector has
-- no room for all the words of the longest messages. Each is looked up by its id: for a large lot a join would read all conversations.
insert into {schema}.search_documents (id, conversation_id, words)
select found.id, found.conversation_id,
    to_tsvector('simple', left(found.content, 100000)) || array_to_tsvector(array['owner ' || coalesce(found.owner::text, '')])
from (
    select asked.id, m.conversation_id, m.content, c.owner
    from unnest($1::uuid[]) as asked (id)
    cross join lateral (
        select m.conversation_id, m.content from {schema}.messages m where m.id = asked.id limit 1
    ) as m
    cross join lateral (
        select c.owner from {schema}.conversations c where c.id = m.conversation_id limit 1
    ) as c
    union all
    select asked.id, asked.id, c.title, c.owner
    from unnest($1::uuid[]) as asked (id)
    cross join lateral (
        select c.title, c.owner from {schema}.conversations c where c.id = asked.id limit 1
    ) as c
) as found
order by found.id
on conflict (id) do update set words = excluded.words
