-- The words of messages and titles ($1, no id twice). Deleted ones have none. Each is looked up by its id: for a large batch a join would
-- read all conversations.
--
-- The first 100,000 characters count, and of a text that takes more than 250,000 bytes so far the first 62,500: a tsvector holds no
-- more. The text is cut into parts as in search/query.rs: {spaced} has a space for each ASCII punctuation, and each
-- character of {unspaced}, scripts without spaces, is written twice, so that a run of them becomes pairs. (E'' and chr, as a role
-- may have preset what a backslash in a string means. `offset 0`, or each mention would be computed again.)
insert into {schema}.search_documents (id, conversation_id, words)
select found.id, found.conversation_id,
    to_tsvector('simple', case
        when octet_length(spaced.content) = length(spaced.content) or spaced.content !~ '[{unspaced}]' then spaced.content
        else regexp_replace(
            regexp_replace(spaced.content, '[{unspaced}]+', E' \\& ', 'g'), '[{unspaced}]', E'\\& \\&', 'g'
        )
    end) || array_to_tsvector(array['owner ' || coalesce(found.owner::text, '')])
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
cross join lateral (
    select case when octet_length(head.content) > 250000 then left(head.content, 62500) else head.content end as content
    from (select left(found.content, 100000) as content offset 0) as head
    offset 0
) as cut
cross join lateral (select {spaced} as content offset 0) as spaced
order by found.id
on conflict (id) do update set words = excluded.words
