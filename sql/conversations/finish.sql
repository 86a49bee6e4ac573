-- As append.sql, for the last piece: the message takes all of them in, and is written no more.
with found as (
    select m.id, d.length, d.bytes
    from {schema}.messages m
    join {schema}.conversations c on c.id = m.conversation_id
    left join {schema}.message_drafts d on d.message_id = m.id
    where m.id = $3 and c.id = $1 and c.owner is not distinct from $2
), draft as (
    delete from {schema}.message_drafts d
    using found
    where d.message_id = found.id and found.length = $4 and found.bytes + octet_length($5) <= $6
    returning d.message_id as id
), pieces as (
    delete from {schema}.message_pieces p using draft where p.message_id = draft.id returning p.at, p.content
), folded as (
    update {schema}.messages m
    set content = m.content || coalesce((select string_agg(content, '' order by at) from pieces), '') || $5
    from draft
    where m.id = draft.id
    returning m.id, m.timestamp
), touched as (
    update {schema}.conversations c
    set updated_at = greatest(clock_timestamp(), c.updated_at + interval '1 microsecond')
    from folded
    where c.id = $1
    returning c.updated_at
), fed as (
    insert into {schema}.changes (number, topic, record, action, created, updated, data)
    select nextval('{schema}.change_numbers'), 'conversation:' || $1::uuid, id::text, 'append', folded.timestamp,
        touched.updated_at, jsonb_build_object('at', $4, 'content', $5, 'done', true)
    from folded, touched
)
select length, bytes, exists (select from folded) as is_added from found
