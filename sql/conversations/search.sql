-- As list.sql, of the conversations whose title or one of whose messages has the words of $7. A search for no word finds
-- nothing.
with wanted as (
    select websearch_to_tsquery('simple', $7) as words
), hits as (
    select distinct d.conversation_id as id
    from {schema}.search_documents d, wanted
    where numnode(wanted.words) > 0
        and d.words @@ (wanted.words && ('''owner ' || coalesce($1::text, '') || '''')::tsquery)
), page as (
    select c.id, title, created_at, updated_at, metadata::text as metadata
    from {schema}.conversations c
    join hits on hits.id = c.id
    where c.owner is not distinct from $1 and (updated_at, c.id) < ($2, $3)
    order by updated_at desc, c.id desc
    limit $4 offset $5
), sized as (
    select *, count(*) over () as found, octet_length(title) + octet_length(metadata) as bytes,
        sum(octet_length(title) + octet_length(metadata)) over (order by updated_at desc, id desc) as sum
    from page
)
select id, title, created_at, updated_at, metadata, found
from sized
where sum - bytes <= $6
order by updated_at desc, id desc
