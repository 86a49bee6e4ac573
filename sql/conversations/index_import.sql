-- As index_documents.sql, for up to $5 of the messages that an import added: of conversation $1, with ids from $2 to $3,
-- behind $4. The last of them, and how many there were.
with page as (
    select m.id, m.conversation_id, m.content, c.owner
    from {schema}.messages m
    join {schema}.conversations c on c.id = m.conversation_id
    where m.conversation_id = $1 and m.id between $2 and $3 and m.id > $4
    order by m.id
    limit $5
), indexed as (
    insert into {schema}.search_documents (id, conversation_id, words)
    select id, conversation_id,
        to_tsvector('simple', left(content, 100000)) || array_to_tsvector(array['owner ' || coalesce(owner::text, '')])
    from page
    on conflict (id) do update set words = excluded.words
)
select (select id from page order by id desc limit 1) as last, (select count(*) from page) as found
