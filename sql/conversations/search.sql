-- A page of the conversations whose title or one of whose messages matches $7 (search/query.rs), newest activity first: of the owner $1,
-- after the cursor ($2, $3), up to $4, with an offset of $5, up to the one that exceeds $6 bytes. {mine} is one of two conditions on $1, as
-- each has an index of its own. At least one row: `is_broad` reports
-- that the words only exclude, so that all documents would have to be read; nothing is searched then.
-- A search for no word finds nothing.
--
-- A frequent word is found among the newest conversations. So 500 of them are read first, up to 100 documents
-- each, and only if these do not fill the page the index is asked for all documents with the words. `is_sure` is false where
-- one of more documents may have the words in another.
with wanted as materialized (
    select asked.words, numnode(asked.words) > 0 and querytree(asked.words) = 'T' as is_broad,
        numnode(asked.words) > 0 and querytree(asked.words) <> 'T' as is_searched
    from (select to_tsquery('simple', $7) as words) as asked
), near as materialized (
    select newest.id, probe.is_sure
    from (
        select c.id
        from {schema}.conversations c
        where {mine} and (updated_at, c.id) < ($2, $3) and (select is_searched from wanted)
        order by updated_at desc, c.id desc
        limit 500
    ) as newest
    cross join lateral (
        select coalesce(bool_or(d.words @@ (select words from wanted)), false) as is_sure, count(*) as documents
        from (select words from {schema}.search_documents where conversation_id = newest.id limit 100) as d
    ) as probe
    where probe.is_sure or probe.documents = 100
    limit $4 + $5
), filled as materialized (
    select count(*) = $4 + $5 and bool_and(is_sure) as is_filled from near
), hits as (
    select id from near where (select is_filled from filled)
    union all
    select distinct d.conversation_id
    from wanted
    join {schema}.search_documents d
        on d.words @@ (wanted.words && ('''owner ' || coalesce($1::text, '') || '''')::tsquery)
    where (select is_searched from wanted) and (select is_filled from filled) is not true
), page as (
    select c.*
    from hits
    -- By their ids, one at a time: usually there are few, and their owner may have many.
    cross join lateral (
        select id, title, created_at, updated_at, metadata::text as metadata
        from {schema}.conversations
        where id = hits.id and {mine} and (updated_at, id) < ($2, $3)
        limit 1
    ) as c
    order by updated_at desc, id desc
    limit $4 offset $5
), sized as (
    select *, count(*) over () as found, octet_length(title) + octet_length(metadata) as bytes,
        sum(octet_length(title) + octet_length(metadata)) over (order by updated_at desc, id desc) as sum
    from page
)
select wanted.is_broad, shown.id, title, created_at, updated_at, metadata, coalesce(found, 0) as found
from wanted
left join (select * from sized where sum - bytes <= $6) as shown on true
order by updated_at desc, shown.id desc
