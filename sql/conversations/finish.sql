-- As append.sql, for last pieces: each message takes in all of its pieces and is complete.
with {pieces}, draft as (
    delete from {schema}.message_drafts d
    using found
    where d.message_id = any(array(select message_id from found))
        and d.message_id = found.message_id and found.length = found.at
        and found.bytes + octet_length(found.content) <= $6
    returning found.place, found.conversation_id, found.message_id, found.at, found.content
), pieces as (
    delete from {schema}.message_pieces p
    using draft
    where p.message_id = any(array(select message_id from draft)) and p.message_id = draft.message_id
    returning p.message_id, p.at, p.content
), texts as (
    select message_id, string_agg(content, '' order by at) as content from pieces group by message_id
), ended as materialized (
    select draft.*, coalesce(texts.content, '') || draft.content as rest
    from draft
    full join texts on texts.message_id = draft.message_id
), folded as (
    update {schema}.messages m
    set content = m.content || ended.rest
    from ended
    where m.id = ended.message_id
    returning ended.*, m.timestamp
), touched as (
    update {schema}.conversations c
    set updated_at = greatest(clock_timestamp(), c.updated_at + interval '1 microsecond')
    from (select distinct conversation_id as id from folded) as folded
    where c.id = folded.id
    returning c.id, c.updated_at
), fed as (
    insert into {schema}.changes (number, topic, record, action, created, updated, data)
    select nextval('{schema}.change_numbers'), 'conversation:' || conversation_id, message_id::text, 'append', timestamp,
        updated_at, jsonb_build_object('at', at, 'content', content, 'done', true)
    from (
        select folded.*, touched.updated_at
        from folded full join touched on touched.id = folded.conversation_id
        where coalesce(touched.updated_at, 'infinity') < 'infinity'
        order by place
    ) as folded
    returning 1
)
select found.place::integer as place, found.length, found.bytes, found.whole, folded.place is not null as is_added
from found
full join folded on folded.place = found.place
where (
    select {schema}.expect_rows('message_drafts', count(*), (select count(*) from draft))
    from found
    where length = at and bytes + octet_length(content) <= $6
) and (
    select {schema}.expect_rows('message_pieces', count(*), (select count(*) from pieces))
    from {schema}.message_pieces
    where message_id = any(array(select message_id from draft))
) and (
    select {schema}.expect_rows('messages', count(*), (select count(*) from folded))
        and {schema}.expect_rows('conversations', count(distinct conversation_id), (select count(*) from touched))
        and {schema}.expect_rows('changes', count(*), (select count(*) from fed))
    from ended
)
